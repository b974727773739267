"""Columns of views: one field of a row each, and how its values cross to SQL and back.

Rules: a type whose values SQL cannot hold and give back is refused as its class is made, with the
mend in the message. Values keep their meaning exactly: numbers are numbers, times are UTC and sort
as text, nested values are JSON. This file knows no SQL statement, async or store.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import inspect

from ..errors import DefinitionError
from .annotations import UNRESOLVED
from .exact import change_of, holds_itself
from .texts import unfit
from .withheld import text_without_values

__all__ = [
    "INTEGER_MAX",
    "INTEGER_MIN",
    "Column",
    "Scalar",
    "bare_type",
    "name_of_type",
    "read_column",
]

Scalar: TypeAlias = str | int | float | bytes | None
"""What one column holds in SQL."""

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1


class Column(msgspec.Struct, frozen=True):
    """One field of a row, and how its values cross to SQL and back."""

    name: str
    sql: str
    """TEXT, INTEGER, REAL or BLOB."""
    nullable: bool
    is_json: bool
    """Whether it is nested, kept as JSON text: it can be read whole, not compared or ordered."""
    annotation: Any
    encode: Callable[[Any], Scalar]
    """Gives the SQL value; raises TypeError or ValueError for what the field cannot hold."""
    decode: Callable[[Any], Any] | None
    """Takes back what is not null; None where the SQL value is the field's value."""
    is_ordered: bool = False
    """Whether SQL orders its values as Python does: numbers, texts, dates and times."""


def read_column(owner: str, name: str, annotation: Any) -> Column:
    where = f"{owner}.{name}"
    try:
        info = inspect.type_info(annotation)
    except RecursionError:
        raise DefinitionError(holds_itself(where)) from None
    except (TypeError, *UNRESOLVED) as error:
        raise DefinitionError(
            f"{where} has a type that cannot be kept: {error}. Use types that msgspec decodes, "
            f"nested structs declared at the top of a module."
        ) from error
    info, nullable = bare_type(info)
    sql, encode, decode = _crossing(where, info, annotation)
    is_json = sql == "JSON"
    if nullable:
        encode = _or_none(encode)
    sql = "TEXT" if is_json else sql
    ordered = isinstance(info, _ORDERED)
    return Column(name, sql, nullable, is_json, annotation, encode, decode, ordered)


_ORDERED: Final = (
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.DateTimeType,
    inspect.DateType,
)


def bare_type(info: inspect.Type) -> tuple[inspect.Type, bool]:
    """Give a type without None and annotations, and whether None was in it."""
    nullable = False
    if isinstance(info, inspect.UnionType):
        others = [t for t in info.types if not isinstance(t, inspect.NoneType)]
        nullable = len(others) < len(info.types)
        info = others[0] if len(others) == 1 else info
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info, nullable


Crossing: TypeAlias = tuple[str, Callable[[Any], Scalar], Callable[[Any], Any] | None]


def _crossing(where: str, info: inspect.Type, annotation: Any) -> Crossing:
    """Give the SQL type of a field's type, and the functions there and back."""
    plain: tuple[tuple[Any, str, Callable[[str], Callable[[Any], Scalar]]], ...] = (
        (inspect.StrType, "TEXT", _text),
        (inspect.IntType, "INTEGER", _integer),
        (inspect.FloatType, "REAL", _real),
        (inspect.BytesType, "BLOB", _blob),
    )
    for kind, sql, encoder in plain:
        if isinstance(info, kind):
            return sql, encoder(where), None
    if isinstance(info, inspect.BoolType):
        return "INTEGER", _boolean(where), bool
    if isinstance(info, inspect.DateTimeType):
        return "TEXT", _moment(where), datetime.fromisoformat
    _refuse_unfit(where, info)
    values: Sequence[Any] = ()
    if isinstance(info, inspect.EnumType):
        values = [member.value for member in info.cls]
    elif isinstance(info, inspect.LiteralType):
        values = info.values
    if isinstance(info, inspect.UUIDType | inspect.DateType) or _all_are(str, values):
        return "TEXT", _builtin(where, annotation), _taken_back(annotation)
    if _all_are(int, values):
        return "INTEGER", _builtin(where, annotation), _taken_back(annotation)
    return "JSON", _json(where, annotation), msgspec.json.Decoder(annotation).decode


def _refuse_unfit(where: str, info: inspect.Type) -> None:
    unfit: tuple[tuple[Any, str], ...] = (
        (inspect.DecimalType, "money is kept as integers (pence), so that SQL can sum and order"),
        (inspect.TimeDeltaType, "keep a span of time as an integer of one unit"),
        (inspect.TimeType, "keep a time of day as an integer of one unit"),
        (inspect.AnyType, "say which type it is, or nothing can be read back as it was"),
        (inspect.CustomType, "use types that msgspec decodes"),
        (inspect.NoneType, "a column that is always None says nothing: drop it"),
    )
    for kind, mend in unfit:
        if isinstance(info, kind):
            what = f"the type {type(info).__name__.removesuffix('Type')}, which is no column"
            raise DefinitionError(f"{where} has {what}: {mend}")


def _all_are(kind: type, values: Sequence[Any]) -> bool:
    return bool(values) and all(type(value) is kind for value in values)


def _wrong(where: str, wanted: str, value: object) -> TypeError:
    # Never the value itself: what is in events stays out of messages and logs.
    return TypeError(f"{where} is {wanted}, not {type(value).__name__}")


def _or_none(encode: Callable[[Any], Scalar]) -> Callable[[Any], Scalar]:
    return lambda value: None if value is None else encode(value)


def _text(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if type(value) is not str:
            if not isinstance(value, str):
                raise _wrong(where, "a str", value)
            value = str.__str__(value)
        if (why := unfit(value)) is not None:
            raise ValueError(f"{where} is a text with {why}, which SQL cannot hold")
        text: str = value
        return text

    return encode


def _integer(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if type(value) is not int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise _wrong(where, "an int", value)
            value = int(value)
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise ValueError(f"{where} is an int beyond 64 bits, which SQL cannot hold")
        return cast("int", value)

    return encode


def _real(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(where, "a float", value)
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"{where} is a number beyond what a float holds") from None
        if isinstance(value, int) and number != value:
            raise ValueError(f"{where} is an int that no float holds exactly: give its field int")
        if not math.isfinite(number):
            raise ValueError(f"{where} is {value}: SQL keeps finite numbers only")
        return number + 0.0  # SQLite has no negative zero, so nor has the row in memory

    return encode


def _blob(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if isinstance(value, bytes):
            return value
        raise _wrong(where, "bytes", value)

    return encode


def _boolean(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if isinstance(value, bool):
            return int(value)
        raise _wrong(where, "a bool", value)

    return encode


def _moment(where: str) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        if not isinstance(value, datetime):
            raise _wrong(where, "a datetime", value)
        if value.tzinfo is None:
            raise ValueError(f"{where} is a datetime without a time zone: give it one")
        # One zone and one length, so that text order is time order.
        try:
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        except OverflowError:
            raise ValueError(f"{where} is a datetime beyond the years 1 to 9999 in UTC") from None

    return encode


def _taken_back(annotation: Any) -> Callable[[Any], Any]:
    return lambda value: msgspec.convert(value, annotation)


def _builtin(where: str, annotation: Any) -> Callable[[Any], Scalar]:
    def encode(value: Any) -> Scalar:
        flat = msgspec.to_builtins(value)
        try:
            if msgspec.convert(flat, annotation) == value:
                return cast("Scalar", flat)
        except msgspec.ValidationError:
            pass
        raise _wrong(where, f"a {name_of_type(annotation)}", value)

    return encode


def _json(where: str, annotation: Any) -> Callable[[Any], Scalar]:
    encoder = msgspec.json.Encoder()
    decoder = msgspec.json.Decoder(annotation)

    def encode(value: Any) -> Scalar:
        data = encoder.encode(value)
        try:
            # What could not be read back would stop every reader of the row: refuse it here.
            read = decoder.decode(data)
        except msgspec.ValidationError as error:
            told = text_without_values(error)
            raise TypeError(f"{where} is not a {name_of_type(annotation)}: {told}") from None
        changed = change_of(value, read, where, alike=True)
        if changed is not None:
            raise TypeError(changed)
        return data.decode()

    return encode


def name_of_type(annotation: Any) -> str:
    plain = typing.get_origin(annotation) is None and isinstance(annotation, type)
    return str(annotation.__name__ if plain else annotation)
