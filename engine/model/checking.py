"""Messages that a caller gives are of the types that their classes declare, and nobody else's.

Rules: a struct of msgspec checks nothing when it is made, so each value is checked when the engine
takes it. What is wrong is told by its path, with both types and never the value, before anything
is run. A class is studied once, at its first message. What has passed once by its types alone is
known by them: the next such message costs one look. Where a type cannot be checked (a protocol, a
type variable) its values are taken as they are; so are ids, which are looked at where they are
used. What a type checker takes is taken, and a list for a tuple. It knows no engine.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import isclass
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import inspect
from msgspec.structs import astuple

from ..errors import InvalidInput
from .annotations import UNRESOLVED, union_members
from .copying import ATOMS, own_copy
from .given import named

__all__ = ["NO_TEXTS", "checked_copy", "is_id", "judge_of"]

S = TypeVar("S", bound=msgspec.Struct)

_SHAPES_MAX: Final = 64
"""Ways in which the types of one class's values may differ, that are kept."""

NO_TEXTS: Final = (int, float, bool, bytes, Decimal, date, datetime, time, timedelta, UUID)
"""Plain types of fields whose values are no text."""

_Fault = tuple[str, str, Any]
"""Where something is wrong, what it must be, and what it is."""
_Check = Callable[[Any], "_Fault | None"]


class _Form:
    """What is known of one class of messages."""

    __slots__ = ("checks", "decides", "shapes")

    def __init__(self, checks: list[tuple[str, _Check]], decides: bool) -> None:
        self.checks = checks
        self.decides = decides
        """Whether the types of the fields' values can tell all that is asked."""
        self.shapes: set[tuple[type, ...]] = set()
        """Types of values, field by field, that have passed, and cannot be changed."""

    def learn(self, shape: tuple[type, ...]) -> None:
        """Keep the types of values that have passed, if they tell all."""
        if self.decides and len(self.shapes) < _SHAPES_MAX and all(map(_is_plain, shape)):
            self.shapes.add(shape)


_FORMS: Final[dict[type, _Form]] = {}
"""By class: classes of messages live as long as the program."""


def checked_copy(message: S) -> S:
    """Give a message, checked, that its caller does not change any more; see `own_copy`.

    What is no struct is given as it is. Raises InvalidInput for a value of another type than its
    field declares, and where it cannot be copied.
    """
    form = _FORMS.get(type(message))
    if form is None:
        if not isinstance(cast("object", message), msgspec.Struct):
            return message
        form = _FORMS[type(message)] = _form_of(type(message))
    shape = tuple(map(type, astuple(message)))
    if shape in form.shapes:
        return message  # most often so: neither to be checked nor to be copied
    for name, check in form.checks:
        try:
            fault = check(getattr(message, name))
        except RecursionError:
            continue  # too deep to be looked at: whoever copies or encodes it says so
        except Exception as error:  # of a class of the caller's, which may do as it likes
            raise InvalidInput(
                f"{type(message).__name__}.{name} cannot be looked at ({type(error).__name__}). "
                f"Nothing was run."
            ) from error
        if fault is not None:
            where, wanted, found = fault
            raise InvalidInput(
                f"{type(message).__name__}.{name}{where} must be {wanted}, and is {_named(found)}. "
                f"Nothing was run: give it the type that its class declares."
            )
    form.learn(shape)
    return own_copy(message)


def judge_of(annotation: Any) -> Callable[[object], str | None]:
    """Give what tells how a value differs from a type, as `[0].cents must be an int, and is a str`.

    It tells None of a value that fits, and of each value where the type cannot be checked.
    """
    try:
        check = _TypeWalk().check(inspect.type_info(annotation))
    except (TypeError, NameError, AttributeError, RecursionError):
        check = _sound

    def told(value: object) -> str | None:
        try:
            fault = check(value)
        except Exception:  # of a class of the host's, which may do as it likes
            return None
        return (
            None if fault is None else f"{fault[0]} must be {fault[1]}, and is {_named(fault[2])}"
        )

    return told


def _is_plain(cls: type) -> bool:
    return cls in ATOMS or issubclass(cls, Enum)


def _named(value: object) -> str:
    """Give what a value is, as an error may say it."""
    if value is None:
        return "None"
    if value is _OtherValue:
        return "not"
    return named(value)


# -- studying a class -----------------------------------------------------------------------------


def _form_of(cls: type[msgspec.Struct]) -> _Form:
    if getattr(cls, "command_of_engine", False):
        return _Form([], True)  # made of what was read from the log, which was checked there
    walk = _TypeWalk()
    checks = walk.fields(_fields_of(cls), _may_be_unset(cls))
    return _Form(checks, walk.decides)


def _fields_of(cls: type[msgspec.Struct]) -> Iterable[tuple[str, inspect.Type]]:
    """Give the fields of a class with their types, as far as msgspec knows these."""
    try:
        info: Any = inspect.type_info(cls)
    except UNRESOLVED:
        return ()
    except (TypeError, RecursionError):
        return [(name, found) for name in cls.__struct_fields__ if (found := _alone(cls, name))]
    return [(field.name, field.type) for field in info.fields]


def _alone(cls: type[msgspec.Struct], name: str) -> inspect.Type | None:
    """Give the type of one field, where the class has others that msgspec cannot decode."""
    try:
        return inspect.type_info(typing.get_type_hints(cls, include_extras=True)[name])
    except (TypeError, NameError, KeyError, AttributeError, RecursionError):
        return None


def _may_be_unset(cls: Any) -> Set[str]:
    """Give the fields that may be UNSET, of which the types as msgspec knows them say nothing."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # of names that are not there, or of what stands in place of a type
        return frozenset(getattr(cls, "__annotations__", ()))
    return frozenset(name for name, hint in hints.items() if _takes_unset(hint))


def _takes_unset(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    hint = getattr(hint, "__value__", hint)  # of `type Name = ...`
    return any(each is msgspec.UnsetType for each in union_members(hint))


def _sound(_: object) -> None:
    """Take anything."""


def _unless_unset(check: _Check) -> _Check:
    def checked(value: Any) -> _Fault | None:
        return None if value is msgspec.UNSET else check(value)

    return checked


class _Absent:
    """Stands for a key that is not there."""


class _TypeWalk:
    """A walk over types that makes what checks their values."""

    def __init__(self) -> None:
        self.decides = True
        self._known: dict[object, _Form] = {}
        """What is known of each class with fields, which may have itself inside."""

    def fields(
        self, found: Iterable[tuple[str, inspect.Type]], unset: Set[str]
    ) -> list[tuple[str, _Check]]:
        """Give the checks of those fields that have any; those in `unset` may be UNSET."""
        pairs = ((name, self.check(kind)) for name, kind in found)
        return [
            (name, _unless_unset(check) if name in unset else check)
            for name, check in pairs
            if check is not _sound
        ]

    def check(self, info: Any) -> _Check:
        """Give what checks a value of a type."""
        if isinstance(info, inspect.Metadata):
            return _sound if is_id(info) else self.check(info.type)
        if isinstance(info, inspect.UnionType):
            return self._union(info)
        if isinstance(info, inspect.LiteralType):
            self.decides = False
            return _literal(info.values)
        if hasattr(info, "fields"):
            return self._struct(info)
        plain = _PLAIN.get(cast("type[object]", type(info)))
        if plain is not None:
            return self._bounded(info, _instance(*plain))
        if isinstance(info, inspect.EnumType | inspect.CustomType):
            return _class_check(info.cls)
        return self._container(info)

    def _bounded(self, info: Any, check: _Check) -> _Check:
        """Add what a type asks of its values beside their class."""
        bounds = [(name, getattr(info, name, None)) for name in _BOUNDS]
        bounds = [(name, bound) for name, bound in bounds if bound is not None]
        if not bounds:
            return check
        self.decides = False

        def bounded(value: Any) -> _Fault | None:
            fault = check(value)
            if fault is not None:
                return fault
            for name, bound in bounds:
                if not _BOUNDS[name](value, bound):
                    return "", f"{_WORDS[name]} {bound!r:.60}", _OtherValue
            return None

        return bounded

    def _union(self, info: inspect.UnionType) -> _Check:
        checks = [self.check(each) for each in info.types]
        if _sound in checks:
            return _sound

        def one_of(value: Any) -> _Fault | None:
            faults: list[_Fault] = []
            for check in checks:
                fault = check(value)
                if fault is None:
                    return None
                faults.append(fault)
            inner = [fault for fault in faults if fault[0] or fault[2] is _OtherValue]
            if len(inner) == 1:
                return inner[0]  # what is wrong inside the one that it is
            return "", " or ".join(dict.fromkeys(fault[1] for fault in faults)), value

        return one_of

    def _struct(self, info: Any) -> _Check:
        """Check a struct, a dataclass, a named tuple or a typed dict, field by field."""
        cls: Any = typing.get_origin(info.cls) or info.cls
        is_dict = isinstance(info, inspect.TypedDictType)
        outer = _instance(f"a {cls.__name__}", (Mapping if is_dict else cls,))
        form = self._known.get(info.cls)  # a generic class is another one with other arguments
        if form is None:
            form = self._known[info.cls] = _Form([], True)
            before, self.decides = self.decides, True
            pairs = ((field.name, field.type) for field in info.fields)
            form.checks += self.fields(pairs, _may_be_unset(cls))
            form.decides, self.decides = self.decides, before and self.decides
        read = _item if is_dict else getattr
        checks = form.checks
        needed = [f.name for f in info.fields if f.required] if is_dict else ()

        def inside(value: Any) -> _Fault | None:
            fault = outer(value)
            if fault is not None:
                return fault
            for name in needed:
                if name not in value:
                    return "", f"a {cls.__name__} with the key {name!r}", _OtherValue
            for name, check in checks:
                found = read(value, name, _Absent)
                fault = None if found is _Absent else check(found)
                if fault is not None:
                    return f".{name}{fault[0]}", fault[1], fault[2]
            return None

        if not isinstance(info, inspect.StructType):
            return inside

        def inside_struct(value: Any) -> _Fault | None:
            if type(value) is not cls:
                return inside(value)
            shape = tuple(map(type, astuple(value)))
            if shape in form.shapes:
                return None
            fault = inside(value)
            if fault is None:
                form.learn(shape)
            return fault

        return inside_struct

    def _container(self, info: Any) -> _Check:
        if isinstance(info, inspect.DictType):
            key, item = self.check(info.key_type), self.check(info.value_type)
            return self._bounded(info, _mapping(key, item))
        if isinstance(info, inspect.TupleType):
            return _row([self.check(each) for each in info.item_types])
        item_type = getattr(info, "item_type", None)
        if item_type is None:
            return _sound
        is_set = isinstance(info, inspect.SetType | inspect.FrozenSetType)
        return self._bounded(info, _items(self.check(item_type), is_set))


class _OtherValue:
    """Stands for a value that has the type, and breaks a bound."""


def is_id(info: inspect.Metadata) -> bool:
    extra = cast("dict[str, object]", info.extra or {})
    return extra.get("foldline") == "aggregate-id"


def _item(value: Mapping[str, Any], name: str, absent: Any) -> Any:
    return value.get(name, absent)


# -- checks ---------------------------------------------------------------------------------------


def _instance(wanted: str, classes: tuple[type, ...], refused: tuple[type, ...] = ()) -> _Check:
    def check(value: Any) -> _Fault | None:
        if isinstance(value, classes) and not isinstance(value, refused):
            return None
        return "", wanted, value

    return check


def _class_check(given: Any) -> _Check:
    """Check for instances of a class of the host's, where Python can tell."""
    cls = typing.get_origin(given) or given
    if not isclass(cls) or cls is object or getattr(cls, "_is_protocol", False):
        return _sound
    name = cls.__name__
    return _instance(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}", (cls,))


def _literal(values: Iterable[object]) -> _Check:
    known = [*values]

    def check(value: Any) -> _Fault | None:
        for each in known:
            if type(each) is type(value) and each == value:
                return None
        return "", f"one of {', '.join(map(repr, known)):.200}", _OtherValue

    return check


def _items(item: _Check, is_set: bool) -> _Check:
    classes: tuple[type, ...] = (Set,) if is_set else (list, tuple, Sequence, Set)
    outer = _instance("a set" if is_set else "a list or a tuple", classes, (str, bytes, bytearray))

    def check(value: Any) -> _Fault | None:
        fault = outer(value)
        if fault is not None or item is _sound:
            return fault
        for place, each in enumerate(value):
            fault = item(each)
            if fault is not None:
                return f"{'' if is_set else f'[{place}]'}{fault[0]}", fault[1], fault[2]
        return None

    return check


def _row(items: Sequence[_Check]) -> _Check:
    outer = _instance(f"a tuple of {len(items)}", (list, tuple))

    def check(value: Any) -> _Fault | None:
        fault = outer(value)
        if fault is not None:
            return fault
        if len(value) != len(items):
            return "", f"a tuple of {len(items)}", _OtherValue
        for place, (item, each) in enumerate(zip(items, value, strict=True)):
            fault = item(each)
            if fault is not None:
                return f"[{place}]{fault[0]}", fault[1], fault[2]
        return None

    return check


def _mapping(key: _Check, item: _Check) -> _Check:
    outer = _instance("a dict", (Mapping,))

    def check(value: Any) -> _Fault | None:
        fault = outer(value)
        if fault is not None or (key is _sound and item is _sound):
            return fault
        for name, each in value.items():
            fault = key(name)
            if fault is not None:
                return "[key]", fault[1], fault[2]
            fault = item(each)
            if fault is not None:
                return f"[...]{fault[0]}", fault[1], fault[2]
        return None

    return check


def _is_placed(value: datetime | time) -> bool:
    """Tell whether a time has a zone, and UTC has that moment: no table holds it otherwise."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            value.astimezone(UTC)
        except OverflowError:
            return False
    return value.tzinfo is not None


_PLAIN: Final[Mapping[type, tuple[str, tuple[type, ...]]]] = {
    inspect.NoneType: ("None", (type(None),)),
    inspect.BoolType: ("a bool", (bool,)),
    inspect.IntType: ("an int", (int,)),
    inspect.FloatType: ("a float", (float, int)),
    inspect.StrType: ("a str", (str,)),
    inspect.BytesType: ("bytes", (bytes, bytearray, memoryview)),
    inspect.ByteArrayType: ("bytes", (bytes, bytearray, memoryview)),
    inspect.MemoryViewType: ("bytes", (bytes, bytearray, memoryview)),
    inspect.DateTimeType: ("a datetime", (datetime,)),
    inspect.DateType: ("a date", (date,)),
    inspect.TimeType: ("a time", (time,)),
    inspect.TimeDeltaType: ("a timedelta", (timedelta,)),
    inspect.UUIDType: ("a UUID", (UUID,)),
    inspect.DecimalType: ("a Decimal", (int, float, Decimal)),
}
"""What values of a type are called, and their classes."""

_BOUNDS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "ge": lambda value, bound: value >= bound,
    "gt": lambda value, bound: value > bound,
    "le": lambda value, bound: value <= bound,
    "lt": lambda value, bound: value < bound,
    "multiple_of": lambda value, bound: value % bound == 0,
    "min_length": lambda value, bound: len(value) >= bound,
    "max_length": lambda value, bound: len(value) <= bound,
    "pattern": lambda value, bound: re.search(bound, value) is not None,
    "tz": lambda value, bound: _is_placed(value) if bound else value.tzinfo is None,
}
_WORDS: Final[Mapping[str, str]] = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "a multiple of",
    "min_length": "of a length of at least",
    "max_length": "of a length of at most",
    "pattern": "a text that matches",
    "tz": "a time with a zone, in the years 1 to 9999 of UTC:",
}
