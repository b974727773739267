"""Interest: who has read which rows and tables of the views, and so who must look again.

Rules: it is noted before a row is read, so that no change falls in between; noting twice is noting
once. A reader is found by a row that it has read, or by any row of a table that it has read more of
than single rows, or by the filters that the row passes now: a row that passed them before and was
in what it read is noted by its key. Finding costs by the rows that changed or by those that were
read, whichever are fewer; where many changed rows meet many ranges, all that asked for ranges are
found, which is too many and never too few. This file knows no async, clock or store, and nothing of
what a reader is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ..model.conditions import Filter
from ..model.rows import Flat, Scalar

__all__ = ["Interest"]

R = TypeVar("R", bound=Hashable)
Filters: TypeAlias = tuple[Filter, ...]

LOOKED_AT_MAX: Final = 20_000
"""Rows that are held against ranges for one transaction; about 10 ms."""


class Interest(Generic[R]):
    """All readers, by what they have read."""

    def __init__(self) -> None:
        self._tables: dict[str, set[R]] = {}
        self._rows: dict[str, dict[Scalar, set[R]]] = {}
        self._equal: dict[str, dict[tuple[int, ...], dict[Flat, set[R]]]] = {}
        """By table, the places of columns, and the values that are asked for in them."""
        self._ranges: dict[str, dict[Filters, set[R]]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nobody has read anything."""
        return not (self._tables or self._rows or self._equal or self._ranges)

    def note_table(self, reader: R, table: str) -> None:
        """Note that a reader depends on every row of a table."""
        self._tables.setdefault(table, set()).add(reader)

    def note_row(self, reader: R, table: str, key: Scalar) -> None:
        """Note that a reader depends on one row, whether it is there or not."""
        self._rows.setdefault(table, {}).setdefault(key, set()).add(reader)

    def note_some(self, reader: R, table: str, filters: Filters) -> None:
        """Note that a reader depends on every row that passes the filters from now on."""
        if _are_equalities(filters):
            places, values = _equality(filters)
            by_values = self._equal.setdefault(table, {}).setdefault(places, {})
            by_values.setdefault(values, set()).add(reader)
        else:
            self._ranges.setdefault(table, {}).setdefault(filters, set()).add(reader)

    def drop_some(self, reader: R, table: str, filters: Filters) -> None:
        """Forget one `note_some`."""
        if _are_equalities(filters):
            places, values = _equality(filters)
            by_places = self._equal.get(table, {})
            _discard(by_places.get(places, {}), values, reader)
            _prune(by_places, places)
            _prune(self._equal, table)
        else:
            _discard(self._ranges.get(table, {}), filters, reader)
            _prune(self._ranges, table)

    def drop_table(self, reader: R, table: str) -> None:
        """Forget one `note_table`."""
        _discard(self._tables, table, reader)

    def drop_row(self, reader: R, table: str, key: Scalar) -> None:
        """Forget one `note_row`."""
        rows = self._rows.get(table)
        if rows is not None:
            _discard(rows, key, reader)
            _prune(self._rows, table)

    def in_table(self, table: str) -> Iterator[R]:
        """Give everybody who has read anything of a table; some perhaps twice."""
        yield from self._tables.get(table, ())
        for readers in self._rows.get(table, {}).values():
            yield from readers
        for by_values in self._equal.get(table, {}).values():
            for readers in by_values.values():
                yield from readers
        for readers in self._ranges.get(table, {}).values():
            yield from readers

    def in_rows(self, table: str, changed: Mapping[Scalar, Flat | None]) -> Iterator[R]:
        """Give everybody whom a change of these rows concerns; some perhaps twice.

        `changed` has what they hold now; None for those that are gone.
        """
        yield from self._tables.get(table, ())
        rows = self._rows.get(table)
        if rows:
            # The shorter one is gone through.
            for key in rows.keys() & changed.keys():
                yield from rows[key]
        flats = [flat for flat in changed.values() if flat is not None]
        for places, by_values in self._equal.get(table, {}).items():
            for values in {tuple([flat[place] for place in places]) for flat in flats}:
                yield from by_values.get(values, ())
        ranges = self._ranges.get(table)
        if ranges:
            many = len(ranges) * len(flats) > LOOKED_AT_MAX
            for filters, readers in ranges.items():
                if many or any(all(t.holds(flat) for t in filters) for flat in flats):
                    yield from readers


def _are_equalities(filters: Filters) -> bool:
    return all(filter_.is_equality for filter_ in filters)


def _equality(filters: Filters) -> tuple[tuple[int, ...], Flat]:
    return (
        tuple(filter_.place for filter_ in filters),
        tuple(filter_.among[0] if filter_.among else None for filter_ in filters),
    )


def _prune(groups: dict[Any, Any], place: Hashable) -> None:
    if not groups.get(place, True):
        del groups[place]


def _discard(sets: dict[Any, set[R]], place: Hashable, reader: R) -> None:
    readers = sets.get(place)
    if readers is not None:
        readers.discard(reader)
        if not readers:
            del sets[place]
