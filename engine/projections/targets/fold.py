"""The fold of a batch of events into rows in memory, before anything is written.

Rules: a row that is not in memory is fetched and its event folded again, so a handler may run more
than once; `keys` only makes that rare. An event that fails leaves no trace, and those behind it
wait. This file writes nothing, and reads views only through the function that it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ...errors import UsageError
from ...limits import Limits
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Event
from ...model.projection import ProjectionDefinition, ProjectionHandler, slice_of
from ...model.rows import Flat, Scalar
from ...model.stored import ENCODING_JSON, StoredEvent
from ...runtime.contained import contained
from ..scope import Scope
from .staging import BATCH_SHARE, UNKNOWN, MissingRow, Staging

__all__ = ["Fetch", "Fold", "Folded"]

Fetch: TypeAlias = Callable[
    [Mapping[str, Sequence[Scalar]]], Awaitable[Mapping[str, Sequence[Flat]]]
]
"""Gives the rows that there are, by table attribute, of the keys asked for."""
Wanted: TypeAlias = dict[str, set[Scalar]]
"""Keys whose rows are not in memory, by table attribute."""

EVENTS_PER_TURN: Final = 250
"""Events after which the event loop gets its turn."""
SCOUTS_MAX: Final = 8
"""How often one batch looks ahead for rows that later events will miss."""
_MISSED: Final = Exception("a row is not in memory")
"""Stands for an event that is to be folded again; nobody sees it."""


class Folded(msgspec.Struct, frozen=True):
    """How far a batch was folded."""

    count: int
    """Events from the first on that are folded now."""
    poison: Exception | None
    """What the event after those raised, if it did."""


class Fold:
    """Folds batches of one part of a projection into its staging."""

    def __init__(
        self,
        definition: ProjectionDefinition,
        registry: EventRegistry,
        limits: Limits,
        fetch: Fetch,
        *,
        slice_: int = 0,
        parks: bool = False,
        now: Callable[[], int] = lambda: 0,
    ) -> None:
        """Take what to fold, which slice of it, and whether events may be parked."""
        self.staging = Staging(definition.tables, limits.projector_rows, limits.projector_bytes)
        self.scope = Scope(definition, registry, limits, slice_=slice_, parks=parks, now=now)
        self.skipped = self.scope.skipped
        self.refused: dict[int, Exception] = {}
        """Why the database does not take the rows of an event, by its position."""
        self.events = 0
        """Events folded."""
        self.fetches = 0
        """Round trips for rows that were not in memory."""
        definition = self._definition = self.scope.definition
        self._registry = registry
        self._names = registry.names_of(definition.event_classes)
        self._misses = self.staging.misses
        self._rows_max = limits.projector_rows
        self._fetch_bytes = max(1, limits.projector_bytes // BATCH_SHARE)
        self._fetch = fetch
        self._projection = definition.bind(self.staging.tables)
        self._plain: dict[tuple[str, int], Callable[[bytes], Any] | None] = {}
        """What decodes stored types that are handled as they stand."""
        self._handlers = definition.handlers
        self._is_simple = definition.slices == 1 and not any(
            handler.keys for handler in definition.handlers.values()
        )
        """Whether there is nothing to do with an event before it is folded."""
        self._missed: Wanted = {}
        self._changes = 0
        """Changes of rows since the batch began: never fewer than rows that are dirty."""
        self._scouts_left = 0
        self._slice = slice_

    async def fold(self, events: Sequence[StoredEvent]) -> Folded:
        """Fold events from the first on, until one fails or the rows in memory are enough.

        Raises only what fetching raises.
        """
        assert self.staging.dirty == 0, "a batch starts where the one before is written"
        prepared, poison = await self._prepare(events)
        self._scouts_left = SCOUTS_MAX
        self._changes = 0
        scope = self.scope
        for index, event in enumerate(prepared):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            if event is None:
                continue
            # Rows may be changed more than once: they are counted where there may be enough.
            if self._changes >= self._rows_max and self.staging.dirty >= self._rows_max:
                return Folded(index, None)
            if index and self.staging.has_its_share:
                return Folded(index, None)
            if scope.parking.keys:
                waits, error = scope.wait_behind(event, events[index])
                if waits:
                    continue
                if error is not None:
                    return Folded(index, error)
            error = self.refused.get(events[index].position) if self.refused else None
            error = error or self._fold_at_once(event, events[index])
            if error is _MISSED:
                error = await self._fold_one(events, index, event)
            if error is not None and not scope.park(events[index], error):
                return Folded(index, error)
        if poison is not None and scope.park(events[len(prepared)], poison):
            return Folded(len(prepared) + 1, None)
        return Folded(len(prepared), poison)

    async def fold_parked(self, stored: StoredEvent) -> Exception | None:
        """Fold an event that was parked; give what it raised."""
        if self.scope.is_skipped(stored):
            return None
        try:
            event = self._decode(stored)
        except BaseException as raised:
            return contained(raised)
        if event is None:
            return None
        failed = self._fold_at_once(event, stored)
        return failed if failed is not _MISSED else await self._fold_one([stored], 0, event)

    async def _prepare(
        self, events: Sequence[StoredEvent]
    ) -> tuple[Sequence[Event | None], Exception | None]:
        """Decode what is handled, and fetch the rows that `keys` name; stop at what fails."""
        prepared: list[Event | None] = []
        wanted: Wanted = {}
        poison: Exception | None = None
        by_stream = self._definition.slices > 1 and self._definition.sequence is None
        skips = bool(self.skipped)
        for index, stored in enumerate(events):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            if stored.name not in self._names or (skips and self.scope.is_skipped(stored)):
                prepared.append(None)
                continue
            if by_stream and slice_of(stored.stream, self._definition.slices) != self._slice:
                prepared.append(None)
                continue
            try:
                event = self._decode(stored)
                if self._is_simple and type(event) in self._handlers:
                    prepared.append(event)
                    continue
                if event is not None and not by_stream and not self.scope.is_mine(event, stored):
                    event = None
                if event is not None:
                    self.scope.check_handled(event, stored)
                handler = None if event is None else self._handlers[type(event)]
                if handler is not None and handler.keys is not None:
                    assert event is not None
                    self._add_keys(wanted, handler, event, stored)
            except BaseException as raised:
                poison = contained(raised)
                break
            prepared.append(event)
            if handler is not None and handler.keys is not None and self._is_enough(wanted):
                break
        await self._fill(wanted)
        return prepared, poison

    def _decode(self, stored: StoredEvent) -> Event | None:
        """Give the event, or None where it is retired or today one that nobody here handles."""
        kind = (stored.name, stored.event_version)
        decode = self._plain.get(kind, UNKNOWN)
        if decode is UNKNOWN:
            decode = self._plain[kind] = self._plain_decoder(*kind)
        if decode is not None and stored.encoding == ENCODING_JSON:
            try:
                event: Event = decode(stored.payload)
            except Exception:  # noqa: S110 - whatever its class raised too
                pass  # to be told in the registry's words
            else:
                return event
        return self._decode_or_tell(stored)

    def _plain_decoder(self, name: str, version: int) -> Callable[[bytes], Any] | None:
        """Give what decodes a type that is handled as it is stored."""
        found = self._registry.plain_decoder(name, version)
        handled = found is not None and found[0] in self._definition.handlers
        return found[1] if found is not None and handled else None

    def _decode_or_tell(self, stored: StoredEvent) -> Event | None:
        event = self._registry.decode(stored)
        if event is None or type(event).event_name not in self._definition.event_names:
            return None
        return event

    def _add_keys(
        self, wanted: Wanted, handler: ProjectionHandler, event: Event, stored: StoredEvent
    ) -> None:
        assert handler.keys is not None
        for attribute, keys in handler.keys(event, decode_meta(stored)).items():
            table = self.staging.tables.get(attribute)
            if table is None:
                raise UsageError(
                    f"`keys` of {handler.function.__qualname__} names {attribute!r}, which is no "
                    f"table of projection {self._definition.name}"
                )
            shape = self._definition.tables[attribute].shape
            for key in keys:
                flat = shape.encode_key(key)
                if not table.knows(flat):
                    wanted.setdefault(attribute, set()).add(flat)

    def _fold_at_once(self, event: Event, stored: StoredEvent) -> Exception | None:
        """Fold one event if all its rows are in memory; give what it raised, or _MISSED."""
        try:
            self._apply(event, stored)
        except MissingRow as missing:
            self._missed = {missing.attribute: {missing.key}}
            self.staging.undo()
            return _MISSED
        except BaseException as raised:
            self.staging.undo()
            return contained(raised)
        self._changes += self.staging.keep()
        self.events += 1
        return None

    async def _fold_one(
        self, events: Sequence[StoredEvent], index: int, event: Event
    ) -> Exception | None:
        """Go on with an event that missed a row, fetching what it misses; give what it raised."""
        stored = events[index]
        while True:
            wanted = self._missed
            if self._scouts_left > 0:
                self._scouts_left -= 1
                await self._scout(events[index + 1 :], wanted)
            await self._fill(wanted)
            # The handler may have changed its copy before it missed the row.
            again = self._decode(stored)
            assert again is not None, "what was decoded once is decoded again"
            event = again
            error = self._fold_at_once(event, stored)
            if error is not _MISSED:
                return error

    def _apply(self, event: Event, stored: StoredEvent) -> None:
        handler = self._handlers[type(event)]
        misses = self._misses
        try:
            if handler.takes_meta:
                handler.function(self._projection, event, decode_meta(stored))
            else:
                handler.function(self._projection, event)
        finally:
            if misses:
                # Also where a bare `except` or a `finally` of the handler lost it.
                missing = misses[0]
                misses.clear()
                raise missing

    async def _scout(self, events: Sequence[StoredEvent], wanted: Wanted) -> None:
        """Run later events for the keys that they read, and undo each; one fetch then serves all.

        They run on a state that lacks what stands before them, so they may read too little, which
        costs a fetch later, or fail, which means nothing here.
        """
        for index, stored in enumerate(events):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            if stored.name not in self._names:
                continue
            if self._is_enough(wanted):
                return
            self._scout_one(stored, wanted)

    def _scout_one(self, stored: StoredEvent, wanted: Wanted) -> None:
        if self.scope.is_skipped(stored):
            return
        for table in self.staging.tables.values():
            table.scouted = set()
        try:
            event = self._decode(stored)
            if event is not None and self.scope.is_mine(event, stored):
                self._apply(event, stored)
        except BaseException as raised:
            contained(raised)  # it is run again in its turn, and then an error counts
        finally:
            self.staging.undo()
            for name, table in self.staging.tables.items():
                if table.scouted:
                    wanted.setdefault(name, set()).update(table.scouted)
                table.scouted = None

    def _is_enough(self, wanted: Wanted) -> bool:
        """Tell whether no more rows should be fetched for one batch than these."""
        if self.staging.read >= self._fetch_bytes:
            return True
        rows = 0
        for name, keys in wanted.items():
            rows += len(keys)
            if len(keys) >= self.staging.tables[name].fetched_at_once(self._fetch_bytes):
                return True
        return rows >= self._rows_max

    async def _fill(self, wanted: Wanted) -> None:
        """Fetch the rows of these keys, and note which keys have none.

        Where they weigh too much the rest is left, and fetched when it is missed.
        """
        left = {name: list(keys) for name, keys in wanted.items()}
        begin = self.staging.read
        while left and self.staging.read - begin < self._fetch_bytes:
            some: dict[str, Sequence[Scalar]] = {}
            for name, keys in list(left.items()):
                most = self.staging.tables[name].fetched_at_once(self._fetch_bytes)
                some[name], left[name] = keys[:most], keys[most:]
                if not left[name]:
                    del left[name]
            await self._fill_some(some)

    async def _fill_some(self, wanted: Mapping[str, Sequence[Scalar]]) -> None:
        self.fetches += 1
        found = await self._fetch(wanted)
        for name, keys in wanted.items():
            table = self.staging.tables[name]
            place = self._definition.tables[name].shape.key_place
            rows: Iterable[Flat] = found.get(name, ())
            by_key = {flat[place]: flat for flat in rows}
            assert by_key.keys() <= set(keys), "only rows that were asked for come back"
            for key in keys:
                table.fill(key, by_key.get(key))
