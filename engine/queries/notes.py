"""What is noted of watched queries: who has read what, and how far the views were that he read.

Rules: what an answer reads is noted before it is read, so no change is missed. A question keeps
notes of what its last ask has read, and of nothing else. It asks nothing and wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from typing import NamedTuple, Protocol, TypeAlias

from ..model.conditions import Filter
from ..model.projection import ProjectionDefinition
from ..model.rows import Scalar
from ..stores.contract.views import Changes, Part
from .interest import Interest
from .question import Question

__all__ = ["Filters", "Notes", "Placed", "Projected", "Stand"]

Filters: TypeAlias = tuple[Filter, ...]


class Placed(Protocol):
    """A projection, as far as its place goes."""

    @property
    def definition(self) -> ProjectionDefinition:
        """What it is."""
        ...

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        ...

    @property
    def resets(self) -> int:
        """Another number whenever what queries saw was taken back in between."""
        ...


class Projected(Placed, Protocol):
    """A projector, as far as its tables and its place go."""

    def shows(self, part: Part) -> bool:
        """Whether queries see what a part keeps."""
        ...


class Stand(NamedTuple):
    """What queries can see of a projection at a moment."""

    position: int
    transactions: int
    """Those that are seen for certain."""
    resets: int


class Notes:
    """The notes of all questions of one engine."""

    def __init__(
        self,
        projectors: Mapping[str, Projected],
        transactions: Callable[[str], tuple[int, int]],
        rows_max: int,
    ) -> None:
        self.transactions = transactions
        """See `ViewsStore.transactions`."""
        self.rows_max = rows_max
        """Rows of a table that are noted one by one."""
        self.asks = self.torn = 0
        """Asks that have begun, and those among them that had seen two states and began anew."""
        self._projectors = projectors
        self._interest: Interest[Question] = Interest()

    def begin(self, question: Question, *, again: bool) -> None:
        """Note that a query is asked, or asked once more since it has seen two states."""
        # What changes from now on asks again; what changed before is seen.
        question.due = False
        question.begun += 1
        self.asks += 1
        self.torn += again

    def stands(self) -> Mapping[str, Stand]:
        """Give what queries can see of each projection."""
        return {
            name: Stand(projector.position, self.transactions(name)[0], projector.resets)
            for name, projector in self._projectors.items()
        }

    def position_of(self, projection: str) -> int:
        """Give what queries can see of a projection."""
        return self._projectors[projection].position

    def concerned(self, part: Part, changes: Changes | None) -> Iterator[Question]:
        """Give the questions whose answer a transaction may change; some perhaps twice.

        None where it is not known what has changed.
        """
        definition = part.definition
        if self._interest.is_empty or not self._projectors[definition.name].shows(part):
            return
        if changes is None or changes.everything:
            for name in definition.table_names:
                yield from list(self._interest.in_table(name))
        else:
            for attribute, rows in changes.rows.items():
                table = definition.tables[attribute]
                yield from list(self._interest.in_rows(table.name, rows))

    def note_table(self, question: Question, table: str) -> None:
        """Note that an ask reads a table."""
        if table not in question.tables:
            question.tables.add(table)
            self._interest.note_table(question, table)

    def note_some(self, question: Question, table: str, filters: Filters) -> None:
        """Note that an ask reads what passes the filters."""
        if (table, filters) not in question.some:
            question.some.add((table, filters))
            self._interest.note_some(question, table, filters)

    def note_row(self, question: Question, table: str, key: Scalar) -> None:
        """Note that an ask reads a row."""
        if (table, key) not in question.rows:
            question.rows.add((table, key))
            self._interest.note_row(question, table, key)

    def forget(
        self,
        question: Question,
        *,
        tables: Set[str] = frozenset(),
        rows: Set[tuple[str, Scalar]] = frozenset(),
        some: Set[tuple[str, Filters]] = frozenset(),
    ) -> None:
        """Forget what is noted for a question, but for these."""
        for table in question.tables - tables:
            self._interest.drop_table(question, table)
        for table, key in question.rows - rows:
            self._interest.drop_row(question, table, key)
        for table, filters in question.some - some:
            self._interest.drop_some(question, table, filters)
        question.tables &= tables
        question.rows &= rows
        question.some &= some
