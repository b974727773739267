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
from typing import Final, TypeVar

from ..limits import Limits
from ..log.bus import Subscription
from ..log.follower import Follower
from ..log.reader import FeedSource, LogReader
from ..model.projection import ProjectionDefinition
from ..model.stored import StoredEvent
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..statistics import ProjectionFailure, ProjectorState, ProjectorStatistics
from ..stores.contract.views import Changes, Checkpoint, Parked, Part
from ..telemetry import Observer
from .arrivals import Arrivals
from .back_off import BackOff
from .calls import Calls
from .failures import Failed, Failures, Poisoned
from .meter import Measured, Meter
from .narrowing import Narrowing
from .targets.courier import Abandoned
from .targets.rows import Prepared, Target
from .writes import Writes

__all__ = ["ENDED", "Projector"]

T = TypeVar("T")

ENDED: Final = frozenset(("stopped", "paused", "closed"))
"""States in which a projector gets no further by itself."""
GIVE_WAY: Final = 4.0
REST_SECONDS_MAX: Final = 0.5
"""How long a build beside the one that serves rests after a batch while commands are at work, in
times that the batch took: they share one interpreter. A long one has waited for a disk."""


def _to_nobody(*_: object) -> None:
    """Tell nobody."""


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
        end_of_log: Callable[[], int],
        failed: Failed,
        watch: Observer | None = None,
        written: Callable[[Part, Changes | None], None] = _to_nobody,
        moved: Callable[[], None] = _to_nobody,
        paused: bool = False,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what to keep and where it goes.

        `written` is called with each transaction after it is visible, and with None where anything
        may have changed; `moved` whenever position or state has changed; `failed` when a failure
        has stopped it, and with None when it goes on.
        """
        self.part = part
        self._work = work
        self.parking = work.parking
        """What is parked; to be looked at only."""
        self._follower = Follower(subscription, LogReader(store, limits))
        self._store = store
        self.subscription = subscription
        """Where it hears of new events."""
        self._limits = limits
        self._ports = ports
        self._logger = logger
        self._end_of_log = end_of_log
        self._written = written
        self._moved = moved
        self._is_busy = is_busy
        self.gives_way = False
        """Whether it rests between its batches while commands are at work: a build nobody asks."""
        self.failures = Failures(part, logger, failed)
        self._state: ProjectorState = "catching-up"
        """Also where it is to rest from the beginning, until it knows where the views stand."""
        self._checkpoint = Checkpoint()
        """Where the views stand."""
        self._ahead = Checkpoint()
        """Where they will, when what is on its way is written."""
        self._writes = Writes(subscription.wake)
        """The batches on their way; the next one is folded meanwhile."""
        self._narrowing = Narrowing(work.refused, limits.projector_events)
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
        self._meter = Meter(part.definition.name, watch, ports.stopwatch)

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
    def failure(self) -> ProjectionFailure | None:
        """Why it is stopped, if it is."""
        return self.failures.current

    @property
    def retrying(self) -> ProjectionFailure | None:
        """What it tries again, if it does."""
        return self.back_off.failure

    def statistics(self) -> ProjectorStatistics:
        """Give the numbers as they are now; called from any thread."""
        lag = max(0, self._end_of_log() - self.position)
        return ProjectorStatistics(
            name=self.definition.name,
            state=self.state,
            position=self.position,
            lag_events=lag,
            lag_seconds=self._meter.age(self._ports, self.subscription.oldest) if lag else 0.0,
            events=self._work.events,
            transactions=self._writes.transactions,
            batch_seconds=self._meter.seconds.copy(),
            batch_events=self._meter.events.copy(),
            pages=self._meter.pages,
            fetches=self._work.fetches,
            rows=self._work.rows,
            bus=self.subscription.statistics(),
            failure=self.failure,
            retries=self.back_off.retries,
            retrying=self.retrying,
            parked=self._work.parking.count,
            reactions=self._work.reactions,
        )

    async def run(self) -> None:
        """Follow the log until `stop`."""
        try:
            while not self._stopping:
                try:
                    await self._go_on()
                except Exception as error:
                    self._sure = False
                    await self._writes.give_up()
                    if self._narrowing.begin(error) or await self._try_again(error):
                        continue
                    self._fail(error)
                    await self.failures.tell()
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
        self.subscription.wake()
        self._arrivals.hurry()
        self._resumed.set()

    def resume(self) -> None:
        """Go on from the checkpoint; nothing happens if it is neither stopped nor paused."""
        self._paused = False
        if self._state in ("stopped", "paused"):
            self.failures.current = None
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
                self.failures.current = None

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
        await self.failures.tell()

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
                self._meter.saw(events[done])
                begin = self._ports.stopwatch()
                most = self._narrowing.events_max(self._ahead.position)
                done += await self._project(events[done : done + most])
                if self.gives_way and self._is_busy():
                    await self._give_way(self._ports.stopwatch() - begin)
                if self._stopping:
                    await self._writes.settle()
                    return

    async def _next(self) -> Sequence[StoredEvent]:
        """Give the events after the checkpoint, from the bus or the feed.

        Gives nothing where something else is to be done first.
        """
        bus = self.subscription
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
            self._meter.pages += 1
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
        batch = self._meter.begin(events)
        try:
            prepared = await self._work.prepare(events, self._ahead)
            await self._writes.settle(self._writes_left())
        except BaseException as error:
            batch.end(error)
            raise
        if (changes := prepared.changes) is not None:
            self._ahead = changes.after
            note = partial(self._note, prepared, changes, batch)
            # Asked for here, so that the order of the batches is that of their writes.
            write = self._work.write(changes)
            self._writes.add(changes, write, note, batch.end)
        else:
            batch.end(prepared.poison)
        if prepared.poison is not None:
            await self._writes.settle()  # so that the checkpoint is right before the poison
            raise Poisoned(events[prepared.count]) from prepared.poison
        assert prepared.count, "a batch gets on by one event at least, or fails"
        return prepared.count

    def _writes_left(self) -> int:
        """Give how many batches may be on their way when another is.

        One who follows has none: what waits meanwhile on the bus becomes a larger batch.
        """
        one_by_one = self.gives_way or self._narrowing.is_under_way
        catching_up = self._state == "catching-up" and not one_by_one
        return self._work.writes_max - 1 if catching_up else 0

    def _note(self, prepared: Prepared, changes: Changes, batch: Measured) -> None:
        """Go on behind a batch that is written."""
        self._checkpoint = changes.after
        self.back_off.over(self.position)
        self._work.patience = True
        batch.written(prepared.count, self.position, prepared.poison)
        self.parking.tell(changes.parked, self.definition.name, self._logger)
        self._tell_written(changes)

    def _tell_written(self, changes: Changes) -> None:
        self._answer_waiting()
        self._written(self.part, changes)
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
        is_poisoned = isinstance(error, Poisoned)
        cause = error.__cause__ if is_poisoned else error
        assert isinstance(cause, Exception)
        if not self._work.may_pass(cause):
            return False
        if self._stopping or isinstance(cause, Abandoned):
            # To end, and to try nothing before. Whoever tells it to may wait for what is asked.
            await self._wait(None)
            return True
        seconds = self.back_off.again(
            cause, self.position, most=self._work.retries, blames_event=is_poisoned
        )
        if seconds is None:
            # Once more: now the event is parked, where it may be, or stops the projector.
            again, self._work.patience = is_poisoned and self._work.patience, False
            return again
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
        if isinstance(error, Poisoned):
            self._meter.oldest = error.stored.recorded
        self.failures.stop(error, self.position)
        self._enter("stopped")
