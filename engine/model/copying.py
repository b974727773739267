"""Copies of what is mutable in a command, so that a caller who changes it changes nothing here.

Rules: lists, tuples, dicts, sets, arrays, structs, dataclasses and attrs classes are copied, as
deep as they go; numbers, strings, dates and whatever else cannot be taken apart is handed on as
it is. Which fields of a class may hold anything mutable is looked up once: a command of numbers and
strings costs nothing. This file knows no engine.
"""

from __future__ import annotations

import copy
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import inspect
from msgspec.structs import force_setattr

from ..errors import InvalidInput
from .annotations import struct_of

__all__ = ["copy_fields", "mutable_fields", "own_copy"]

S = TypeVar("S", bound=msgspec.Struct)

_FIXED: Final = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)
_ATOMS: Final = frozenset((str, int, float, bool, type(None), bytes))
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, bytearray, deque, array)

_mutable: dict[type[msgspec.Struct], tuple[str, ...]] = {}


def mutable_fields(cls: type[msgspec.Struct]) -> tuple[str, ...]:
    """Give the fields of a class of structs that may hold something mutable, by its annotations."""
    found = _mutable.get(cls)
    if found is None:
        # While it is looked at, a class that holds itself is taken for one that changes.
        _mutable[cls] = cls.__struct_fields__
        try:
            types = {field.name: field.type for field in _fields_of(cls)}
            found = tuple(name for name, each in types.items() if not _is_fixed(each))
        except (TypeError, NameError, RecursionError):
            found = cls.__struct_fields__
        _mutable[cls] = found
    return found


def copy_fields(message: S, names: tuple[str, ...]) -> S:
    """Give a message whose mutable fields are its own; raise InvalidInput where that cannot be."""
    own = copy.copy(message)
    for name in names:
        try:
            force_setattr(own, name, _copied(getattr(message, name)))
        except Exception as error:
            raise InvalidInput(
                f"{type(message).__name__}.{name} cannot be copied ({type(error).__name__}): a "
                f"message must not change while it waits. Nothing was run."
            ) from error
    return own


def own_copy(message: S) -> S:
    """Give a message that its caller does not change any more; what is no struct, as it is."""
    given = cast("object", message)  # whoever calls may have given anything
    names = mutable_fields(type(given)) if isinstance(given, msgspec.Struct) else ()
    return copy_fields(message, names) if names else message


def _fields_of(cls: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _is_fixed(found: inspect.Type) -> bool:
    match found:
        case inspect.Metadata():
            return _is_fixed(found.type)
        case inspect.UnionType():
            return all(map(_is_fixed, found.types))
        case inspect.VarTupleType() | inspect.FrozenSetType():
            return _is_fixed(found.item_type)
        case inspect.TupleType():
            return all(map(_is_fixed, found.item_types))
        case inspect.StructType():
            cls = struct_of(found.cls)
            return cls.__struct_config__.frozen and not mutable_fields(cls)
        case _:
            return isinstance(found, _FIXED)


def _copied(value: Any) -> Any:
    kind = cast("type[object]", type(value))
    way = _WAYS.get(kind)
    if way is not None:
        return way(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, msgspec.Struct):
        names = mutable_fields(type(value))
        return copy_fields(value, names) if names or not value.__struct_config__.frozen else value
    if issubclass(kind, _CONTAINERS) or hasattr(kind, "__dataclass_fields__"):
        return copy.deepcopy(value)
    if hasattr(kind, "__attrs_attrs__"):
        return copy.deepcopy(value)
    return value


def _copied_list(value: list[Any]) -> list[Any]:
    return value.copy() if _ATOMS.issuperset(map(type, value)) else list(map(_copied, value))


def _copied_tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(_copied, value))


def _copied_dict(value: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _copied(each) for key, each in value.items()}


_WAYS: Final[dict[type, Callable[[Any], Any]]] = {
    list: _copied_list,
    tuple: _copied_tuple,
    dict: _copied_dict,
    set: lambda value: set(value),
    bytearray: bytearray,
}
