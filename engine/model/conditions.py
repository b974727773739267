"""Conditions: which values of a field a query asks for, and whether a row has one of them.

Rules: a range has one bound or two, each in it or not; what could hold no value is refused, and so
is a value of another type than the field's. Ranges are for what has an order in SQL as it has in
Python: numbers, texts, dates and times. A filter compares what SQL holds, in the same way as SQL
does, so that both find the same rows. This file knows no SQL statement, async or store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from ..errors import InvalidInput, UsageError
from .given import named
from .rows import Column, Flat, RowShape, Scalar

__all__ = [
    "Filter",
    "OneOf",
    "Range",
    "above",
    "at_least",
    "at_most",
    "below",
    "between",
    "filters_of",
    "key_of",
    "one_of",
]

T = TypeVar("T")


class Range(msgspec.Struct, Generic[T], frozen=True):
    """Values from one bound to another; made by `at_least`, `above`, `at_most`, `below`, `between`.

    `at_least(monday) & below(tuesday)` has a bound of each.
    """

    low: T | None = None
    """The lower bound; None for none."""
    high: T | None = None
    """The upper bound; None for none."""
    with_low: bool = True
    """Whether the bound itself is in it."""
    with_high: bool = True
    """The same of the upper one."""

    def __and__(self, other: Range[T]) -> Range[T]:
        """Give the values that are in both; raise InvalidInput where both have the same bound."""
        if not _is_a(Range, other):
            return NotImplemented
        low, high = (self, other) if self.low is not None else (other, self)
        if low.high is not None or high.low is not None or high.high is None:
            raise InvalidInput(
                "two ranges are joined where one has a lower bound and the other an upper one, as "
                "in `at_least(a) & below(b)`"
            )
        return Range(low.low, high.high, low.with_low, high.with_high)


class OneOf(msgspec.Struct, Generic[T], frozen=True):
    """Any of some values; made by `one_of`."""

    values: tuple[T | None, ...]
    """Any of these; None is a value too."""


def at_least(value: T) -> Range[T]:
    """Ask for a value and all above it."""
    return Range(low=_bound(value))


def above(value: T) -> Range[T]:
    """Ask for all above a value, and not for itself."""
    return Range(low=_bound(value), with_low=False)


def at_most(value: T) -> Range[T]:
    """Ask for a value and all below it."""
    return Range(high=_bound(value))


def below(value: T) -> Range[T]:
    """Ask for all below a value, and not for itself."""
    return Range(high=_bound(value), with_high=False)


def between(low: T, high: T) -> Range[T]:
    """Ask for all from `low` to `high`, both included. Raises InvalidInput for None."""
    return Range(_bound(low), _bound(high))


def one_of(values: Collection[T | None]) -> OneOf[T]:
    """Ask for any of these values; None is one that a field may have.

    There may be `Limits.query_values` of them. Without any no row is found. Raises InvalidInput for
    what is no collection.
    """
    if _is_a(str | bytes, values) or not _is_a(Collection, values):
        raise InvalidInput(
            f"one_of takes a list or a set of values, not {named(values)}: write `one_of([...])`"
        )
    return OneOf(tuple(values))


def _is_a(kind: Any, given: object) -> bool:
    """Look at what a caller gave, whatever it was annotated to be."""
    return isinstance(given, kind)


def _bound(value: T) -> T:
    if value is None:
        raise InvalidInput("a range has None for a bound, which is neither above nor below a value")
    return value


class Filter(msgspec.Struct, frozen=True):
    """What one column of a row must hold, as SQL holds it."""

    name: str
    place: int
    """Of the column in the row."""
    among: tuple[Scalar, ...] | None = None
    """One of these; None where it is a range."""
    low: Scalar = None
    high: Scalar = None
    with_low: bool = True
    with_high: bool = True

    @property
    def is_equality(self) -> bool:
        """Whether one value is asked for."""
        return self.among is not None and len(self.among) == 1

    def holds(self, flat: Flat) -> bool:
        """Tell whether a row is one that is asked for."""
        value: Any = flat[self.place]
        if self.among is not None:
            return value in self.among
        if value is None:
            return False
        if self.low is not None and (value < self.low or (value == self.low and not self.with_low)):
            return False
        return self.high is None or value < self.high or (value == self.high and self.with_high)


def filters_of(
    table: str, shape: RowShape, where: Mapping[str, Any] | None, values_max: int
) -> tuple[Filter, ...]:
    """Give what `where` asks of a row of a table.

    Raises UsageError for what is no field to look up; InvalidInput for a range or a list that the
    field cannot have, and for a single value that no column can hold; TypeError for a single value
    of another type.
    """
    return tuple(
        _filter_of(f"{table}.{name}", _plain_column(table, shape, name), asked, values_max)
        for name, asked in (where or {}).items()
    )


def key_of(shape: RowShape, key: Any) -> Scalar:
    """Give a key that is asked for as SQL holds it.

    Raises InvalidInput for what no key can be, and TypeError for a value of another type.
    """
    return _held(shape.encode_key, key)


def _plain_column(table: str, shape: RowShape, name: str) -> tuple[int, Column]:
    for place, column in enumerate(shape.columns):
        if column.name == name and not column.is_json:
            return place, column
    fit = [column.name for column in shape.columns if not column.is_json]
    turned = ", and descending=True for the other way round" if name.startswith("-") else ""
    raise UsageError(
        f"{name!r} is no field of {table} to look up or order by: use one of {fit}{turned}"
    )


def _filter_of(where: str, found: tuple[int, Column], asked: Any, values_max: int) -> Filter:
    place, column = found
    if _is_a(Range, asked):
        return _range_of(where, place, column, asked)
    if isinstance(asked, list | tuple | set | frozenset):
        raise UsageError(
            f"{where} is asked for several values: write one_of([...]) for any of them, or "
            f"between(first, last) for a range"
        )
    if not _is_a(OneOf, asked):
        return Filter(column.name, place, (None if asked is None else _held(column.encode, asked),))
    given: tuple[Any, ...] = asked.values
    if len(given) > values_max:
        raise InvalidInput(
            f"one_of for {where} has {len(given)} values, above Limits.query_values at "
            f"{values_max}: ask in parts, or raise the limit"
        )
    values = {_encoded(where, column, value): None for value in given}
    return Filter(column.name, place, tuple(values))


def _range_of(where: str, place: int, column: Column, asked: Range[Any]) -> Filter:
    if not column.is_ordered:
        raise InvalidInput(
            f"{where} has no order to ask for a range of: ranges are for numbers, texts, dates and "
            f"times. Use one_of"
        )
    low: Any = None if asked.low is None else _encoded(where, column, asked.low)
    high: Any = None if asked.high is None else _encoded(where, column, asked.high)
    if low is not None and high is not None:
        both = asked.with_low and asked.with_high
        if low > high or (low == high and not both):
            raise InvalidInput(
                f"the range for {where} ends before it begins, and holds no value: give the lower "
                f"bound first"
            )
    return Filter(column.name, place, None, low, high, asked.with_low, asked.with_high)


def _held(encode: Callable[[Any], Scalar], value: Any) -> Scalar:
    try:
        return encode(value)
    except ValueError as error:
        # It is what a client has sent, most often: a NUL in a path, a number of hundred digits.
        raise InvalidInput(f"what is asked for cannot be there: {error}") from error


def _encoded(where: str, column: Column, value: Any) -> Scalar:
    if value is None:
        return None
    try:
        return column.encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"what is asked of {where} cannot be there: {error}") from error
