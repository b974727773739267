"""Values of PostgreSQL as SQLite gives them: whole numbers of sums, and floats of the rest.

Rules: `sum` of whole numbers is a `numeric`, and comes back as an int; what has a fraction comes
back as a float. A row that is read is measured, so that no answer grows beyond its bound. This file
is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

__all__ = ["bytes_of", "values_of"]


def values_of(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Give the rows of an answer as tuples."""
    return [tuple([_number(v) if type(v) is Decimal else v for v in row]) for row in rows]


def _number(value: Decimal) -> int | float:
    exponent = value.as_tuple().exponent
    return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)


def bytes_of(rows: Iterable[Sequence[Any]], places: Sequence[int]) -> int:
    """Give how many bytes the texts and bytes at some places of rows have."""
    size = 0
    for row in rows:
        for place in places:
            value = row[place]
            if isinstance(value, str) and not value.isascii():
                size += len(value.encode())
            elif isinstance(value, str | bytes):
                size += len(value)
    return size
