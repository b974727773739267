"""Interest: who has read which rows and tables of the views, and so who must look again.

Rules: it is noted before a row is read, so that no change falls in between; noting twice is noting
once. A reader is found by a row that it has read, or by any row of a table that it has read more of
than single rows. Finding costs by the rows that changed or by those that were read, whichever are
fewer. This file knows no async, clock or store, and nothing of what a reader is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from .rows import Scalar

__all__ = ["Interest"]

R = TypeVar("R", bound=Hashable)


class Interest(Generic[R]):
    """All readers, by what they have read."""

    def __init__(self) -> None:
        self._tables: dict[str, set[R]] = {}
        self._rows: dict[str, dict[Scalar, set[R]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nobody has read anything."""
        return not (self._tables or self._rows)

    def note_table(self, reader: R, table: str) -> None:
        """Note that a reader depends on every row of a table."""
        self._tables.setdefault(table, set()).add(reader)

    def note_row(self, reader: R, table: str, key: Scalar) -> None:
        """Note that a reader depends on one row, whether it is there or not."""
        self._rows.setdefault(table, {}).setdefault(key, set()).add(reader)

    def drop_table(self, reader: R, table: str) -> None:
        """Forget one `note_table`."""
        _discard(self._tables, table, reader)

    def drop_row(self, reader: R, table: str, key: Scalar) -> None:
        """Forget one `note_row`."""
        rows = self._rows.get(table)
        if rows is not None:
            _discard(rows, key, reader)
            if not rows:
                del self._rows[table]

    def in_table(self, table: str) -> Iterator[R]:
        """Give everybody who has read anything of a table; some perhaps twice."""
        yield from self._tables.get(table, ())
        for readers in self._rows.get(table, {}).values():
            yield from readers

    def in_rows(self, table: str, changed: Mapping[Scalar, object]) -> Iterator[R]:
        """Give everybody whom a change of these rows concerns; some perhaps twice."""
        yield from self._tables.get(table, ())
        rows = self._rows.get(table)
        if rows:
            # The shorter one is gone through.
            for key in rows.keys() & changed.keys():
                yield from rows[key]


def _discard(sets: dict[Any, set[R]], place: Hashable, reader: R) -> None:
    readers = sets.get(place)
    if readers is not None:
        readers.discard(reader)
        if not readers:
            del sets[place]
