"""What one ask of a watched query reads: noted before it is read, so that no change is missed.

Rules: what it reads is what it must be asked again for. Its position is one that all of it surely
contains: of what was taken back meanwhile it says nothing. It asks nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..model.conditions import Filter
from ..model.projection import TableDefinition
from ..model.rows import Scalar
from .question import Question

__all__ = ["Notes", "Reading", "Stand"]

Filters: TypeAlias = tuple[Filter, ...]


class Stand(NamedTuple):
    """What queries can see of a projection at a moment."""

    position: int
    transactions: int
    """Those that are seen for certain."""
    resets: int


class Notes(Protocol):
    """Where it is noted who has read what, and how far the views are."""

    @property
    def rows_max(self) -> int:
        """Rows of a table that are noted one by one."""
        ...

    def begin(self, question: Question, *, again: bool) -> None:
        """Note that a query is asked, or asked once more."""
        ...

    def stands(self) -> Mapping[str, Stand]:
        """Give what queries can see of each projection."""
        ...

    def transactions(self, projection: str, /) -> tuple[int, int]:
        """See `ViewsStore.transactions`."""
        ...

    def note_table(self, question: Question, table: str) -> None:
        """Note that an ask reads a table."""
        ...

    def note_some(self, question: Question, table: str, filters: Filters) -> None:
        """Note that an ask reads what passes the filters."""
        ...

    def note_row(self, question: Question, table: str, key: Scalar) -> None:
        """Note that an ask reads a row."""
        ...


class Reading:
    """What one ask has read so far, and where the views stood before it did."""

    def __init__(self, live: Notes, question: Question) -> None:
        self.tables: set[str] = set()
        self.rows: set[tuple[str, Scalar]] = set()
        self.some_rows: set[tuple[str, Filters]] = set()
        self.positions: dict[str, int] = {}
        """Of the projections that it reads: what they surely contained."""
        self.begun = 0
        self._live = live
        self._question = question
        self._before: Mapping[str, Stand] = {}
        """Of all projections before the first read."""

    def begin(self) -> None:
        """It is asked now, perhaps once more."""
        self.begun += 1
        self.tables, self.rows, self.some_rows = set(), set(), set()
        self.positions, self._before = {}, {}
        self._live.begin(self._question, again=self.begun > 1)

    def row(self, table: TableDefinition, key: Scalar) -> None:
        """It reads the row with a key, or that there is none."""
        if len(self.rows) >= self._live.rows_max:
            self.table(table)
            return
        self._look(table.projection)
        self.rows.add((table.name, key))
        self._live.note_row(self._question, table.name, key)
        self._notice(table.projection)

    def some(self, table: TableDefinition, filters: Filters) -> None:
        """It reads of all rows that pass the filters."""
        if len(self.some_rows) >= self._live.rows_max:
            self.table(table)
            return
        self._look(table.projection)
        self.some_rows.add((table.name, filters))
        self._live.note_some(self._question, table.name, filters)
        self._notice(table.projection)

    def found(self, table: TableDefinition, keys: Sequence[Scalar]) -> None:
        """It was given the rows with these keys, which may come to pass the filters no more."""
        if table.name in self.tables:
            return
        if len(self.rows) + len(keys) > self._live.rows_max:
            self.table(table)
            return
        for key in keys:
            self.rows.add((table.name, key))
            self._live.note_row(self._question, table.name, key)
        self._notice(table.projection)

    def table(self, table: TableDefinition) -> None:
        """It may read any row of a table."""
        self.statement()
        self.selected([(table.projection, table.name)])

    def statement(self) -> None:
        """It reads what shows only when it is read."""
        if not self._before:
            self._before = self._live.stands()

    def selected(self, names: Iterable[tuple[str, str]]) -> None:
        """It reads any rows of these tables, or has just read them."""
        for projection, table in names:
            self._look(projection)
            self.tables.add(table)
            self._live.note_table(self._question, table)
            self._notice(projection)

    def _look(self, projection: str) -> None:
        self.statement()
        self.positions[projection] = self._before[projection].position

    def _notice(self, projection: str) -> None:
        """Have it asked again where what it reads, in an older state, has changed unnoticed."""
        if self._live.transactions(projection)[1] != self._before[projection].transactions:
            self._question.due = True

    def position(self) -> int:
        """Give a position that all of it surely contains: 0 where some was taken back meanwhile."""
        now = self._live.stands()
        if any(now[name].resets != self._before[name].resets for name in self.positions):
            return 0
        return min(self.positions.values(), default=0)
