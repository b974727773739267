"""What is read back is what was given: which types can hold that, and who looks where they cannot.

Rules: a class is studied once, when it is made. Types for which the promise cannot hold are refused
there, with the mend in the message. Where `==` tells whether a value came back, nothing else is
asked; where it does not (an offset, a set, a class that compares as it likes) the values are walked
and compared by type and form. How deep a value may be nested is a number, and not what is left of
the stack. Messages name the place, the types and the rule, and never a value. This file knows no
event, store or loop.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from inspect import isabstract, isclass
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from ..errors import DefinitionError, HandlerFailed
from ..limits import NESTING_MAX
from .annotations import UNRESOLVED, struct_of
from .depth import decode_deep, nesting

__all__ = [
    "Exactness",
    "change_of",
    "exactness_of",
    "holds_itself",
    "mixed_fields",
    "refuse_unencodable",
]

T = TypeVar("T")


class Exactness(msgspec.Struct, frozen=True):
    """What must be compared of a struct's values beside `==`."""

    doubtful: tuple[str, ...] = ()
    """Fields of which `==` does not tell all."""
    trusted: bool = True
    """Whether `==` of the class itself is the one that compares every field."""
    deep: bool = False
    """Whether a value may be nested to any depth."""

    def check(self, given: Any, read: Any) -> None:
        """Raise HandlerFailed where what was read is not what was given."""
        equal = self.trusted and _equal([given, read])
        for name in self.doubtful if equal else given.__struct_fields__:
            one, other = getattr(given, name), getattr(read, name)
            if equal and type(one) is datetime and one.tzinfo is UTC is other.tzinfo:
                continue  # most often so, and `==` has compared the rest
            found = change_of(one, other, name)
            if found is not None:
                raise HandlerFailed(f"{type(given).__name__}.{found}. Nothing was written.")

    def check_depth(self, name: str, payload: bytes) -> None:
        """Raise HandlerFailed where encoded values are nested deeper than every reader reads."""
        if self.deep and nesting(payload) > NESTING_MAX:
            raise HandlerFailed(
                f"{name} is nested deeper than {NESTING_MAX} levels, and not every reader could "
                f"read it. Nothing was written: keep a list of nodes that name their parents."
            )

    def reader(self, name: str, decode: Callable[[bytes], T]) -> Callable[[Any, bytes], T]:
        """Give what decodes the copy of an object that was just encoded, and compares the two."""
        check, is_doubtful = self.check, bool(self.doubtful) or not self.trusted

        def read_back(given: Any, payload: bytes) -> T:
            try:
                read = decode(payload)
            except msgspec.ValidationError as error:
                raise _not_declared(name, error) from error
            if is_doubtful or read != given:
                check(given, read)
            return read

        def read_deep(given: Any, payload: bytes) -> T:
            self.check_depth(name, payload)
            try:
                read = decode_deep(decode, payload)
            except msgspec.ValidationError as error:
                raise _not_declared(name, error) from error
            check(given, read)
            return read

        return read_deep if self.deep else read_back


def _not_declared(name: str, error: msgspec.ValidationError) -> HandlerFailed:
    """Say where a value is that no reader takes; types and bounds are told, and never the value."""
    what, _, place = str(error).partition(" - at ")
    told = what if what.startswith("Expected ") else "another type or form"
    return HandlerFailed(
        f"{name} was given a value that it does not declare at {place or '`$`'}: {told}. "
        f"Nothing was written: give the declared type."
    )


# -- studying a class -----------------------------------------------------------------------------


def exactness_of(cls: type[msgspec.Struct], what: str) -> Exactness:
    """Study a class; raise DefinitionError for fields that cannot come back as they were given.

    Raises NameError where a field names a type that is not there yet: then it is to be asked again
    when the class is used.
    """
    try:
        info = inspect.type_info(cls)
        msgspec.json.Decoder(cls)
    except RecursionError:
        raise DefinitionError(holds_itself(f"{what} {cls.__qualname__}")) from None
    except TypeError as error:
        raise DefinitionError(
            f"the fields of {what} {cls.__qualname__} cannot be stored: {error}. Use types that "
            f"msgspec decodes."
        ) from error
    walk = _TypeWalk(f"{what} {cls.__qualname__}")
    doubtful = walk.fields(info, cls.__name__)
    return Exactness(tuple(doubtful), _compares_fields(cls), walk.deep)


def holds_itself(where: str) -> str:
    """Say what to write in place of an alias that holds itself, which msgspec cannot read."""
    return (
        f"{where} has a type that holds itself by its name, as in `type Tree = list[Tree] | int`: "
        f"make it a class, as in `class Tree(msgspec.Struct): inner: list[Tree | int]`"
    )


def refuse_unencodable(cls: type[msgspec.Struct], what: str) -> None:
    """Raise DefinitionError for fields of types of which nothing encodes a value.

    A field that names a type which is not there yet is passed over.
    """
    try:
        info = inspect.type_info(cls)
    except (TypeError, *UNRESOLVED, RecursionError):
        return  # not known to msgspec, or not there yet: a value may be encoded all the same
    _Encodable(f"{what} {cls.__qualname__}").look(info, cls.__name__)


class _Encodable:
    """A walk over a type that refuses what cannot be encoded."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._seen: list[object] = []

    def look(self, info: Any, where: str) -> None:
        """Raise DefinitionError for a part that cannot be encoded."""
        if isinstance(info, inspect.Metadata):
            self.look(info.type, where)
        elif isinstance(info, inspect.DictType) or not hasattr(info, "fields"):
            if _is_unencodable(info):
                named = getattr(getattr(info, "cls", None), "__qualname__", type(info).__name__)
                raise DefinitionError(
                    f"{self._owner} has the field {where} of the type {named}, which nothing "
                    f"encodes: with a key, a command is known again by what it encodes to. Use "
                    f"types that msgspec encodes (str, int, datetime, list, a struct of these ...)."
                )
            for part in _parts(info):
                self.look(part, where)
        elif info.cls not in self._seen:
            self._seen.append(info.cls)
            for field in info.fields:
                self.look(field.type, f"{where}.{field.name}")


def mixed_fields(cls: type[msgspec.Struct]) -> tuple[str, ...]:
    """Name the fields that take structs or dataclasses of several classes which no tag tells apart.

    Events have none: nothing could read them.
    """
    try:
        info: Any = inspect.type_info(cls)
    except (TypeError, *UNRESOLVED, RecursionError):
        return cls.__struct_fields__
    return tuple(field.name for field in info.fields if _is_mixed(field.type, []))


def _is_mixed(info: inspect.Type, seen: list[object]) -> bool:
    if isinstance(info, inspect.Metadata):
        return _is_mixed(info.type, seen)
    if isinstance(info, inspect.UnionType) and _look_alike(info.types):
        return True
    own_fields: Iterable[Any] | None = getattr(info, "fields", None)
    if own_fields is None:
        return any(_is_mixed(part, seen) for part in _parts(info))
    cls: object = getattr(info, "cls", None)
    if cls in seen:
        return False
    seen.append(cls)
    return any(_is_mixed(field.type, seen) for field in own_fields)


def _look_alike(types: Iterable[inspect.Type]) -> bool:
    """Tell whether two of the types have fields, and no tag that tells them apart."""
    tags = [getattr(each, "tag", None) for each in types if hasattr(each, "fields")]
    return len(set(tags)) < len(tags)


def _is_unencodable(info: Any) -> bool:
    """Tell whether no value of a type is encoded; one of an abstract type may be."""
    if not isinstance(info, inspect.CustomType):
        return isinstance(info, inspect.ExtType)
    cls: Any = typing.get_origin(info.cls) or info.cls
    if cls is object or not isclass(cls) or issubclass(cls, _ENCODED_BASES):
        return False
    is_function = cls.__name__ == "Callable"
    return is_function or not (isabstract(cls) or getattr(cls, "_is_protocol", False))


_ENCODED_BASES: Final = (list, tuple, dict, set, frozenset)
"""Classes of which msgspec encodes every subclass."""

_PLAIN: Final = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.UUIDType,
    inspect.DateType,
    inspect.TimeDeltaType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.RawType,
)
"""Values that are equal to what was read exactly where they are what was given."""
_KEYS: Final = (
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.UUIDType,
    inspect.DateType,
    inspect.DateTimeType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.BytesType,
    inspect.AnyType,
)
"""What a key of a JSON object can be made of, and made from again."""


class _TypeWalk:
    """A walk over a type: refuses what cannot be kept, tells where `==` is not enough."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._inside: list[Any] = []
        self.deep = False

    def fields(self, info: Any, where: str) -> Sequence[str]:
        """Give the fields of a struct, or of the like, of which `==` does not tell all."""
        if info.cls in self._inside:
            self.deep = True
            return ()
        self._inside.append(info.cls)
        doubtful = [f.name for f in info.fields if self.doubts(f.type, f"{where}.{f.name}")]
        self._inside.pop()
        return doubtful

    def doubts(self, info: inspect.Type, where: str) -> bool:
        """Tell whether `==` does not tell all of a type; raise DefinitionError for one unfit."""
        if isinstance(info, inspect.Metadata):
            return self.doubts(info.type, where)
        if isinstance(info, _PLAIN):
            return False
        if isinstance(info, inspect.StructType):
            return bool(self.fields(info, where)) or not _compares_fields(info.cls)
        if isinstance(info, inspect.DataclassType):
            self.fields(info, where)
            return True
        if isinstance(info, inspect.TypedDictType | inspect.NamedTupleType):
            return bool(self.fields(info, where))
        if isinstance(info, inspect.DictType):
            self._check_keys(info.key_type, where)
        elif isinstance(info, inspect.AnyType):
            self.deep = True
        else:
            self._check_fit(info, where)
        inner = [self.doubts(part, where) for part in _parts(info)]
        # No short cut above: each part is to be looked at.
        return any(inner) or not isinstance(info, _TRANSPARENT)

    def _check_fit(self, info: inspect.Type, where: str) -> None:
        if isinstance(info, inspect.CustomType) and info.cls is object:
            self.deep = True
        elif isinstance(info, inspect.CustomType | inspect.ExtType):
            named = getattr(getattr(info, "cls", None), "__qualname__", type(info).__name__)
            raise DefinitionError(
                f"{self._owner} has the field {where} of the type {named}, which cannot be stored: "
                f"nothing encodes it, or makes it again of what is stored. Use types that msgspec "
                f"decodes (str, int, datetime, list, a struct of these ...)."
            )

    def _check_keys(self, info: inspect.Type, where: str) -> None:
        if isinstance(info, inspect.Metadata):
            self._check_keys(info.type, where)
        elif isinstance(info, inspect.UnionType):
            for part in info.types:
                self._check_keys(part, where)
        elif not isinstance(info, _KEYS):
            named = type(info).__name__.removesuffix("Type")
            raise DefinitionError(
                f"{self._owner} has the field {where} with keys of the type {named}, which cannot "
                f"be stored: keys are texts in JSON. Use str or int keys, or a list of structs."
            )


_TRANSPARENT: Final = (
    inspect.UnionType,
    inspect.ListType,
    inspect.TupleType,
    inspect.VarTupleType,
    inspect.DictType,
)
"""Types of which `==` tells all where it does of their parts."""


def _parts(info: Any) -> Iterable[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, inspect.DictType):
        return (info.key_type, info.value_type)
    if isinstance(info, inspect.TupleType):
        return info.item_types
    item = getattr(info, "item_type", None)
    return () if item is None else (item,)


def _compares_fields(cls: type) -> bool:
    """Tell whether `==` of a struct is msgspec's own, over all fields and the class."""
    struct = struct_of(cls)
    compares: bool = struct.__struct_config__.eq
    own: object = struct.__eq__
    return compares and own is msgspec.Struct.__eq__


# -- comparing values -----------------------------------------------------------------------------


def _equal(both: Sequence[object]) -> bool:
    one, other = both
    try:
        return bool(one == other)
    except Exception:  # a class that compares as it likes, or a stack that is too short
        return False


def change_of(given: object, read: object, where: str, *, alike: bool = False) -> str | None:
    """Tell what of a value did not come back as it was given, and why; None where all did.

    With `alike` a list may come back as a tuple, and a set as a frozenset, and either way.
    """
    left: list[tuple[Any, Any, str]] = [(given, read, where)]
    while left:  # no recursion: a value may be nested deeper than the stack is
        one, other, place = left.pop()
        inner = _inside(one, other, place, alike)
        if isinstance(inner, str):
            return inner
        left += inner
    return None


_Pairs = list[tuple[Any, Any, str]]
_NOTHING: Final[_Pairs] = []
_ALIKE: Final[Sequence[set[type[Any]]]] = ({list, tuple}, {set, frozenset})


def _inside(given: Any, read: Any, where: str, alike: bool) -> _Pairs | str:
    """Give the parts that are to be compared, or what is wrong."""
    cls: type[Any] = type(read)  # pyright: ignore[reportUnknownVariableType]
    if not (type(given) is cls or _comes_as(given, read, alike)):
        return _told(given, read, where)
    if issubclass(cls, msgspec.Struct):
        return _by_name(given, read, cls.__struct_fields__, where)
    if dataclasses.is_dataclass(cls):
        return _by_name(given, read, [f.name for f in dataclasses.fields(cls)], where)
    if hasattr(cls, "__attrs_attrs__"):
        return _by_name(given, read, [a.name for a in cls.__attrs_attrs__], where)
    if issubclass(cls, list | tuple | dict):
        if len(given) != len(read):
            return _told(given, read, where)
        return (
            _by_key(given, read, where) if issubclass(cls, dict) else _by_place(given, read, where)
        )
    if issubclass(cls, set | frozenset):
        return _by_member(given, read, where)
    return _NOTHING if _same(given, read) else _told(given, read, where)


def _by_member(given: Any, read: Any, where: str) -> _Pairs | str:
    found = {each: each for each in read}
    if len(given) != len(found) or any(each not in found for each in given):
        return _told(given, read, where)
    return [(each, found[each], where) for each in given]


def _by_key(given: Any, read: Any, where: str) -> _Pairs:
    values = [(given[key], read.get(key), where) for key in given]
    # The last is looked at first: values are compared where all keys are the same.
    return [*values, *((one, other, where) for one, other in zip(given, read, strict=True))]


def _by_place(given: Any, read: Any, where: str) -> _Pairs:
    pairs = enumerate(zip(given, read, strict=True))
    return [(one, other, f"{where}[{place}]") for place, (one, other) in pairs]


def _by_name(given: Any, read: Any, names: Iterable[str], where: str) -> _Pairs:
    absent = object()
    return [(getattr(given, n, absent), getattr(read, n, absent), f"{where}.{n}") for n in names]


def _comes_as(given: object, read: object, alike: bool) -> bool:
    """Tell whether a value may come back as another type: a number, or the base that it equals."""
    if isinstance(given, bool) or isinstance(read, bool):
        return False
    if isinstance(read, float | Decimal) and isinstance(given, int | float):
        return True
    if alike and {type(given), type(read)} in _ALIKE:
        return True
    return type(read) in (str, int, list, tuple, dict) and isinstance(given, type(read))


def _same(given: Any, read: Any) -> bool:
    """Compare two values without parts."""
    if isinstance(read, datetime | time):
        return _same_time(given, read)
    if isinstance(read, Decimal) and isinstance(given, Decimal):
        return _equal([given.as_tuple(), read.as_tuple()])
    return _equal([given, read])


def _same_time(given: Any, read: Any) -> bool:
    """Compare two times as written on a clock, with their offsets."""
    naive = given.tzinfo is None
    if naive != (read.tzinfo is None) or (naive and given.fold != read.fold):
        return False
    # Not by ==: of two zones it calls a time that a clock shows twice unequal to any other.
    clocks = [given.replace(tzinfo=None), read.replace(tzinfo=None)]
    return _equal(clocks) and _equal([given.utcoffset(), read.utcoffset()])


def _told(given: Any, read: Any, where: str) -> str:
    one, other = type(given).__name__, type(read).__name__
    if isinstance(given, float) and read is None:
        return (
            f"{where} is NaN or infinite, which JSON cannot say, and would be read back as None: "
            f"give a finite number, or keep what it means in a field of its own"
        )
    if isinstance(given, datetime | time) and isinstance(read, datetime | time):
        return (
            f"{where} would be read back as another time: an offset is stored in whole minutes, "
            f"and neither `fold` nor a time's zone is. Give it in UTC"
        )
    if isinstance(given, type(read)) and isinstance(given, msgspec.Struct):
        return (
            f"{where} was given as {one} and would be read back as {other}, without what {one} "
            f"adds: declare {one} there, or a union of tagged structs"
        )
    if one == other:
        return f"{where} is of type {one} and would be read back with another value"
    return (
        f"{where} was given as {one} and would be read back as {other}: give the declared type, or "
        f"declare {one}"
    )
