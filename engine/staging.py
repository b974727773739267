"""Staging: a batch of events folded into rows in memory, before anything is written.

Rules: an event counts whole or not at all: what a failing handler had changed is undone. A row
that is not in memory is fetched and its event folded again, so a handler may run more than once;
`keys` only makes that rare. Rows are kept flat between batches, up to a bound, since the projector
is their only writer. The same rows that are read from here are those that will be written. This
file writes nothing, and reads views only through the function that it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from .codec import EventRegistry, decode_meta
from .errors import Damaged, StoreFailed, UsageError
from .limits import Limits
from .messages import Event
from .parking import Parking
from .projection import ProjectionDefinition, ProjectionHandler, TableDefinition, slice_of
from .rows import Flat, Scalar
from .stores.contract import StoredEvent

__all__ = ["Fetch", "Fold", "Folded", "MissingRow", "Staging", "TableStage", "may_pass"]

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


class _Unknown(msgspec.Struct, frozen=True):
    """The type of what stands for "not in memory", where None means that there is no such row."""


_UNKNOWN = _Unknown()
Cell: TypeAlias = Flat | _Unknown | None


class MissingRow(BaseException):
    """A handler read a row that is not in memory.

    Not an Exception, so that no handler's `except Exception` takes it for its own.
    """

    def __init__(self, attribute: str, key: Scalar) -> None:
        """Name the table and the key."""
        super().__init__(attribute)
        self.attribute = attribute
        self.key = key


class TableStage:
    """The rows of one table that are in memory, in two generations: what is used stays young."""

    def __init__(self, attribute: str, undo: list[Undo], misses: list[MissingRow]) -> None:
        self.attribute = attribute
        self.young: dict[Scalar, Flat | None] = {}
        self.old: dict[Scalar, Flat | None] = {}
        self.dirty: set[Scalar] = set()
        self.scouted: set[Scalar] | None = None
        """While looking ahead: collects the missing keys, which then read as no row."""
        self._undo = undo
        self._misses = misses

    def get(self, key: Scalar) -> Flat | None:
        """Give a row, or None where there is none; raise MissingRow where that is not known."""
        cell: Cell = self.young.get(key, _UNKNOWN)
        if isinstance(cell, _Unknown):
            cell = self._find(key)
            if isinstance(cell, _Unknown):
                self._miss(key)
                return None
        return cell

    def _miss(self, key: Scalar) -> None:
        if self.scouted is None:
            missing = MissingRow(self.attribute, key)
            self._misses.append(missing)
            raise missing
        self.scouted.add(key)

    def set(self, key: Scalar, flat: Flat | None) -> None:
        """Put a row, or take it away with None; no need to know what was there."""
        self._undo.append((self, key, self._find(key), key in self.dirty))
        self.young[key] = flat
        self.dirty.add(key)

    def restore(self, key: Scalar, before: Cell, was_dirty: bool) -> None:
        """Take back one `set`."""
        if isinstance(before, _Unknown):
            del self.young[key]
        else:
            self.young[key] = before
        if not was_dirty:
            self.dirty.discard(key)

    def knows(self, key: Scalar) -> bool:
        """Whether the row is in memory; if so it stays young."""
        return not isinstance(self._find(key), _Unknown)

    def fill(self, key: Scalar, flat: Flat | None) -> None:
        """Keep what was fetched."""
        assert key not in self.dirty, "a fetched row would undo a change that is not written yet"
        self.young[key] = flat

    def _find(self, key: Scalar) -> Cell:
        cell: Cell = self.young.get(key, _UNKNOWN)
        if isinstance(cell, _Unknown) and key in self.old:
            cell = self.young[key] = self.old.pop(key)
        return cell


Undo: TypeAlias = tuple[TableStage, Scalar, Cell, bool]


class Staging:
    """All tables of a projection in memory, with what the current event has changed."""

    def __init__(self, tables: Mapping[str, TableDefinition], rows_max: int) -> None:
        self._rows_max = rows_max
        self._undo: list[Undo] = []
        self.misses: list[MissingRow] = []
        """What the current event read and is not in memory, whatever its handler made of that."""
        self.tables = {name: TableStage(name, self._undo, self.misses) for name in tables}

    @property
    def rows(self) -> int:
        """Rows in memory."""
        return sum(len(table.young) + len(table.old) for table in self.tables.values())

    @property
    def dirty(self) -> int:
        """Rows that are not written yet."""
        rows = 0
        for table in self.tables.values():  # asked for each event: no generator
            rows += len(table.dirty)
        return rows

    def keep(self) -> None:
        """Make what the current event changed part of the batch."""
        self._undo.clear()

    def undo(self) -> None:
        """Take back what the current event changed."""
        while self._undo:
            table, key, before, was_dirty = self._undo.pop()
            table.restore(key, before, was_dirty)

    def changes(self) -> Mapping[str, Mapping[Scalar, Flat | None]]:
        """Give what must be written, by table: the row of each key, None where it goes."""
        assert not self._undo, "an event is either kept or undone before its batch is written"
        return {
            name: {key: table.young[key] for key in table.dirty}
            for name, table in self.tables.items()
            if table.dirty
        }

    def written(self) -> None:
        """Note that the changes are written, and forget rows where there are too many."""
        young = 0
        for table in self.tables.values():
            table.dirty.clear()
            young += len(table.young)
        if young > self._rows_max // 2:
            for table in self.tables.values():
                table.old, table.young = table.young, {}

    def clear(self) -> None:
        """Forget everything."""
        self._undo.clear()
        for table in self.tables.values():
            table.young, table.old = {}, {}
            table.dirty.clear()


def may_pass(error: BaseException) -> bool:
    """Tell whether a failure may be over when it is tried again: a busy file, a lost connection."""
    return isinstance(error, StoreFailed | OSError)


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
        self.staging = Staging(definition.tables, limits.projector_rows)
        self.parking = Parking(allowed=parks, events_max=limits.parked_events)
        self.skipped: dict[int, int] = {}
        """Events that somebody decided to skip: the checksum of each by its position."""
        self.patience = True
        """Whether what a failure that may pass has hit is given back, to be tried again."""
        self.events = 0
        """Events folded."""
        self.fetches = 0
        """Round trips for rows that were not in memory."""
        self._definition = definition
        self._registry = registry
        self._names = registry.names_of(definition.event_classes)
        self._rows_max = limits.projector_rows
        self._fetch = fetch
        self._projection = definition.bind(self.staging.tables)
        self._scouts_left = 0
        self._slice = slice_
        self._now = now

    async def fold(self, events: Sequence[StoredEvent]) -> Folded:
        """Fold events from the first on, until one fails or the rows in memory are enough.

        Raises only what fetching raises.
        """
        assert self.staging.dirty == 0, "a batch starts where the one before is written"
        prepared, poison = await self._prepare(events)
        self._scouts_left = SCOUTS_MAX
        for index, event in enumerate(prepared):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            if event is None:
                continue
            if self.staging.dirty >= self._rows_max:
                return Folded(index, None)
            if self.parking.keys:
                waits, error = self._wait_behind(event, events[index])
                if waits:
                    continue
                if error is not None:
                    return Folded(index, error)
            error = await self._fold_one(events, index, event)
            if error is not None and not self._park(events[index], event, error):
                return Folded(index, error)
        if poison is not None and self._park(events[len(prepared)], None, poison):
            return Folded(len(prepared) + 1, None)
        return Folded(len(prepared), poison)

    async def fold_parked(self, stored: StoredEvent) -> Exception | None:
        """Fold an event that was parked; give what it raised."""
        try:
            event = self._decode(stored)
        except Exception as error:
            return error
        return None if event is None else await self._fold_one([stored], 0, event)

    # -- what is not folded -------------------------------------------------------------------

    def _key_of(self, event: Event | None, stored: StoredEvent) -> str:
        """Give the key whose events are kept in order."""
        sequence = self._definition.sequence
        if sequence is None:
            return stored.stream
        if event is None:
            event = self._registry.decode(stored)
        key: Any = sequence(event, decode_meta(stored))
        if not isinstance(key, str):
            raise UsageError(
                f"`sequence` of projection {self._definition.name} gave {type(key).__name__} for "
                f"{stored.name}: it gives a str"
            )
        return key

    def _is_skipped(self, stored: StoredEvent) -> bool:
        """Tell whether somebody decided to skip it: this very event, not one in its place."""
        return bool(self.skipped) and self.skipped.get(stored.position) == stored.checksum

    def _is_mine(self, event: Event | None, stored: StoredEvent) -> bool:
        slices = self._definition.slices
        return slices == 1 or slice_of(self._key_of(event, stored), slices) == self._slice

    def _wait_behind(self, event: Event, stored: StoredEvent) -> tuple[bool, Exception | None]:
        """Park an event whose key waits already; tell whether it was, or why it cannot be."""
        try:
            key = self._key_of(event, stored)
        except Exception as error:
            return False, error
        if key not in self.parking.keys:
            return False, None
        if self.parking.park(stored, key, None, self._now()):
            return True, None
        return False, UsageError(
            f"{self.parking.count} events are parked (Limits.parked_events), and one more would "
            f"have to be: mend the handlers, then retry what is parked, or skip it"
        )

    def _park(self, stored: StoredEvent, event: Event | None, error: Exception) -> bool:
        """Park what failed; tell whether it was."""
        if self.patience and may_pass(error):
            return False
        try:
            key = self._key_of(event, stored)
        except Exception:
            return False
        return self.parking.park(stored, key, error, self._now())

    async def _prepare(
        self, events: Sequence[StoredEvent]
    ) -> tuple[Sequence[Event | None], Exception | None]:
        """Decode what is handled, and fetch the rows that `keys` name; stop at what fails."""
        prepared: list[Event | None] = []
        wanted: Wanted = {}
        poison: Exception | None = None
        by_stream = self._definition.slices > 1 and self._definition.sequence is None
        for index, stored in enumerate(events):
            if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            if stored.name not in self._names or self._is_skipped(stored):
                prepared.append(None)
                continue
            if by_stream and slice_of(stored.stream, self._definition.slices) != self._slice:
                prepared.append(None)
                continue
            try:
                event = self._decode(stored)
                if event is not None and not by_stream and not self._is_mine(event, stored):
                    event = None
                handler = None if event is None else self._handler_of(event, stored)
                if handler is not None and handler.keys is not None:
                    assert event is not None
                    self._add_keys(wanted, handler, event, stored)
            except Exception as error:
                poison = error
                break
            prepared.append(event)
            if wanted and sum(map(len, wanted.values())) >= self._rows_max:
                break
        await self._fill(wanted)
        return prepared, poison

    def _decode(self, stored: StoredEvent) -> Event | None:
        """Give the event, or None where it is retired or today one that nobody here handles."""
        event = self._registry.decode(stored)
        if event is None or type(event).event_name not in self._definition.event_names:
            return None
        return event

    def _handler_of(self, event: Event, stored: StoredEvent) -> ProjectionHandler:
        handler = self._definition.handlers.get(type(event))
        if handler is None:
            raise Damaged(
                stored.position,
                f"projection {self._definition.name} handles {stored.name}, but not its version "
                f"{stored.event_version}: add a handler of {type(event).__name__}",
            )
        return handler

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

    async def _fold_one(
        self, events: Sequence[StoredEvent], index: int, event: Event
    ) -> Exception | None:
        """Fold one event, fetching what it misses; give what it raised."""
        stored = events[index]
        while True:
            try:
                self._apply(event, stored)
            except MissingRow as missing:
                wanted: Wanted = {missing.attribute: {missing.key}}
            except Exception as error:
                self.staging.undo()
                return error
            else:
                self.staging.keep()
                self.events += 1
                return None
            self.staging.undo()
            if self._scouts_left > 0:
                self._scouts_left -= 1
                await self._scout(events[index + 1 :], wanted)
            await self._fill(wanted)
            # The handler may have changed its copy before it missed the row.
            again = self._decode(stored)
            assert again is not None, "what was decoded once is decoded again"
            event = again

    def _apply(self, event: Event, stored: StoredEvent) -> None:
        handler = self._definition.handlers[type(event)]
        misses = self.staging.misses
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
            if sum(map(len, wanted.values())) >= self._rows_max:
                return
            self._scout_one(stored, wanted)

    def _scout_one(self, stored: StoredEvent, wanted: Wanted) -> None:
        if self._is_skipped(stored):
            return
        for table in self.staging.tables.values():
            table.scouted = set()
        try:
            event = self._decode(stored)
            if event is not None and self._is_mine(event, stored):
                self._apply(event, stored)
        except Exception:  # noqa: S110 - it is run again in its turn, and then an error counts
            pass
        finally:
            self.staging.undo()
            for name, table in self.staging.tables.items():
                if table.scouted:
                    wanted.setdefault(name, set()).update(table.scouted)
                table.scouted = None

    async def _fill(self, wanted: Wanted) -> None:
        """Fetch the rows of these keys, and note which keys have none."""
        if not wanted:
            return
        self.fetches += 1
        found = await self._fetch({name: list(keys) for name, keys in wanted.items()})
        for name, keys in wanted.items():
            table = self.staging.tables[name]
            place = self._definition.tables[name].shape.key_place
            rows: Iterable[Flat] = found.get(name, ())
            by_key = {flat[place]: flat for flat in rows}
            assert by_key.keys() <= keys, "only rows that were asked for come back"
            for key in keys:
                table.fill(key, by_key.get(key))
