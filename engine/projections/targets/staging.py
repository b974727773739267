"""Staging: a batch of events folded into rows in memory, before anything is written.

Rules: an event counts whole or not at all: what a failing handler had changed is undone. A row
that is not in memory is fetched and its event folded again, so a handler may run more than once;
`keys` only makes that rare. Rows are kept flat between batches, up to a bound, since the projector
is their only writer. The same rows that are read from here are those that will be written. This
file writes nothing, and reads views only through the function that it is given.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ...errors import UsageError
from ...limits import Limits
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Event
from ...model.projection import ProjectionDefinition, ProjectionHandler, TableDefinition, slice_of
from ...model.rows import Flat, Scalar
from ...model.stored import ENCODING_JSON, StoredEvent
from ...runtime.contained import contained
from ..scope import Scope

__all__ = ["Fetch", "Fold", "Folded", "MissingRow", "Staging", "TableStage", "weight_of"]

Fetch: TypeAlias = Callable[
    [Mapping[str, Sequence[Scalar]]], Awaitable[Mapping[str, Sequence[Flat]]]
]
"""Gives the rows that there are, by table attribute, of the keys asked for."""
Wanted: TypeAlias = dict[str, set[Scalar]]
"""Keys whose rows are not in memory, by table attribute."""

EVENTS_PER_TURN: Final = 250
"""Events after which the event loop gets its turn."""
BATCH_SHARE: Final = 8
"""Which part of the bytes one batch may change: as many batches may be on their way."""
ROW_BYTES: Final = 64
"""What a row takes at least."""
STRANGE_ROWS: Final = 64
"""How many rows are fetched at first of a table none of whose rows was seen."""
SCOUTS_MAX: Final = 8
"""How often one batch looks ahead for rows that later events will miss."""


class _Unknown(enum.Enum):
    """What stands for "not in memory", where None means that there is no such row."""

    UNKNOWN = "unknown"


_UNKNOWN: Final = _Unknown.UNKNOWN
_MISSED: Final = Exception("a row is not in memory")
"""Stands for an event that is to be folded again; nobody sees it."""
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


def weight_of(flat: Flat | None) -> int:
    """Give about what a row takes in memory, in bytes and characters."""
    if flat is None:
        return ROW_BYTES
    return ROW_BYTES + sum([len(value) for value in flat if isinstance(value, str | bytes)])


class TableStage:
    """The rows of one table that are in memory, in two generations: what is used stays young."""

    def __init__(self, attribute: str, undo: list[Undo], misses: list[MissingRow]) -> None:
        self.attribute = attribute
        self.young: dict[Scalar, Flat | None] = {}
        self.old: dict[Scalar, Flat | None] = {}
        self.dirty: set[Scalar] = set()
        self.scouted: set[Scalar] | None = None
        """While looking ahead: collects the missing keys, which then read as no row."""
        self.read = 0
        """Weight of what was fetched, or found among the old, since `Staging` looked."""
        self.seen = self.seen_weight = 0
        """Rows that were fetched or changed, and what they weigh together."""
        self._undo = undo
        self._misses = misses

    def get(self, key: Scalar) -> Flat | None:
        """Give a row, or None where there is none; raise MissingRow where that is not known."""
        cell: Cell = self.young.get(key, _UNKNOWN)
        if cell is _UNKNOWN:
            cell = self._find(key)
            if cell is _UNKNOWN:
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
        dirty = self.dirty
        before: Cell = self.young.get(key, _UNKNOWN)
        if before is _UNKNOWN:
            before = self._find(key)
        self._undo.append((self, key, before, key in dirty))
        self.young[key] = flat
        dirty.add(key)

    def restore(self, key: Scalar, before: Cell, was_dirty: bool) -> None:
        """Take back one `set`."""
        if before is _UNKNOWN:
            del self.young[key]
        else:
            self.young[key] = before
        if not was_dirty:
            self.dirty.discard(key)

    def knows(self, key: Scalar) -> bool:
        """Whether the row is in memory; if so it stays young."""
        return self._find(key) is not _UNKNOWN

    def fill(self, key: Scalar, flat: Flat | None) -> None:
        """Keep what was fetched."""
        assert key not in self.dirty, "a fetched row would undo a change that is not written yet"
        self.young[key] = flat
        weight = weight_of(flat)
        self.read += weight
        self.seen += 1
        self.seen_weight += weight

    def fetched_at_once(self, weight: int) -> int:
        """Give how many rows weigh so much, by those that were seen."""
        return max(1, weight * self.seen // self.seen_weight) if self.seen else STRANGE_ROWS

    def _find(self, key: Scalar) -> Cell:
        cell: Cell = self.young.get(key, _UNKNOWN)
        if cell is _UNKNOWN and key in self.old:
            cell = self.young[key] = self.old.pop(key)
            self.read += weight_of(cell)
        return cell


Undo: TypeAlias = tuple[TableStage, Scalar, Cell, bool]


class Staging:
    """All tables of a projection in memory, with what the current event has changed."""

    def __init__(
        self, tables: Mapping[str, TableDefinition], rows_max: int, bytes_max: int
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self.changed = 0
        """Weight of what the batch has changed, each change counted."""
        self._younger = 0
        """Weight of what has come into memory in the batches before, since rows were forgotten."""
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

    @property
    def has_its_share(self) -> bool:
        """Whether the batch has changed or read as much as one may before it is written."""
        share = self._bytes_max // BATCH_SHARE
        return self.changed >= share or self.changed + self.read >= 2 * share

    @property
    def read(self) -> int:
        """Weight of what the batch has brought into memory."""
        read = 0
        for table in self.tables.values():
            read += table.read
        return read

    def keep(self) -> int:
        """Make what the current event changed part of the batch; give how often it did."""
        changes = len(self._undo)
        for table, key, _, _ in self._undo:
            weight = weight_of(table.young[key])
            self.changed += weight
            table.seen += 1
            table.seen_weight += weight
        self._undo.clear()
        return changes

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
        """Note that the changes are on their way, and forget rows where there are too many.

        Whoever fetches a row again is served behind them.
        """
        young = 0
        for table in self.tables.values():
            table.dirty.clear()
            young += len(table.young)
        self._younger += self.changed + self.read
        if young > self._rows_max // 2 or self._younger > self._bytes_max // 2:
            self._younger = 0
            for table in self.tables.values():
                table.old, table.young = table.young, {}
        self._forget_weights()

    def _forget_weights(self) -> None:
        self.changed = 0
        for table in self.tables.values():
            table.read = 0

    def clear(self) -> None:
        """Forget everything."""
        self._undo.clear()
        for table in self.tables.values():
            table.young, table.old = {}, {}
            table.dirty.clear()
        self._younger = 0
        self._forget_weights()


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
        self.picking = Scope(definition, registry, limits, slice_=slice_, parks=parks, now=now)
        self.skipped = self.picking.skipped
        self.refused: dict[int, Exception] = {}
        """Why the database does not take the rows of an event, by its position."""
        self.events = 0
        """Events folded."""
        self.fetches = 0
        """Round trips for rows that were not in memory."""
        definition = self._definition = self.picking.definition
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
        picking = self.picking
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
            if picking.parking.keys:
                waits, error = picking.wait_behind(event, events[index])
                if waits:
                    continue
                if error is not None:
                    return Folded(index, error)
            error = self.refused.get(events[index].position) if self.refused else None
            error = error or self._fold_at_once(event, events[index])
            if error is _MISSED:
                error = await self._fold_one(events, index, event)
            if error is not None and not picking.park(events[index], error):
                return Folded(index, error)
        if poison is not None and picking.park(events[len(prepared)], poison):
            return Folded(len(prepared) + 1, None)
        return Folded(len(prepared), poison)

    async def fold_parked(self, stored: StoredEvent) -> Exception | None:
        """Fold an event that was parked; give what it raised."""
        if self.picking.is_skipped(stored):
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
            if stored.name not in self._names or (skips and self.picking.is_skipped(stored)):
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
                if event is not None and not by_stream and not self.picking.is_mine(event, stored):
                    event = None
                if event is not None:
                    self.picking.check_handled(event, stored)
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
        decode = self._plain.get(kind, _UNKNOWN)
        if decode is _UNKNOWN:
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
        if self.picking.is_skipped(stored):
            return
        for table in self.staging.tables.values():
            table.scouted = set()
        try:
            event = self._decode(stored)
            if event is not None and self.picking.is_mine(event, stored):
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
