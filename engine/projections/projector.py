"""The projector: one task per part of a projection, which keeps its tables at the end of the log.

Rules: it starts at its checkpoint, takes events in position order without a hole, and writes rows
and checkpoint in one transaction; so every event counts once. While a batch is written, the next is
folded on what it left in memory; while it catches up with the log, several may wait to be written,
in one transaction where they can. If one is not written, it and all that follow are folded again. A
batch from the bus is used only if it goes on exactly where the one before ends; otherwise the feed
is read. Events that the projection does not handle are passed over: the checkpoint moves over them.
A failure that may pass is tried again, ever more slowly: a few times where an event may be to
blame, and until it passes where the store has no room, is locked or out of reach. What it cannot
fold is parked, where the projection says so, or stops this projector alone, visibly, with
everything before it written; `resume` tries again. It never skips an event unless somebody decided
so, and never makes a writer wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from ..errors import RowRefused, StoreFailed, StoreRefused
from ..limits import Limits
from ..log.bus import Subscription
from ..log.follower import Follower
from ..log.reader import FeedSource, LogReader
from ..model.projection import ProjectionDefinition
from ..model.stored import StoredEvent
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import traceback_text
from ..statistics import Histogram, ProjectionFailure, ProjectorState, ProjectorStatistics
from ..stores.contract.views import Changes, Checkpoint, Parked, Part, what_of
from ..telemetry import Observer, ProjectionBegan
from .arrivals import Arrivals
from .back_off import BackOff
from .calls import Calls
from .parking import Parking
from .targets.courier import Abandoned
from .targets.rows import Prepared, Target
from .writes import NotTaken, Writes

__all__ = ["ENDED", "Projector"]

T = TypeVar("T")

Failed: TypeAlias = Callable[[Part, ProjectionFailure | None], Awaitable[None]]
ENDED: Final = frozenset(("stopped", "paused", "closed"))
"""States in which a projector gets no further by itself."""
NARROW: Final = 8
"""Into so many batches one is divided whose rows the database refuses."""
GIVE_WAY: Final = 4.0
REST_SECONDS_MAX: Final = 0.5
"""How long a build beside the one that serves rests after a batch while commands are at work, in
times that the batch took: they share one interpreter. A long one has waited for a disk."""


class _Poisoned(Exception):
    """An event could not be folded; its cause is in `__cause__`."""

    def __init__(self, stored: StoredEvent) -> None:
        super().__init__(stored.position)
        self.stored = stored


class Projector:
    """Keeps one part of a projection: a slice of one build."""

    def __init__(
        self,
        part: Part,
        work: Target,
        *,
        store: FeedSource,
        subscription: Subscription,
        limits: Limits,
        ports: Ports,
        logger: logging.Logger,
        end_of_log: Callable[[], int] | None = None,
        watch: Observer | None = None,
        written: Callable[[Part, Changes | None], None] | None = None,
        moved: Callable[[], None] | None = None,
        failed: Failed | None = None,
        paused: bool = False,
        is_busy: Callable[[], bool] | None = None,
    ) -> None:
        """Take what to keep and where it goes.

        `written` is called with each transaction after it is visible, and with None where anything
        may have changed; `moved` whenever position or state has changed; `failed` when a failure
        has stopped it, and with None when it goes on.
        """
        self.part = part
        self.failure: ProjectionFailure | None = None
        """Why it is stopped, if it is."""
        self._work = work
        self._follower = Follower(subscription, LogReader(store, limits))
        self._store = store
        self._subscription = subscription
        self._limits = limits
        self._ports = ports
        self._logger = logger
        self._end_of_log = end_of_log
        self._watch = watch
        self._written = written
        self._moved = moved
        self._is_busy = is_busy
        self.gives_way = False
        """Whether it rests between its batches while commands are at work: a build nobody asks."""
        self._failed = failed
        self._failure_told: ProjectionFailure | None = None
        self._state: ProjectorState = "catching-up"
        """Also where it is to rest from the beginning, until it knows where the views stand."""
        self._checkpoint = Checkpoint()
        """Where the views stand."""
        self._ahead = Checkpoint()
        """Where they will, when what is on its way is written."""
        self._writes = Writes(subscription.wake)
        """The batches on their way; the next one is folded meanwhile."""
        self._events_max = limits.projector_events
        """Of one batch: fewer while an event is looked for whose rows the database refuses."""
        self._suspect = 0
        """Up to this position."""
        self._opened = False
        self._stopping = False
        self._paused = paused
        self._resumed = Bell()
        self._calls = Calls(self._interrupt)
        """What others want to be done between two batches."""
        self._sure = False
        """Whether checkpoint and memory are those of the views: not after a failure, for nobody
        knows what it has left in memory, and what of it is written."""
        self._arrivals = Arrivals()
        self.back_off = BackOff(part.definition.name, logger)
        self._pages = 0
        self._oldest: int | None = None
        """When the first event that is not written yet was recorded."""
        self._batch_seconds = Histogram.of_seconds()
        self._batch_events = Histogram.of_sizes()

    @property
    def definition(self) -> ProjectionDefinition:
        """What it belongs to."""
        return self.part.definition

    @property
    def state(self) -> ProjectorState:
        """See `ProjectorState`; "stopped" has a `failure`, and needs `resume`."""
        at_work = self._state in ("catching-up", "live")
        return "retrying" if at_work and self.retrying is not None else self._state

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        return self._checkpoint.position

    @property
    def retrying(self) -> ProjectionFailure | None:
        """What it tries again, if it does."""
        return self.back_off.failure

    @property
    def subscription(self) -> Subscription:
        """Where it hears of new events."""
        return self._subscription

    @property
    def parking(self) -> Parking:
        """What is parked; to be looked at only."""
        return self._work.parking

    def statistics(self) -> ProjectorStatistics:
        """Give the numbers as they are now; called from any thread."""
        lag = None if self._end_of_log is None else max(0, self._end_of_log() - self.position)
        return ProjectorStatistics(
            name=self.definition.name,
            state=self.state,
            position=self.position,
            lag_events=lag,
            lag_seconds=0.0 if lag == 0 else self._age_of_oldest(),
            events=self._work.events,
            transactions=self._writes.transactions,
            batch_seconds=self._batch_seconds.copy(),
            batch_events=self._batch_events.copy(),
            pages=self._pages,
            fetches=self._work.fetches,
            rows=self._work.rows,
            bus=self._subscription.statistics(),
            failure=self.failure,
            retries=self.back_off.retries,
            retrying=self.retrying,
            parked=self._work.parking.count,
            reactions=self._work.reactions,
        )

    def _age_of_oldest(self) -> float | None:
        """Give the age in seconds of the first event that is not in the views, if it was seen."""
        oldest = self._oldest or self._subscription.oldest
        return None if oldest is None else max(0, self._ports.clock.now() - oldest) / 1e6

    async def run(self) -> None:
        """Follow the log until `stop`."""
        try:
            while not self._stopping:
                try:
                    await self._go_on()
                except Exception as error:
                    self._sure = False
                    await self._writes.give_up()
                    if self._narrow(error) or await self._try_again(error):
                        continue
                    self._fail(error)
                    await self._tell_failure()
                await self._rest()
        finally:
            self._writes.cancel()
            self._follower.leave()
            self._enter("closed")
            self._calls.refuse("this projector has ended: nothing was done")

    def stop(self) -> None:
        """Let `run` return when the current batch is written."""
        self._stopping = True
        self._work.stop()
        self._interrupt()

    def pause(self) -> None:
        """Rest when the current batch is written, until `resume`."""
        self._paused = True
        self._interrupt()

    def _interrupt(self) -> None:
        """Let it look at what is to be done, wherever it waits."""
        self._subscription.wake()
        self._arrivals.hurry()
        self._resumed.set()

    def resume(self) -> None:
        """Go on from the checkpoint; nothing happens if it is neither stopped nor paused."""
        self._paused = False
        if self._state in ("stopped", "paused"):
            self.failure = None
            self.back_off.forget()
            self._work.patience = True
            self._work.refused.clear()
            self._enter("catching-up")
        self._resumed.set()

    def go_on(self) -> None:
        """Go on from a rest; what a failure had stopped before it stays stopped."""
        if self.failure is None:
            self.resume()
            return
        self._paused = False
        self._enter("stopped")

    def skip(self, stored: StoredEvent) -> None:
        """Pass over an event, as somebody decided; one that is stopped by it goes on.

        To be asked for, so that no batch in hand has begun with it.
        """
        self._work.skipped[stored.position] = stored.checksum
        failure = self.failure
        if failure is not None and failure.event and failure.position == stored.position:
            if self._state == "stopped":
                self.resume()
            else:
                self.failure = None

    async def wait_for(self, position: int, deadline: float | None) -> bool:
        """Return whether queries see the event at this position, as soon as that is known.

        It is known when they do, when the projector is stopped, paused or closed below it, and at
        the deadline, by the event loop's clock.
        """
        if self.position >= position:
            return True
        if self._state in ENDED:
            return False
        return await self._arrivals.wait(position, deadline)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call between two batches, in whatever state it is; give what it gives."""
        return await self._calls.ask(call)

    async def _go_on(self) -> None:
        """Follow the log, or only look where the views stand, where it is to rest."""
        if not self._paused:
            await self._open()
            await self._follow()
        elif not self._sure:
            await self.reopen()

    # -- following the log --------------------------------------------------------------------

    async def _open(self) -> None:
        """Start from what the views say, with nothing in memory."""
        self._enter("catching-up")
        self._follower.begin()
        await self.reopen()
        await self._tell_failure()

    async def _follow(self) -> None:
        while True:
            events = await self._next()
            if not events:
                await self._writes.settle()
                if self._stopping or self._paused:
                    return
                await self._run_calls()
                if not self._sure:
                    return
                continue
            assert events[0].position == self._ahead.position + 1, "events come without a hole"
            done = 0
            while done < len(events):
                self._oldest = self._oldest or events[done].recorded
                begin = self._ports.stopwatch()
                done += await self._project(events[done : done + self._batch_max()])
                if self.gives_way and self._is_busy is not None and self._is_busy():
                    await self._give_way(self._ports.stopwatch() - begin)
                if self._stopping:
                    await self._writes.settle()
                    return

    async def _next(self) -> Sequence[StoredEvent]:
        """Give the events after the checkpoint, from the bus or the feed.

        Gives nothing where something else is to be done first.
        """
        bus = self._subscription
        while not (self._stopping or self._paused or self._calls):
            while self._writes.first_is_done:
                await self._writes.settle(len(self._writes) - 1)
            if bus.first is not None and self._state == "live":
                await self._arrivals.let_gather(self._limits.projector_gather_ms / 1e3)
            events = self._follower.take(self._ahead.position, self._limits.projector_events)
            if events:
                self._arrivals.took(len(events))
                self._enter("live")
                return events
            if self._follower.is_at_end:
                if not self._writes:
                    self.back_off.over(self.position)
                self._enter("live")
                await bus.wait()
                continue
            self._pages += 1
            page = await self._follower.read(self._ahead.position)
            if page:
                self._enter("catching-up")
                return page
        return ()

    async def _give_way(self, took: float) -> None:
        """Let commands have the interpreter, until somebody wants something of this projector."""
        self._resumed.clear()
        if not (self._stopping or self._paused or self._calls):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._resumed.wait(), min(GIVE_WAY * took, REST_SECONDS_MAX))

    async def _run_calls(self) -> None:
        while self._calls and not self._stopping:
            await self._calls.run_next()

    # -- one batch ----------------------------------------------------------------------------

    async def _project(self, events: Sequence[StoredEvent]) -> int:
        """Prepare a batch, or as much of it as fits in memory, and let it be written.

        Gives how many events. It is folded on `_ahead`, where memory stands: the checkpoint is up
        to `_writes_left` batches behind, and `reopen` goes back to it where a write fails.
        """
        watch, begin, name = self._watch, self._ports.stopwatch(), self.definition.name
        seen = None if watch is None else watch.begin(ProjectionBegan(name, tuple(events)))
        try:
            prepared = await self._work.prepare(events, self._ahead)
            await self._writes.settle(self._writes_left())
        except BaseException as error:
            if watch is not None:
                watch.end(seen, error)
            raise
        if (changes := prepared.changes) is not None:
            self._ahead = changes.after
            note = partial(self._note, prepared, changes, seen, begin)
            # Asked for here, so that the order of the batches is that of their writes.
            write = self._work.write(changes)
            self._writes.add(changes, write, note, partial(self._not_written, seen))
        elif watch is not None:
            watch.end(seen, prepared.poison)
        if prepared.poison is not None:
            await self._writes.settle()  # so that the checkpoint is right before the poison
            raise _Poisoned(events[prepared.count]) from prepared.poison
        assert prepared.count, "a batch gets on by one event at least, or fails"
        return prepared.count

    def _batch_max(self) -> int:
        """Give how many events the next batch has at most."""
        if self._suspect and self._ahead.position >= self._suspect:
            self._suspect, self._events_max = 0, self._limits.projector_events
            self._work.refused.clear()
        return self._events_max

    def _narrow(self, error: Exception) -> bool:
        """Fold fewer at once where the database has refused rows, until one event is to blame.

        That one fails from then on as if its handler had. Tells whether there is more to do.
        """
        if not isinstance(error, NotTaken):
            return False
        count = error.last - error.first + 1
        self._suspect, self._events_max = error.last, max(1, count // NARROW)
        if count == 1:
            assert isinstance(error.__cause__, RowRefused)
            self._work.refused[error.first] = error.__cause__
        return True

    def _writes_left(self) -> int:
        """Give how many batches may be on their way when another is.

        One who follows has none: what waits meanwhile on the bus becomes a larger batch.
        """
        catching_up = self._state == "catching-up" and not (self.gives_way or self._suspect)
        return self._work.writes_max - 1 if catching_up else 0

    def _note(self, prepared: Prepared, changes: Changes, seen: Any, begin: float) -> None:
        """Go on behind a batch that is written."""
        self._checkpoint = changes.after
        self._oldest = None
        self.back_off.over(self.position)
        self._work.patience = True
        seconds = self._ports.stopwatch() - begin
        self._batch_seconds.record(seconds)
        self._batch_events.record(prepared.count)
        if self._watch is not None:
            facts = {"projected_events": prepared.count, "position": self.position}
            self._watch.end(seen, prepared.poison, seconds=seconds, **facts)
        self.parking.tell(changes.parked, self.definition.name, self._logger)
        self._tell_written(changes)

    def _not_written(self, seen: Any, error: BaseException) -> None:
        if self._watch is not None:
            self._watch.end(seen, error)

    def _tell_written(self, changes: Changes) -> None:
        self._answer_waiting()
        if self._written is not None:
            self._written(self.part, changes)
        if self._moved is not None:
            self._moved()

    async def reopen(self) -> None:
        """Stand where the views say, with nothing in memory; to be asked for."""
        assert not self._writes, "what is in memory is on its way, or given up"
        self._checkpoint = self._ahead = await self._work.open()
        self._sure = True
        self._answer_waiting()
        if self._opened:
            # A write that failed may be seen all the same; a reset has emptied all.
            self.announce()
        self._opened = True

    async def make_sure(self) -> None:
        """Forget what a failed write left in memory: it is not written now. To be asked for."""
        if not self._sure:
            await self.reopen()

    def announce(self) -> None:
        """Say that anything that queries see of it may have changed."""
        if self._written is not None:
            self._written(self.part, None)

    async def read(self, position: int) -> StoredEvent:
        """Give an event of the log. Raises Damaged."""
        page = await self._store.read_feed(position - 1, events_max=1, bytes_max=1)
        assert page, "what a projector has met is in the log, which has no holes"
        return page[0]

    async def release(self, parked: Parked) -> Exception | None:
        """Try a parked event again; give what it raised, if it did. To be asked for."""
        await self.make_sure()
        stored = await self.read(parked.position)
        self._sure = False
        error, changes = await self._work.release(parked, stored, self._checkpoint)
        self._sure = True
        self._tell_written(changes)
        return error

    # -- state --------------------------------------------------------------------------------

    def _enter(self, state: ProjectorState) -> None:
        if state == self._state:
            return
        self._state = state
        if state in ENDED:
            self._answer_waiting()
        if self._moved is not None:
            self._moved()

    def _answer_waiting(self) -> None:
        self._arrivals.answer(self.position, ended=self._state in ENDED)

    async def _rest(self) -> None:
        """Wait until somebody resumes or stops it, if it is to; do meanwhile what is asked."""
        while (self._paused or self._state == "stopped") and not self._stopping:
            # What is in memory is thrown away at `resume`; what waits on the bus is in the feed.
            self._follower.leave()
            if self._paused:
                self._enter("paused")
            await self._run_calls()
            await self._resumed.wait()
            self._resumed.clear()

    async def _try_again(self, error: Exception) -> bool:
        """Wait a little after a failure that may pass; tell whether to try again."""
        is_poisoned = isinstance(error, _Poisoned)
        cause = error.__cause__ if is_poisoned else error
        assert isinstance(cause, Exception)
        if not self._work.may_pass(cause):
            return False
        if self._stopping or isinstance(cause, Abandoned):
            # To end, and to try nothing before. Whoever tells it to may wait for what is asked.
            await self._wait(None)
            return True
        most, goes_on = self._work.retries, not is_poisoned and self.back_off.goes_on(cause)
        self.back_off.count(is_waited_for=goes_on)
        if self.back_off.counted > most and not goes_on:
            if is_poisoned and self._work.patience:
                # Once more: now it is parked, where it may be, or stops the projector.
                self._work.patience = False
                return True
            return False
        seconds = self.back_off.again(cause, self.position, told_max=most)
        self._enter("paused" if self._paused else "retrying")
        self._follower.leave()
        await self._wait(asyncio.get_running_loop().time() + seconds)
        return True

    async def _wait(self, until: float | None) -> None:
        """Wait until a moment, if there is one, or until somebody wants something; do that."""
        was_paused = self._paused
        while self._paused == was_paused and not self._stopping:
            await self._run_calls()
            try:
                async with asyncio.timeout_at(until):
                    await self._resumed.wait()
            except TimeoutError:
                return
            self._resumed.clear()

    def _fail(self, error: Exception) -> None:
        """Stop and say so, until it is resumed."""
        self._work.patience = True
        self.back_off.forget()
        if isinstance(error, _Poisoned):
            stored, cause = error.stored, error.__cause__
            self._oldest = stored.recorded
            assert isinstance(cause, Exception)
            what = what_of(stored.name, stored.event_version)
            failure = ProjectionFailure(stored.position, what, stored.stream, traceback_text(cause))
        else:
            cause = error
            failure = ProjectionFailure(self.position, "", "", traceback_text(error))
        self.failure = failure
        self._enter("stopped")
        self._logger.error(
            "projection %s stopped at position %d (%s): its views stay at %d until it is mended "
            "and resumed; everything else goes on\n%s",
            self.definition.name,
            failure.position,
            f"{failure.event} of {failure.stream}" if failure.event else "no event is to blame",
            self.position,
            traceback_text(cause, messages=shows_messages(self._logger)),
        )

    async def _tell_failure(self) -> None:
        """Tell others why it is stopped, or that it goes on, as far as that can be done."""
        failure = self.failure
        if self._failed is None or failure is self._failure_told:
            return
        try:
            await self._failed(self.part, failure)
            self._failure_told = failure
        except (StoreFailed, StoreRefused) as error:
            # It is in the log of this process, and what is to be told may be the cause itself.
            self._logger.warning("the state of a projection could not be noted: %s", error)
