"""What a projector does with a batch for a projection in SQL: runs its handlers in the transaction.

Rules: a whole batch is one transaction, with the checkpoint in it, where views are written. Each
event is inside a savepoint, so that one that fails takes back its own changes and no others, and
what stands before it is written. A handler may run more than once for an event; what it changed is
kept once. Nothing is kept in memory between batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from ...limits import Limits
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Event
from ...model.sql_projection import RolledBack, SqlSession
from ...model.stored import StoredEvent
from ...runtime.contained import contained
from ...runtime.ports import Ports
from ...runtime.tracebacks import traceback_text
from ...statistics import ReactionStatistics
from ...stores.contract.views import Changes, Checkpoint, Parked, Part, ViewsStore
from ..scope import Scope, may_pass
from .rows import Prepared

__all__ = ["SqlTarget"]

TRANSACTION_SECONDS: Final = 0.5
EVENTS_PER_TURN: Final = 250
"""Events after which the event loop gets its turn."""


class SqlTarget:
    """Runs the handlers of one part."""

    def __init__(
        self, part: Part, views: ViewsStore, registry: EventRegistry, limits: Limits, ports: Ports
    ) -> None:
        self._part = part
        self._views = views
        self._ports = ports
        definition = part.definition
        self._scope = Scope(
            definition,
            registry,
            limits,
            parks=definition.on_poison == "park",
            now=ports.clock.now,
        )
        self._projection = definition.bind({})
        self.parking = self._scope.parking
        self.skipped = self._scope.skipped
        self.refused: dict[int, Exception] = {}
        self.writes_max = 1
        self.patience = True
        self.retries = limits.projector_retries
        self._stop_seconds = limits.sink_stop_seconds
        self.events = 0
        self.fetches = 0
        self.rows = 0
        self.reactions: ReactionStatistics | None = None
        self.transaction_seconds = TRANSACTION_SECONDS
        """After which a transaction takes no further event, so that others can write, too."""

    async def open(self) -> Checkpoint:
        """Give where the views stand."""
        return await self._scope.open(self._views, self._part)

    async def prepare(self, events: Sequence[StoredEvent], before: Checkpoint) -> Prepared:
        """Run the handlers of a batch in one transaction: when this returns, it is written."""
        self._scope.patience = self.patience
        ruinous: dict[int, Exception] = {}
        while True:
            # Decoded anew each time, since a handler may have changed its copy.
            batch = await self._decode(events, ruinous)
            try:
                run = partial(self._run, batch, before)
                changes = await self._views.write_by(self._part, run)
            except RolledBack as lost:
                # All of the batch is gone: once more, without the event that did it.
                ruinous[events[batch.count].position] = _cause(lost)
                self.parking.undo()
                continue
            self.parking.written()
            self.events += batch.folded
            self.patience = self.patience or changes is not None
            return Prepared(batch.count, batch.poison, changes)

    async def write(self, _changes: Changes) -> bool:
        """Do nothing: it is written, in a transaction of its own."""
        return True

    async def release(
        self, parked: Parked, stored: StoredEvent, at: Checkpoint
    ) -> tuple[Exception | None, Changes]:
        """Run the handler of a parked event; where it fails, note that it was tried."""
        changes: Changes | None = None
        batch = _Batch([stored], [], {})
        try:
            batch.picked.append(self._scope.decode_parked(stored))
        except BaseException as raised:
            batch.poison = contained(raised)
        else:
            try:
                run = partial(self._run_parked, batch, at)
                changes = await self._views.write_by(self._part, run)
            except RolledBack as lost:
                batch.poison = _cause(lost)
        poison = batch.poison
        if poison is not None:
            cause = traceback_text(poison)
            tried = msgspec.structs.replace(parked, attempts=parked.attempts + 1, cause=cause)
            changes = Changes(self._part, at, at, {}, (tried,))
            await self._views.write(changes)
        else:
            self.events += 1
            self.parking.released([parked])
        assert changes is not None, "what is not written has failed"
        return poison, changes

    def may_pass(self, error: Exception) -> bool:
        """Tell whether a failure may be over when it is tried again."""
        return may_pass(error)

    def stop(self) -> None:
        """Let a statement that does not end be ended, and its batch be run after the next start."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._stop_seconds, self._views.end_statement, self._part)

    async def _decode(
        self, events: Sequence[StoredEvent], ruinous: Mapping[int, Exception]
    ) -> _Batch:
        """Decode what is handled, up to what cannot be decoded."""
        batch = _Batch(events, [], ruinous)
        for index, stored in enumerate(events):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            try:
                batch.picked.append(self._scope.pick(stored))
            except BaseException as raised:
                batch.broken = contained(raised)
                break
        return batch

    # -- where views are written, which may be another thread ---------------------------------

    async def _run(self, batch: _Batch, before: Checkpoint, session: SqlSession) -> Changes | None:
        """Run the handlers of a batch, up to the first event that stops it."""
        batch.count = batch.folded = 0
        batch.poison = None
        self.parking.undo()
        end = self._ports.stopwatch() + self.transaction_seconds
        for stored, event in zip(batch.events, batch.picked, strict=False):
            if batch.folded and self._ports.stopwatch() > end:
                break
            if event is not None:
                batch.poison = await self._run_or_park(batch, stored, event, session)
                if batch.poison is not None:
                    break
            batch.count += 1
        reached_end = batch.count == len(batch.picked)
        if batch.broken is not None and batch.poison is None and reached_end:
            if self._scope.park(batch.events[batch.count], batch.broken):
                batch.count += 1
            else:
                batch.poison = batch.broken
        self._reach()
        if not batch.count:
            return None
        last = batch.events[batch.count - 1]
        after = Checkpoint(last.position, last.checksum)
        parked = tuple(self.parking.added)
        return Changes(self._part, before, after, {}, parked, everything=batch.folded > 0)

    async def _run_or_park(
        self, batch: _Batch, stored: StoredEvent, event: Event, session: SqlSession
    ) -> Exception | None:
        """Run one event's handler, or park the event; give what stops the batch."""
        waits, error = self._scope.wait_behind(event, stored)
        if waits or error is not None:
            return error
        error = batch.ruinous.get(stored.position) or await self._try(stored, event, session)
        if error is None:
            batch.folded += 1
            return None
        return None if self._scope.park(stored, error) else error

    async def _run_parked(
        self, batch: _Batch, at: Checkpoint, session: SqlSession
    ) -> Changes | None:
        """Run the handler of an event that was parked; write nothing where it fails."""
        (stored,), (event,) = batch.events, batch.picked
        if event is not None:
            batch.poison = await self._try(stored, event, session)
        if batch.poison is not None:
            return None
        return Changes(self._part, at, at, {}, released=(stored.position,), everything=True)

    async def _try(
        self, stored: StoredEvent, event: Event, session: SqlSession
    ) -> Exception | None:
        handler = self._scope.definition.handlers[type(event)]
        meta = (decode_meta(stored),) if handler.takes_meta else ()
        sql = session if handler.is_async else session.plain
        return await session.attempt(partial(handler.function, self._projection, event, *meta, sql))

    def _reach(self) -> None:
        if self._ports.failpoint is not None:
            self._ports.failpoint("projector.folded")


class _Batch(msgspec.Struct):
    """A batch on its way through the handlers."""

    events: Sequence[StoredEvent]
    picked: list[Event | None]
    """Those that are handled, in their places, up to one that cannot be decoded."""
    ruinous: Mapping[int, Exception]
    """Events, by position, that have rolled the transaction back, and are not tried again."""
    broken: Exception | None = None
    """Why the event after those picked cannot be decoded, if it cannot."""
    count: int = 0
    """Events from the first on that are done."""
    folded: int = 0
    """Events that a handler ran for."""
    poison: Exception | None = None
    """What stopped it at the event after those."""


def _cause(lost: RolledBack) -> Exception:
    cause = lost.__cause__
    return cause if isinstance(cause, Exception) else lost
