"""Copies of what is mutable in a command or an answer: who changes it changes nothing elsewhere.

Rules: lists, tuples, dicts, sets, arrays, structs, dataclasses and attrs classes are copied, as
deep as they go; numbers, strings, dates and whatever else cannot be taken apart is handed on as
it is. What a field holds decides, and not what its class declares: nobody has compared the two. A
message of numbers, strings and dates costs one look. This file knows no engine.
"""

from __future__ import annotations

import copy
from array import array
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec.structs import astuple, force_setattr

from ..errors import InvalidInput

__all__ = ["ATOMS", "copied", "own_copy"]

S = TypeVar("S", bound=msgspec.Struct)

ATOMS: Final = frozenset(
    (str, int, float, bool, type(None), bytes, Decimal, datetime, date, time, timedelta)
).union((msgspec.UnsetType,))
"""Of what is of these very types nothing can be changed."""
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, bytearray, deque, array)


def own_copy(message: S) -> S:
    """Give a message that its caller does not change any more; what is no struct, as it is.

    Raises InvalidInput where it cannot be copied.
    """
    given = cast("object", message)  # whoever calls may have given anything
    if not isinstance(given, msgspec.Struct) or ATOMS.issuperset(map(type, astuple(given))):
        return message  # most often so: messages are frozen
    return cast("S", _own_struct(given))


def copied(value: Any) -> Any:
    """Give a value of which nobody else has a part that can be changed."""
    return _copied(value)


def _own_struct(given: msgspec.Struct) -> msgspec.Struct:
    """Give a struct with fields of its own; itself where nothing of it can change."""
    values = astuple(given)
    own = given if given.__struct_config__.frozen else copy.copy(given)
    if ATOMS.issuperset(map(type, values)):
        return own
    for name, value in zip(given.__struct_fields__, values, strict=True):
        if type(value) in ATOMS:
            continue
        try:
            copied = _copied(value)
        except Exception as error:
            raise InvalidInput(
                f"{type(given).__name__}.{name} cannot be copied ({type(error).__name__}): a "
                f"message must not change while it waits. Nothing was run."
            ) from error
        if copied is not value:
            own = copy.copy(given) if own is given else own
            force_setattr(own, name, copied)
    return own


def _copied(value: Any) -> Any:
    kind = cast("type[object]", type(value))
    if kind in ATOMS:
        return value
    way = _WAYS.get(kind)
    if way is not None:
        return way(value)
    if isinstance(value, msgspec.Struct):
        return _own_struct(value)
    if issubclass(kind, Enum):
        return value  # of whose class it would take long to ask more
    if issubclass(kind, _CONTAINERS) or hasattr(kind, "__dataclass_fields__"):
        return copy.deepcopy(value)
    if hasattr(kind, "__attrs_attrs__"):
        return copy.deepcopy(value)
    return value


def _copied_list(value: list[Any]) -> list[Any]:
    return value.copy() if ATOMS.issuperset(map(type, value)) else list(map(_copied, value))


def _copied_tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return value if ATOMS.issuperset(map(type, value)) else tuple(map(_copied, value))


def _copied_frozenset(value: frozenset[Any]) -> frozenset[Any]:
    return value if ATOMS.issuperset(map(type, value)) else copy.deepcopy(value)


def _copied_dict(value: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _copied(each) for key, each in value.items()}


_WAYS: Final[dict[type, Callable[[Any], Any]]] = {
    list: _copied_list,
    tuple: _copied_tuple,
    dict: _copied_dict,
    set: lambda value: set(value),
    frozenset: _copied_frozenset,
    bytearray: bytearray,
    memoryview: bytes,
}
