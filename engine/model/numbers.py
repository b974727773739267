"""What an enum's numbers were called as a value was stored: a command that waits, a reply, as JSON.

Rules: a number is told with its name, so that it never stands for another member in silence, as
with `auto()` after a member went. A former name that a member still has is as good. What was stored
without names is believed. Names that Python itself gives are left out, as in `shape.py`. A
combination of flags has no name of its own: each of its flags is told. This file stores nothing and
knows no timer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from typing import Any, Final, TypeAlias, cast

import msgspec

__all__ = [
    "Names",
    "changed_number",
    "gives_own_names",
    "names_in",
    "with_names",
    "without_names",
]

_KEY: Final = "#names"
"""Of the names among a value's fields; no field of Python's is called so."""
_VALUE: Final = "#value"
"""Of a value that is no object, beside its names."""
_MARK: Final = f'"{_KEY}":'.encode()
Names: TypeAlias = Sequence[tuple[int, str]]
_encode: Final = msgspec.json.Encoder().encode
_parts_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_names_of: Final = msgspec.json.Decoder(list[tuple[int, str]]).decode


def gives_own_names(cls: type[Enum]) -> bool:
    """Tell whether an enum is the host's: releases of Python name members of `HTTPStatus` anew."""
    return cls.__module__.partition(".")[0] not in sys.stdlib_module_names


def names_in(value: object) -> Names:
    """Give the numbers that a value has of enums, with their names, each pair once."""
    return sorted({(member.value, member.name) for member in _members(value)})


def with_names(payload: bytes, names: Names) -> bytes:
    """Put names beside the fields of what is encoded."""
    if not names and _MARK not in payload:
        return payload
    parts = _parts_of(payload) if payload.startswith(b"{") else {}
    if not parts or _KEY in parts or _VALUE in parts:  # a dict of the host's may have any key
        parts = {_VALUE: msgspec.Raw(payload)}
    return _encode({**parts, _KEY: names})


def without_names(payload: bytes) -> tuple[bytes, Names]:
    """Give what is encoded as it is, and the names that stood beside its fields."""
    if _MARK not in payload or not payload.startswith(b"{"):
        return payload, ()
    parts = _parts_of(payload)
    names = parts.pop(_KEY, None)
    if names is None:
        return payload, ()
    is_whole = parts.keys() == {_VALUE}
    return bytes(parts[_VALUE]) if is_whole else _encode(parts), _names_of(names)


def changed_number(value: object, names: Names) -> tuple[int, str, str] | None:
    """Give the first number of a value that was called otherwise; what it was, and is, called."""
    if not names:
        return None
    members = list(_members(value))
    for number, name in names:
        today = [member for member in members if member.value == number]
        if today and not any(type(m).__members__.get(name) is m for m in today):
            return number, name, today[0].name
    return None


def _members(value: object) -> Iterator[Enum]:
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Enum):
            if isinstance(item.value, int) and gives_own_names(type(item)):
                # Bits without a flag of their own have no name.
                yield from item if isinstance(item, Flag) else (item,)
        else:
            waiting += _parts(item)


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, msgspec.Struct):
        return [getattr(item, name) for name in item.__struct_fields__]
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset):
        return cast("Iterable[Any]", item)
    if is_dataclass(item):
        return [getattr(item, field.name) for field in fields(item)]
    return ()
