"""What one ask of a watched query reads: noted before it is read, so that no change is missed.

Rules: what it reads is what it must be asked again for. Its position is one that all of it surely
contains: of what was taken back meanwhile it says nothing. It asks nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..model.projection import TableDefinition
from ..model.rows import Scalar
from .notes import Filters, Notes, Stand
from .question import Question

__all__ = ["Reading"]


class Reading:
    """What one ask has read so far, and where the views stood before it did."""

    def __init__(self, notes: Notes, question: Question) -> None:
        self.tables: set[str] = set()
        self.rows: set[tuple[str, Scalar]] = set()
        self.some_rows: set[tuple[str, Filters]] = set()
        self.positions: dict[str, int] = {}
        """Of the projections that it reads: what they surely contained."""
        self.begun = 0
        self._notes = notes
        self._question = question
        self._before: Mapping[str, Stand] = {}
        """Of all projections before the first read."""

    def begin(self) -> None:
        """It is asked now, perhaps once more."""
        self.begun += 1
        self.tables, self.rows, self.some_rows = set(), set(), set()
        self.positions, self._before = {}, {}
        self._notes.begin(self._question, again=self.begun > 1)

    def row(self, table: TableDefinition, key: Scalar) -> None:
        """It reads the row with a key, or that there is none."""
        if len(self.rows) >= self._notes.rows_max:
            self.table(table)
            return
        self._look(table.projection)
        self.rows.add((table.name, key))
        self._notes.note_row(self._question, table.name, key)
        self._notice(table.projection)

    def some(self, table: TableDefinition, filters: Filters) -> None:
        """It reads of all rows that pass the filters."""
        if len(self.some_rows) >= self._notes.rows_max:
            self.table(table)
            return
        self._look(table.projection)
        self.some_rows.add((table.name, filters))
        self._notes.note_some(self._question, table.name, filters)
        self._notice(table.projection)

    def found(self, table: TableDefinition, keys: Sequence[Scalar]) -> None:
        """It was given the rows with these keys, which may come to pass the filters no more."""
        if table.name in self.tables:
            return
        if len(self.rows) + len(keys) > self._notes.rows_max:
            self.table(table)
            return
        for key in keys:
            self.rows.add((table.name, key))
            self._notes.note_row(self._question, table.name, key)
        self._notice(table.projection)

    def table(self, table: TableDefinition) -> None:
        """It may read any row of a table."""
        self.statement()
        self.selected([(table.projection, table.name)])

    def statement(self) -> None:
        """It reads what shows only when it is read."""
        if not self._before:
            self._before = self._notes.stands()

    def selected(self, names: Iterable[tuple[str, str]]) -> None:
        """It reads any rows of these tables, or has just read them."""
        for projection, table in names:
            self._look(projection)
            self.tables.add(table)
            self._notes.note_table(self._question, table)
            self._notice(projection)

    def _look(self, projection: str) -> None:
        self.statement()
        self.positions[projection] = self._before[projection].position

    def _notice(self, projection: str) -> None:
        """Have it asked again where what it reads, in an older state, has changed unnoticed."""
        if self._notes.transactions(projection)[1] != self._before[projection].transactions:
            self._question.due = True

    def keep(self) -> None:
        """Keep the notes of what it has read, and those of no ask before it."""
        self._notes.forget(self._question, tables=self.tables, rows=self.rows, some=self.some_rows)

    def position(self) -> int:
        """Give a position that all of it surely contains: 0 where some was taken back meanwhile."""
        now = self._notes.stands()
        if any(now[name].resets != self._before[name].resets for name in self.positions):
            return 0
        return min(self.positions.values(), default=0)
