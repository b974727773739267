"""Staging: the rows of a projection in memory, with what a batch has changed and can take back.

Rules: an event counts whole or not at all: what a failing handler had changed is undone. Rows are
kept flat between batches, up to a bound, since the projector is their only writer. The same rows
that are read from here are those that will be written. This file writes nothing and reads no views.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

from ...model.projection import TableDefinition
from ...model.rows import Flat, Scalar

__all__ = ["BATCH_SHARE", "UNKNOWN", "MissingRow", "Staging", "TableStage", "weight_of"]

BATCH_SHARE: Final = 8
"""Which part of the bytes one batch may change: as many batches may be on their way."""
ROW_BYTES: Final = 64
"""What a row takes at least."""
STRANGE_ROWS: Final = 64
"""How many rows are fetched at first of a table none of whose rows was seen."""


class _Unknown(enum.Enum):
    """What stands for "not in memory", where None means that there is no such row."""

    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN
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
    weight = ROW_BYTES
    for value in flat or ():  # asked for each event: a comprehension would be a call of its own
        if type(value) is str or type(value) is bytes:
            weight += len(value)
    return weight


class Reads:
    """What the batch has brought into memory: fetched, or found among the old rows."""

    __slots__ = ("weight",)

    def __init__(self) -> None:
        self.weight = 0


class TableStage:
    """The rows of one table that are in memory, in two generations: what is used stays young."""

    def __init__(
        self, attribute: str, undo: list[Undo], misses: list[MissingRow], reads: Reads
    ) -> None:
        self.attribute = attribute
        self.young: dict[Scalar, Flat | None] = {}
        self.old: dict[Scalar, Flat | None] = {}
        self.dirty: set[Scalar] = set()
        self.scouted: set[Scalar] | None = None
        """While looking ahead: collects the missing keys, which then read as no row."""
        self.seen = self.seen_weight = 0
        """Rows that were fetched or changed, and what they weigh together."""
        self._undo = undo
        self._misses = misses
        self._reads = reads

    def get(self, key: Scalar) -> Flat | None:
        """Give a row, or None where there is none; raise MissingRow where that is not known."""
        cell: Cell = self.young.get(key, UNKNOWN)
        if cell is UNKNOWN:
            cell = self._find(key)
            if cell is UNKNOWN:
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
        before: Cell = self.young.get(key, UNKNOWN)
        if before is UNKNOWN:
            before = self._find(key)
        self._undo.append((self, key, before, key in dirty))
        self.young[key] = flat
        dirty.add(key)

    def restore(self, key: Scalar, before: Cell, was_dirty: bool) -> None:
        """Take back one `set`."""
        if before is UNKNOWN:
            del self.young[key]
        else:
            self.young[key] = before
        if not was_dirty:
            self.dirty.discard(key)

    def knows(self, key: Scalar) -> bool:
        """Whether the row is in memory; if so it stays young."""
        return self._find(key) is not UNKNOWN

    def fill(self, key: Scalar, flat: Flat | None) -> None:
        """Keep what was fetched."""
        assert key not in self.dirty, "a fetched row would undo a change that is not written yet"
        self.young[key] = flat
        weight = weight_of(flat)
        self._reads.weight += weight
        self.seen += 1
        self.seen_weight += weight

    def fetched_at_once(self, weight: int) -> int:
        """Give how many rows weigh so much, by those that were seen."""
        return max(1, weight * self.seen // self.seen_weight) if self.seen else STRANGE_ROWS

    def _find(self, key: Scalar) -> Cell:
        cell: Cell = self.young.get(key, UNKNOWN)
        if cell is UNKNOWN and key in self.old:
            cell = self.young[key] = self.old.pop(key)
            self._reads.weight += weight_of(cell)
        return cell


Undo: TypeAlias = tuple[TableStage, Scalar, Cell, bool]


class Staging:
    """All tables of a projection in memory, with what the current event has changed."""

    def __init__(
        self, tables: Mapping[str, TableDefinition], rows_max: int, bytes_max: int
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._share = bytes_max // BATCH_SHARE
        self.changed = 0
        """Weight of what the batch has changed, each change counted."""
        self._younger = 0
        """Weight of what has come into memory in the batches before, since rows were forgotten."""
        self._undo: list[Undo] = []
        self.misses: list[MissingRow] = []
        """What the current event read and is not in memory, whatever its handler made of that."""
        self._reads = Reads()
        self.tables = {
            name: TableStage(name, self._undo, self.misses, self._reads) for name in tables
        }

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
        if self.changed >= self._share:
            return True
        return self.changed + self._reads.weight >= 2 * self._share

    @property
    def read(self) -> int:
        """Weight of what the batch has brought into memory."""
        return self._reads.weight

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
        self.changed = self._reads.weight = 0

    def clear(self) -> None:
        """Forget everything."""
        self._undo.clear()
        for table in self.tables.values():
            table.young, table.old = {}, {}
            table.dirty.clear()
        self._younger = 0
        self._forget_weights()
