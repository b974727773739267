"""The projector: one task per projection, which keeps its tables at the end of the log.

Rules: it starts at its checkpoint, takes events in position order without a hole, and writes rows
and checkpoint in one transaction; so every event counts once. A batch from the bus is used only if
it goes on exactly where the checkpoint stands; otherwise the feed is read. Events that the
projection does not handle are passed over, and the checkpoint moves over them. What it cannot fold
stops this projector alone, visibly, with everything before it written; `resume` tries again. It
never skips an event and never makes a writer wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from .bus import Subscription
from .codec import EventRegistry
from .limits import Limits
from .log_reader import LogReader
from .ports import Ports
from .projection import Projection
from .staging import Fold
from .statistics import Histogram, ProjectionFailure, ProjectorState, ProjectorStatistics
from .stores.contract import Store, StoredEvent
from .telemetry import ProjectionBegan, Watch
from .tracebacks import told
from .views import Changes, Checkpoint, ViewsStore

__all__ = ["Projector"]


class _Poisoned(Exception):
    """An event could not be folded; its cause is in `__cause__`."""

    def __init__(self, stored: StoredEvent) -> None:
        super().__init__(stored.position)
        self.stored = stored


class Projector:
    """Folds the log into the tables of one projection."""

    def __init__(
        self,
        projection: type[Projection],
        *,
        store: Store,
        views: ViewsStore,
        subscription: Subscription,
        registry: EventRegistry,
        limits: Limits,
        ports: Ports,
        logger: logging.Logger,
        end_of_log: Callable[[], int] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.definition = projection.__definition__
        self.failure: ProjectionFailure | None = None
        """Why it is stopped, if it is."""
        self._log = LogReader(store, limits)
        self._views = views
        self._subscription = subscription
        self._limits = limits
        self._ports = ports
        self._logger = logger
        self._end_of_log = end_of_log
        self._watch = watch
        self._fold = Fold(
            self.definition,
            registry,
            limits,
            fetch=lambda keys: views.fetch(self.definition, keys),
        )
        self._state: ProjectorState = "catching-up"
        self._checkpoint = Checkpoint()
        self._behind = True
        self._stopping = False
        self._resumed = asyncio.Event()
        self._waiting: dict[asyncio.Future[bool], int] = {}
        self._transactions = 0
        self._pages = 0
        self._oldest: int | None = None
        """When the first event of the batch in hand was recorded."""
        self._batch_seconds = Histogram.of_seconds()
        self._batch_events = Histogram.of_sizes()

    @property
    def state(self) -> ProjectorState:
        """One of "catching-up", "live", "stopped" (see `failure`, then `resume`) and "closed"."""
        return self._state

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        return self._checkpoint.position

    def statistics(self) -> ProjectorStatistics:
        """Give the numbers as they are now; called from any thread."""
        position = self.position
        lag = None if self._end_of_log is None else max(0, self._end_of_log() - position)
        return ProjectorStatistics(
            name=self.definition.name,
            state=self._state,
            position=position,
            lag_events=lag,
            lag_seconds=0.0 if lag == 0 else self._age_of_oldest(),
            events=self._fold.events,
            transactions=self._transactions,
            batch_seconds=self._batch_seconds.copy(),
            batch_events=self._batch_events.copy(),
            pages=self._pages,
            fetches=self._fold.fetches,
            rows=self._fold.staging.rows,
            bus=self._subscription.statistics(),
            failure=self.failure,
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
                    await self._open()
                    await self._follow()
                except Exception as error:
                    self._fail(error)
                    await self._resumed.wait()
                    self._resumed.clear()
        finally:
            self._log.close()
            self._subscription.mute()
            self._enter("closed")

    def stop(self) -> None:
        """Let `run` return when the current batch is written."""
        self._stopping = True
        self._subscription.wake()
        self._resumed.set()

    def resume(self) -> None:
        """Try again from the checkpoint; nothing happens if it is not stopped."""
        if self._state == "stopped":
            self.failure = None
            self._enter("catching-up")
            self._resumed.set()

    async def wait_for(self, position: int, deadline: float | None) -> bool:
        """Return whether queries see the event at this position, as soon as that is known.

        It is known when they do, when the projector is stopped or closed below it, and at the
        deadline, by the event loop's clock.
        """
        if self.position >= position:
            return True
        if self._state in ("stopped", "closed"):
            return False
        reached: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = position
        try:
            async with asyncio.timeout_at(deadline):
                return await reached
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(reached, None)

    # -- following the log --------------------------------------------------------------------

    async def _open(self) -> None:
        """Start from what the views say, with nothing in memory."""
        self._fold.staging.clear()
        self._subscription.listen()
        self._behind = True
        self._checkpoint = await self._views.checkpoint(self.definition)
        self._answer_waiting()

    async def _follow(self) -> None:
        while events := await self._next():
            first = events[0].position
            assert first == self.position + 1, "events come without a hole"
            done = 0
            while done < len(events):
                self._oldest = events[done].recorded
                done += await self._project_measured(events[done:])
                if self._stopping:
                    return
            self._oldest = None

    async def _next(self) -> Sequence[StoredEvent]:
        """Give the events after the checkpoint, from the bus or the feed; nothing at the end."""
        bus = self._subscription
        while not self._stopping:
            if bus.take_loss():
                self._behind = True
            events = bus.take(self.position, self._limits.projector_events)
            if events:
                self._enter("live")
                return events
            if not self._behind and bus.first is None:
                self._enter("live")
                await bus.wait()
                continue
            # Losses are noted before the read: what is published during it stays on the bus.
            self._pages += 1
            page = await self._log.read(self.position)
            if page:
                self._enter("catching-up")
                return page
            self._behind = bus.take_loss()
            follows = bus.first is None or bus.first <= self.position + 1
            assert follows or self._behind, "what is on the bus is in the feed"
        return ()

    # -- one batch ----------------------------------------------------------------------------

    async def _project_measured(self, events: Sequence[StoredEvent]) -> int:
        watch = self._watch
        name = self.definition.name
        seen = None if watch is None else watch.begin(ProjectionBegan(name, events))
        begin = self._ports.stopwatch()
        try:
            count = await self._project(events)
        except BaseException as error:
            if watch is not None:
                watch.end(seen, error.__cause__ if isinstance(error, _Poisoned) else error)
            raise
        self._batch_seconds.record(self._ports.stopwatch() - begin)
        self._batch_events.record(count)
        if watch is not None:
            watch.end(seen, projected_events=count, position=self.position)
        return count

    async def _project(self, events: Sequence[StoredEvent]) -> int:
        """Fold and write a batch, or as much of it as fits in memory; give how many events."""
        folded = await self._fold.fold(events)
        self._reach("projector.folded")
        if folded.count:
            await self._write(events[folded.count - 1])
        if folded.poison is not None:
            raise _Poisoned(events[folded.count]) from folded.poison
        assert folded.count, "a batch gets on by one event at least, or fails"
        return folded.count

    async def _write(self, last: StoredEvent) -> None:
        staging = self._fold.staging
        after = Checkpoint(last.position, last.checksum)
        await self._views.write(
            Changes(self.definition, self._checkpoint, after, staging.changes())
        )
        staging.written()
        self._checkpoint = after
        self._transactions += 1
        self._answer_waiting()

    def _reach(self, name: str) -> None:
        if self._ports.failpoint is not None:
            self._ports.failpoint(name)

    # -- state --------------------------------------------------------------------------------

    def _enter(self, state: ProjectorState) -> None:
        if state == self._state:
            return
        self._state = state
        if state in ("stopped", "closed"):
            self._answer_waiting()

    def _answer_waiting(self) -> None:
        ended = self._state in ("stopped", "closed")
        for reached, position in list(self._waiting.items()):
            if (self.position >= position or ended) and not reached.done():
                reached.set_result(self.position >= position)

    def _fail(self, error: Exception) -> None:
        """Stop, and say so."""
        name = self.definition.name
        # What is in memory is thrown away at `resume`; what waits on the bus is in the feed.
        self._log.close()
        self._subscription.mute()
        if isinstance(error, _Poisoned):
            stored, cause = error.stored, error.__cause__
            self._oldest = stored.recorded
            assert isinstance(cause, Exception)
            what = f"{stored.name} v{stored.event_version}"
            failure = ProjectionFailure(stored.position, what, stored.stream, told(cause))
        else:
            failure = ProjectionFailure(self.position, "", "", told(error))
        self.failure = failure
        self._enter("stopped")
        self._logger.error(
            "projection %s stopped at position %d (%s): its views stay at %d until it is mended "
            "and resumed; everything else goes on\n%s",
            name,
            failure.position,
            f"{failure.event} of {failure.stream}" if failure.event else "no event is to blame",
            self.position,
            failure.cause,
        )
