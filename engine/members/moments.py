"""Commands with values that MessagePack has no word for, on their way to the owner of the log.

Rules: MessagePack knows moments in UTC alone, and whole numbers of 64 bits. A command with others
travels in a form of its own, in which each moment keeps its zone: a name (`ZoneInfo`) or an offset.
A zone of any other kind that has no fixed offset is none that another process could make. This
form is slower, and used for such commands only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, TypeVar, cast
from zoneinfo import ZoneInfo

import msgspec

__all__ = ["decode_with_zones", "encode_with_zones", "fixed", "is_with_zones"]

C = TypeVar("C")

_WHOLE: Final = 1
"""The code of MessagePack's extension that is a whole command in this form."""
_MOMENT: Final = 2
_NUMBER: Final = 3
_NUMBERS: Final = range(-(2**63), 2**64)
"""What MessagePack has words for."""
_HEADS: Final = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
"""First bytes of an extension; no command in the common form begins so."""
_KEPT: Final = (bytes, datetime)

_encode: Final = msgspec.msgpack.Encoder().encode


def fixed(moment: datetime) -> datetime:
    """Give a moment whose zone has a fixed offset, in a zone of the standard library's."""
    zone = moment.tzinfo
    if zone is None or isinstance(zone, timezone | ZoneInfo):
        return moment
    offset = zone.utcoffset(None)
    return moment if offset is None else moment.replace(tzinfo=timezone(offset))


def encode_with_zones(command: msgspec.Struct) -> bytes:
    """Give a command's body; a moment in a zone that cannot be told arrives in another one."""
    plain = _with_extensions(msgspec.to_builtins(command, builtin_types=_KEPT))
    return _encode(msgspec.msgpack.Ext(_WHOLE, _encode(plain)))


def is_with_zones(body: bytes) -> bool:
    """Tell whether a body is one of these."""
    return body[:1] != b"" and body[0] in _HEADS


def decode_with_zones(body: bytes, cls: type[C]) -> C:
    """Give the command; raise ValueError for what is none."""
    whole = msgspec.msgpack.decode(body)
    if not isinstance(whole, msgspec.msgpack.Ext) or whole.code != _WHOLE:
        raise ValueError("another form of a command")
    plain: object = msgspec.msgpack.decode(whole.data, ext_hook=_value_of)
    return msgspec.convert(plain, cls, builtin_types=_KEPT)


def _with_extensions(value: Any) -> Any:
    if type(value) is int and value not in _NUMBERS:
        return msgspec.msgpack.Ext(_NUMBER, f"{value:x}".encode())
    if isinstance(value, datetime):
        return _extension_of(value)
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {key: _with_extensions(each) for key, each in items}
    if isinstance(value, list | tuple):
        return [_with_extensions(each) for each in cast("list[object]", value)]
    return value


def _extension_of(moment: datetime) -> object:
    zone = moment.tzinfo
    key = (zone.key or "") if isinstance(zone, ZoneInfo) else ""
    offset = moment.utcoffset()
    micros = None if offset is None else offset // timedelta(microseconds=1)
    naive = moment.replace(tzinfo=None, fold=0).isoformat()
    return msgspec.msgpack.Ext(_MOMENT, _encode([naive, moment.fold, micros, key]))


def _value_of(code: int, data: memoryview) -> datetime | int:
    if code == _NUMBER:
        return int(bytes(data), 16)
    if code != _MOMENT:
        raise ValueError("neither a moment nor a number")
    naive, fold, micros, key = msgspec.msgpack.decode(data, type=tuple[str, int, int | None, str])
    zone: tzinfo | None = None if micros is None else UTC
    if key:
        zone = ZoneInfo(key)
    elif micros:
        zone = timezone(timedelta(microseconds=micros))
    return datetime.fromisoformat(naive).replace(tzinfo=zone, fold=fold)
