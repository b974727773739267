"""What a projector does with a batch for a sink: delivers it, and then moves the checkpoint.

Rules: the checkpoint moves after a delivery and never before, so every event is delivered at least
once, and those of a key in order; the next batch is delivered while it moves. What may pass by
itself is given back, to be tried again as it is. For any other failure the batch is halved, and
what comes through is noted, until the event is found that fails alone: that one is parked, or stops
the sink. A batch that takes too long is tried again as half of it. A broker's failure is no
event's: it halves nothing, and parks nothing. Where the checkpoint moves over events that are not
the sink's, nothing is delivered. How long a delivery may take is the courier's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from ...errors import BrokerFailed, DefinitionError, StoreFailed
from ...limits import Limits
from ...log.reader import FeedSource
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Event
from ...model.projection import Delivering
from ...model.sink import Delivery, Sink
from ...model.stored import StoredEvent
from ...runtime.contained import contained, is_of_the_moment, members_of
from ...runtime.ports import Ports
from ...runtime.tracebacks import traceback_text
from ...statistics import ReactionStatistics
from ...stores.contract.views import Changes, Checkpoint, Parked, Part, ViewsStore
from ..scope import Scope
from .courier import Courier, NotDelivered
from .delivered import DeliveredEvents
from .rows import Prepared

__all__ = ["SinkTarget", "resources_of"]


class SinkTarget:
    """Delivers the events of one part."""

    def __init__(
        self,
        part: Part,
        sink: Delivering,
        views: ViewsStore,
        registry: EventRegistry,
        limits: Limits,
        ports: Ports,
        *,
        log: FeedSource,
        log_id: Callable[[], str],
        resources: Sequence[object],
        logger: logging.Logger,
        engine_stops: Callable[[], bool],
    ) -> None:
        """Take what to deliver, and what the sink takes beside it."""
        self._part = part
        self._sink = sink
        self._views = views
        self._ports = ports
        self._log_id = log_id
        definition = part.definition
        self._scope = Scope(
            definition,
            registry,
            limits,
            slice_=part.slice,
            parks=definition.on_poison == "park",
            now=ports.clock.now,
            may_pass=self.may_pass,
        )
        receiver = self._receiver = cast("Sink", definition.bind({}))
        delivered = DeliveredEvents(log, self._scope, registry, views, limits, log_id)
        receiver._delivered = delivered  # pyright: ignore[reportPrivateUsage]
        self._resources = resources
        self._courier = Courier(definition.name, limits, logger, engine_stops=engine_stops)
        self._logger = logger
        self._stop_seconds = limits.sink_stop_seconds
        self._size = self._size_max = sink.events_max or limits.sink_events
        self._suspect = 0
        """Up to this position the size of batches stays: one of these events fails."""
        self.parking = self._scope.parking
        self.skipped = self._scope.skipped
        self.refused: dict[int, Exception] = {}
        self.writes_max = 1
        self.patience = True
        self.retries = limits.sink_retries
        self.events = 0
        self.fetches = 0
        self.rows = 0
        self.reactions: ReactionStatistics | None = None

    async def open(self) -> Checkpoint:
        """Give up to where it has delivered."""
        return await self._scope.open(self._views, self._part)

    async def prepare(self, events: Sequence[StoredEvent], before: Checkpoint) -> Prepared:
        """Deliver a batch, or the first events of it that are enough."""
        self._scope.patience = self.patience
        while True:
            batch = self._gather(events)
            error = await self._deliver(batch.picked)
            if error is None:
                break
            if isinstance(error, BrokerFailed):
                raise error
            is_of_one = len(batch.picked) > 1 and self._is_of_one(error)
            if is_of_one or isinstance(error, NotDelivered):
                # Of a delivery that was too slow, fewer may be through in time.
                self._suspect = max(self._suspect, batch.picked[-1].position)
                self._size = max(1, len(batch.picked) // 2)
            if not is_of_one:
                self._blame(batch, error)
                break
            self.parking.undo()
        if not batch.count:
            return Prepared(0, batch.poison)
        last = events[batch.count - 1]
        after = Checkpoint(last.position, last.checksum)
        changes = Changes(self._part, before, after, {}, tuple(self.parking.added))
        self.parking.written()
        self.patience = True
        if after.position >= self._suspect:
            self._size = self._size_max
        return Prepared(batch.count, batch.poison, changes)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Move the checkpoint over what was delivered, parked or passed over."""
        return self._views.write(changes)

    async def release(
        self, parked: Parked, stored: StoredEvent, at: Checkpoint
    ) -> tuple[Exception | None, Changes]:
        """Deliver a parked event; where it fails, note that it was tried."""
        try:
            event = self._scope.decode_parked(stored)
        except BaseException as undecodable:
            error: Exception | None = contained(undecodable)
        else:
            error = await self._deliver([] if event is None else [self._delivery(event, stored)])
        if error is None:
            changes = Changes(self._part, at, at, {}, released=(parked.position,))
        else:
            tried = msgspec.structs.replace(
                parked, attempts=parked.attempts + 1, cause=traceback_text(error)
            )
            changes = Changes(self._part, at, at, {}, (tried,))
        await self._views.write(changes)
        if error is None:
            self.parking.released([parked])
        return error, changes

    @property
    def part(self) -> Part:
        """The part whose events it delivers."""
        return self._part

    async def erase(self, subjects: Sequence[str]) -> None:
        """Let the system outside lose people; no delivery is under way meanwhile.

        Raises what the sink's own `erase` does, and Abandoned where the engine stops. Raises
        NotDelivered where it takes too long, and where a delivery goes on though it was cancelled:
        that one may have them still.
        """
        erase, receiver = self._sink.erase, self._receiver
        assert erase is not None, "only who can erase is asked to"
        error = await self._courier.erase(
            lambda: erase(receiver, [*subjects], *self._resources), self._sink.erase_times
        )
        if error is not None:
            raise error

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether a failure may be over when it is tried again."""
        if isinstance(error, BrokerFailed):
            return error.passes
        if isinstance(error, (StoreFailed, NotDelivered, *self._sink.transient)):
            return True
        members = members_of(error)
        if members:
            return all(map(self.may_pass, members))
        return is_of_the_moment(error)

    def stop(self) -> None:
        """Let the delivery in hand end soon, since the engine stops."""
        self._courier.stop()

    async def close(self) -> None:
        """Let the sink close what it has opened, within a time."""
        try:
            async with asyncio.timeout(self._stop_seconds):
                await self._receiver.close()
        except BaseException as raised:
            error = contained(raised)
            name = self._part.definition.name
            self._logger.warning("sink %s failed to close: %s", name, type(error).__name__)

    def _gather(self, events: Sequence[StoredEvent]) -> _Gathered:
        """Decode what is to be delivered, up to a batch, and park what waits behind others."""
        batch = _Gathered(events)
        for stored in events:
            try:
                event = self._scope.pick(stored)
            except BaseException as raised:
                error = contained(raised)
                if not self._scope.park(stored, error):
                    batch.poison = error
                    break
                event = None
            if event is not None:
                waits, batch.poison = self._scope.wait_behind(event, stored)
                if batch.poison is not None:
                    break
                if not waits:
                    batch.picked.append(self._delivery(event, stored))
            batch.count += 1
            if len(batch.picked) == self._size:
                break
        return batch

    def _delivery(self, event: Event, stored: StoredEvent) -> Delivery[Any]:
        return Delivery(event, decode_meta(stored), self._log_id())

    async def _deliver(self, batch: Sequence[Delivery[Any]]) -> Exception | None:
        if not batch:
            return None
        deliver, receiver, resources = self._sink.function, self._receiver, self._resources
        # A list of its own, which it may empty as it goes: what is in ours tells what has failed.
        error = await self._courier.hand_over(lambda: deliver(receiver, [*batch], *resources))
        if self._ports.failpoint is not None:
            self._ports.failpoint("sink.delivered")
        if error is None:
            self.events += len(batch)
        return error

    def _is_of_one(self, error: Exception) -> bool:
        """Tell whether to look for the one event of a batch that has failed."""
        if not self.may_pass(error):
            return True
        return not self.patience and self._part.definition.on_poison == "park"

    def _blame(self, batch: _Gathered, error: Exception) -> None:
        """Let a batch end before the event that has failed, or behind it where it is parked."""
        failed = batch.picked[0].position
        stored = batch.stored(failed)
        self.parking.undo(failed)
        batch.count = stored.position - batch.events[0].position
        if self._scope.park(stored, error):
            batch.count += 1
            batch.poison = None
        else:
            batch.poison = error


class _Gathered(msgspec.Struct):
    """A batch on its way to the sink."""

    events: Sequence[StoredEvent]
    picked: list[Delivery[Any]] = []
    """What is to be delivered."""
    count: int = 0
    """Events from the first on that are done when it is delivered."""
    poison: Exception | None = None
    """What is wrong with the event after those, if anything is."""

    def stored(self, position: int) -> StoredEvent:
        """Give one of its events."""
        return self.events[position - self.events[0].position]


def resources_of(
    name: str, sink: Delivering, resources: Mapping[type, object]
) -> tuple[object, ...]:
    """Give what a sink takes beside its events; raise DefinitionError for what is not there."""
    missing = [taken.__name__ for taken in sink.takes if taken not in resources]
    if missing:
        raise DefinitionError(
            f"sink {name!r} takes {missing}, which this engine has not: pass it as "
            f"Engine(resources={{{missing[0]}: ...}})"
        )
    return tuple(resources[taken] for taken in sink.takes)
