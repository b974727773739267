"""The fingerprint of a command: what two commands have in common if, and only if, they are equal.

Rules: two commands that are equal have one fingerprint, however their equal values are written: a
default that was given or left out, 1 or 1.0 or True, a set or dict in another order, one moment in
two time zones. A new field with a default changes no fingerprint. Former releases let more of that
show; a fingerprint that they stored is known again by `is_of`. This file knows no async and no
store.
"""

from __future__ import annotations

import datetime
import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, cast

import msgspec
from msgspec.structs import astuple

from .exact import mixed_fields
from .messages import Command

__all__ = ["fingerprint_of", "is_of"]

_encoder = msgspec.json.Encoder()
"""For plain values, whose order says nothing any more, and fields, which stay in theirs."""
_canonical = msgspec.json.Encoder(order="deterministic")
"""As former releases encoded a whole command."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_PLAIN: Final = frozenset((str, int, type(None)))
_MAY_BE_EMPTY: Final = frozenset((list, dict))
_CLASSES: Final = "\0classes"
_NOTHING: Final = object()
_DIGITS_MAX: Final = 4_000
"""Of a whole number that is written as one; Python writes no longer ones."""
_FORMER_DEFAULTS_MAX: Final = 8
"""Fields at their defaults of which every choice is tried, given or left out."""
_FORMER_BYTES_MAX: Final = 4 * 1024 * 1024
"""What all these choices may be encoded to: meanwhile nobody else has a turn."""


class _Form(msgspec.Struct, frozen=True):
    """What is known of a class of structs."""

    tag: tuple[tuple[str, Any], ...]
    names: tuple[str, ...]
    given: tuple[Any, ...]
    """The very defaults of its fields; what is nothing else where a field has none."""
    defaults: tuple[Any, ...]
    """The same as plain values."""
    mixed: tuple[str, ...]
    """Fields that take values of several classes which look alike as plain values."""
    with_defaults: tuple[tuple[int, Any, Any], ...]
    """Places of the fields that have defaults, with these: the very one, and as a plain value."""
    is_plain: bool
    """Whether msgspec encodes plain values of it as `_content` says them."""
    named: Any
    """What hashes contents, begun with the name of a command; to be copied."""


_forms: dict[type, _Form] = {}


def fingerprint_of(command: Command) -> int:
    """Give 63 bits that two commands share only if name and content are the same.

    blake2b over the name and the content as canonical JSON. Raises what msgspec raises for what
    cannot be encoded.
    """
    form = _forms.get(type(command)) or _form_of(type(command))
    values = astuple(command)
    if form.is_plain and (
        _PLAIN.issuperset(map(type, values)) or _is_plain_or_default(form, values)
    ):
        for place, given, default in form.with_defaults:
            value = values[place]
            # The encoder leaves out what *is* the default, and not what equals it.
            if value is not given and type(value) in _PLAIN and value == default:
                break
        else:
            return _digest(form, _canonical.encode(command))
    content = _content(command)
    if form.mixed:
        _tell_classes(command, form.mixed, content)
    return _digest(form, _encoder.encode(content))


def _is_plain_or_default(form: _Form, values: tuple[Any, ...]) -> bool:
    """Tell whether each value that is not plain is its default, or as empty as that."""
    for value, given, default in zip(values, form.given, form.defaults, strict=True):
        if type(value) in _PLAIN or value is given:
            continue
        if type(value) not in _MAY_BE_EMPTY or value or value != default:
            return False
    return True


def is_of(fingerprint: int, command: Command) -> bool:
    """Tell whether a fingerprint that was stored is this command's, also by a former release.

    Those left a field out where it *was* its default, and not where it equalled it: which of these
    had been given is tried.
    """
    try:
        form = _form_of(type(command))
        return any(_digest(form, former) == fingerprint for former in _former(command))
    except BaseException:  # of the host's values too, which an actor in its turn must not hear
        return False  # what cannot be encoded never had one


def _former(command: Command) -> Iterator[bytes]:
    """Give the contents that former releases may have seen in a command that equals this one."""
    yield _encoder.encode(_content(command))
    yield _canonical.encode(command)
    form = _form_of(type(command))
    encoded: dict[str, msgspec.Raw] = {}
    at_default: list[str] = []
    for name, value, default in zip(form.names, astuple(command), form.defaults, strict=True):
        if value is not msgspec.UNSET:
            encoded[name] = msgspec.Raw(_canonical.encode(value))
            if value is default or _plain(value) == default:
                at_default.append(name)
    size = sum(memoryview(raw).nbytes for raw in encoded.values())
    del at_default[_FORMER_DEFAULTS_MAX:]
    while at_default and size << len(at_default) > _FORMER_BYTES_MAX:
        at_default.pop()
    for choice in itertools.product((True, False), repeat=len(at_default)):
        left_out = set(itertools.compress(at_default, choice))
        given = {name: raw for name, raw in encoded.items() if name not in left_out}
        yield _encoder.encode({**dict(form.tag), **given})


def _digest(form: _Form, content: bytes) -> int:
    hashed = form.named.copy()
    hashed.update(content)
    # 63 bits, so that every JSON reader and every SQL column takes it as an integer.
    return int.from_bytes(hashed.digest(), "big") >> 1


def _content(struct: msgspec.Struct) -> dict[str, Any]:
    """Give the fields that are not at their defaults, by their encoded names, as plain values."""
    form = _form_of(type(struct))
    content = dict(form.tag)
    for name, value, default in zip(form.names, astuple(struct), form.defaults, strict=True):
        if value is default:
            continue
        kind = cast("type[object]", type(value))
        if kind not in _PLAIN:
            if value is msgspec.UNSET:
                continue
            value = _BY_TYPE.get(kind, _plain)(value)
        if value != default:
            content[name] = value
    return content


def _form_of(cls: type[msgspec.Struct]) -> _Form:
    form = _forms.get(cls)
    if form is None:
        config = cls.__struct_config__
        tag = () if config.tag is None else ((str(config.tag_field), config.tag),)
        found = msgspec.structs.fields(cls)
        names = tuple(field.encode_name for field in found)
        pairs = tuple(map(_defaults_of, found))
        given, plain = (tuple(pair[n] for pair in pairs) for n in (0, 1))
        with_defaults = tuple(
            (place, one, other)
            for place, (one, other) in enumerate(pairs)
            if one is not _NOTHING or other is not _NOTHING
        )
        mixed = mixed_fields(cls)
        name = cls.command_name if issubclass(cls, Command) else ""
        named = blake2b(name.encode() + b"\0", digest_size=8)
        form = _forms[cls] = _Form(
            tag,
            names,
            given,
            plain,
            mixed,
            with_defaults,
            config.omit_defaults and not config.array_like,
            named,
        )
    return form


def _tell_classes(command: Command, names: tuple[str, ...], content: dict[str, Any]) -> None:
    """Add the classes of values that their fields alone do not tell apart."""
    found = {name: told for name in names if (told := _classes(getattr(command, name)))}
    if found:
        content[_CLASSES] = found


def _classes(value: Any) -> list[str]:
    """Name the classes of structs and dataclasses in a value, in the order of its plain form."""
    inside: list[Any]
    own: list[str] = []
    if isinstance(value, dict):
        inside = [value[key] for key in sorted(_listed(value), key=_plain_key)]
    elif isinstance(value, list | tuple):
        inside = _listed(value)
    elif isinstance(value, set | frozenset):
        return sorted(name for each in _listed(value) for name in _classes(each))
    elif isinstance(value, msgspec.Struct):
        inside, own = list(astuple(value)), [type(value).__name__]
    elif is_dataclass(value) and not isinstance(value, type):
        inside, own = [getattr(value, f.name) for f in fields(value)], [type(value).__name__]
    else:
        return own
    return own + [name for each in inside for name in _classes(each)]


def _listed(value: Any) -> list[Any]:
    return list(value)


def _defaults_of(field: msgspec.structs.FieldInfo) -> tuple[Any, Any]:
    """Give the default itself, and as a plain value."""
    if field.default_factory in (list, dict, set):
        return _NOTHING, _plain(cast("Callable[[], Any]", field.default_factory)())
    if field.default is msgspec.NODEFAULT:
        return _NOTHING, _NOTHING
    try:
        return field.default, _plain(field.default)
    except TypeError:
        return field.default, field.default  # a mark of its own kind, and equal to itself alone


# -- plain values ----------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Give strings, numbers, lists and dicts that are the same for all that equals this."""
    kind = cast("type[object]", type(value))
    if kind in _PLAIN:
        return value
    if kind in _BY_TYPE:
        return _BY_TYPE[kind](value)
    for kind, plain in _WAYS:
        if isinstance(value, kind):
            return plain(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if value is msgspec.UNSET:
        return value
    return _plain_otherwise(value)


def _plain_otherwise(value: Any) -> Any:
    found = msgspec.to_builtins(value, order="deterministic", builtin_types=_KEPT)
    return value if type(found) is type(value) else _plain(found)


def _plain_float(value: float) -> Any:
    if value.is_integer():
        return int(value)
    # JSON has no such numbers, and null is another value.
    return float(value) if value - value == 0 else str(float(value))


def _plain_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return str(value)
    if value.adjusted() <= _DIGITS_MAX and value == value.to_integral_value():
        return int(value)
    if float(value) == value:
        return float(value)
    sign, digits, exponent = value.as_tuple()
    written = "".join(map(str, digits))
    shorter = written.rstrip("0")
    return f"{'-' * sign}{shorter}e{int(exponent) + len(written) - len(shorter)}"


def _plain_datetime(value: datetime.datetime) -> str:
    if value.utcoffset() is None:
        return value.replace(fold=0).isoformat()
    return f"@{(value - _EPOCH) // _MICROSECOND}"


def _plain_time(value: datetime.time) -> str:
    offset = value.utcoffset()
    if offset is None:
        return value.replace(fold=0).isoformat()
    clock = datetime.timedelta(
        hours=value.hour,
        minutes=value.minute,
        seconds=value.second,
        microseconds=value.microsecond,
    )
    return f"@{(clock - offset) // _MICROSECOND}"


def _plain_dict(value: Mapping[Any, Any]) -> dict[str, Any]:
    if not value:
        return {}
    plain = {_plain_key(key): _plain(each) for key, each in value.items()}
    return dict(sorted(plain.items()))


def _plain_key(key: Any) -> str:
    plain = _plain(key)
    # Not the key of a string that is written like it.
    return plain if isinstance(plain, str) else "\0" + _encoder.encode(plain).decode()


def _plain_set(value: Iterable[Any]) -> list[Any]:
    return sorted(map(_plain, value), key=_encoder.encode)


def _plain_list(value: Iterable[Any]) -> list[Any]:
    return list(map(_plain, value))


def _plain_raw(value: msgspec.Raw) -> Any:
    return _plain(msgspec.json.decode(value))


_BY_TYPE: Final[dict[type, Callable[[Any], Any]]] = {
    bool: int,
    float: _plain_float,
    dict: _plain_dict,
    list: _plain_list,
    tuple: _plain_list,
}
"""The shorter way of the most frequent ones."""
_KEPT: Final = (bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, Decimal)
_WAYS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (enum.Enum, lambda value: _plain(value.value)),
    (bool, int),
    (float, _plain_float),
    (Decimal, _plain_decimal),
    (datetime.datetime, _plain_datetime),
    (datetime.time, _plain_time),
    (msgspec.Struct, _content),
    (dict, _plain_dict),
    ((list, tuple), _plain_list),
    ((set, frozenset), _plain_set),
    (msgspec.Raw, _plain_raw),
)
"""How each kind of value is made plain; what is not among them is encoded as msgspec does."""
