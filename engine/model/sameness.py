"""Whether two values are the same, and not only equal: of one class, and joined in the same places.

Rules: two values are the same if whatever is done to one leads to what it leads to when done to the
other. So classes are compared at every level (a Counter is no dict, True is no 1), attributes
besides the fields, time zones, and which parts are one object: a list that is held twice is not
the same as two equal lists. The order of a set is no part of it, since Python promises none. No
`__eq__` of the host's classes is asked where their parts can be seen. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from types import FunctionType
from typing import Any, Final, TypeAlias

import msgspec

__all__ = ["first_difference"]

_LEAVES: Final[frozenset[type]] = frozenset(
    (str, int, float, bool, bytes, type(None), Decimal, date, timedelta)
)
"""Classes whose values are the same where they are equal."""
_MISSING: Final = object()
Adapt: TypeAlias = Callable[[Any, Any], object]
_Parts: TypeAlias = Iterator[tuple[str, Any, Any, Any]]
"""How a part is found (an attribute, an item), its name, and the part of either value."""


def first_difference(one: object, other: object, adapt: Adapt | None = None) -> str | None:
    """Give the path of the first place where two values are not the same; None where they are.

    `adapt` takes a part of either value, and gives what is compared in place of the first one. With
    it, it is no difference that a part is one object in two places. Raises RecursionError for what
    is nested too deeply, and what hashing a host's value raises.
    """
    found = _Comparison(adapt).compare(one, other)
    return found if found is None else found or "."


class _Comparison:
    """One comparison, with the objects that were met."""

    def __init__(self, adapt: Adapt | None) -> None:
        self._adapt = adapt
        self._met: dict[int, object] = {}
        """By the identity of each object of the first value: the one in the other."""
        self._others: dict[int, object] = {}
        """The same, the other way round."""

    def compare(self, one: object, other: object) -> str | None:
        """Give the path below here of what differs."""
        if self._adapt is not None:
            one = self._adapt(one, other)
        kind = type(one)
        if kind is not type(other):
            return ""
        if kind in _LEAVES:
            return None if one == other or (one != one and other != other) else ""
        shape = _SHAPE_OF(kind)
        if not shape.has_parts:
            return None if one is other or _are_equal(kind, one, other) else ""
        if shape.may_change and self._adapt is None:
            if id(one) in self._met:
                # Met before: then it is the same object there too, and has been compared.
                return None if self._met[id(one)] is other else ""
            if id(other) in self._others:
                return ""
            self._met[id(one)], self._others[id(other)] = other, one
        for how, name, part, other_part in shape.parts(one, other):
            found = self.compare(part, other_part)
            if found is not None:
                return f".{name}{found}" if how == "." else f"[{_shown(name)}]{found}"
        return None


class _Shape:
    """How values of one class are taken apart."""

    def __init__(self, kind: type) -> None:
        self.names: tuple[str, ...] = ()
        self.has_dict = "__dict__" in dir(kind)
        self.may_change = not _is(kind, tuple, frozenset)
        """Whether it matters that a value is one object, and not two equal ones."""
        self.walk = next((walk for bases, walk in _WALKS if _is(kind, *bases)), None)
        """What goes over what it contains, where it is a container."""
        known: Any = kind
        if _is(kind, msgspec.Struct):
            self.names = known.__struct_fields__
            self.may_change = not known.__struct_config__.frozen
        elif dataclasses.is_dataclass(known):
            self.names = tuple(field.name for field in dataclasses.fields(known))
        elif self.walk is None and kind.__module__ != "builtins":
            self.names = _slots_of(kind)
        whole = _is(kind, enum.Enum, datetime, time, type, FunctionType)
        self.has_parts = not whole and bool(self.walk or self.names or self.has_dict)

    def parts(self, one: Any, other: Any) -> _Parts:
        """Give the parts of two values of this class, side by side."""
        for name in self.names:
            yield ".", name, getattr(one, name, _MISSING), getattr(other, name, _MISSING)
        if self.walk is not None:
            yield ".", "length", len(one), len(other)
            yield from self.walk(one, other)
        if self.has_dict:
            yield from self._beside(one, other)
        factory = getattr(one, "default_factory", None)
        if factory is not getattr(other, "default_factory", None):
            yield ".", "default_factory", True, False

    def _beside(self, one: object, other: object) -> _Parts:
        """Give what is kept beside the fields: a cached property is part of what is decided on."""
        mine: dict[str, Any] = getattr(one, "__dict__", {})
        theirs: dict[str, Any] = getattr(other, "__dict__", {})
        for name in sorted({*mine, *theirs} - set(self.names)):
            yield ".", name, mine.get(name, _MISSING), theirs.get(name, _MISSING)


def _is(kind: type, *bases: type) -> bool:
    return any(base in kind.__mro__ for base in bases)


def _slots_of(kind: type) -> tuple[str, ...]:
    slots = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    named = [(each,) if isinstance(each, str) else tuple(each) for each in slots]
    return tuple(name for names in named for name in names if not name.startswith("__"))


def _entries(one: dict[Any, Any], other: dict[Any, Any]) -> _Parts:
    """Give keys and values in their order, which is part of a dict that is walked over."""
    for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
        yield "[", key, key, other_key
        yield "[", key, value, other_value


def _items(one: Any, other: Any) -> _Parts:
    kinds = list(map(type, one))
    if _LEAVES.issuperset(kinds) and kinds == list(map(type, other)) and one == other:
        return  # the most there is: nothing in it can differ
    for number, (part, other_part) in enumerate(zip(one, other, strict=True)):
        yield "[", number, part, other_part


def _members(one: Any, other: Any) -> _Parts:
    by_value = {value: value for value in other}
    for value in one:
        yield ".", "members", value, by_value.get(value, _MISSING)


def _are_equal(kind: type, one: Any, other: Any) -> bool:
    """Compare what shows no parts."""
    if _is(kind, datetime, time):
        zones: list[Any] = [(type(each.tzinfo), each.tzinfo, each.fold) for each in (one, other)]
        return bool(zones[0] == zones[1] and one == other)
    # An object that is equal to itself alone cannot be told from its copy.
    asked: object = kind.__eq__
    return asked is object.__eq__ or bool(one == other)


def _shown(key: object) -> str:
    """Give an index; a key may be a customer's name, and its class must do."""
    return str(key) if type(key) is int else type(key).__name__


_WALKS: Final[tuple[tuple[tuple[type, ...], Callable[[Any, Any], _Parts]], ...]] = (
    ((dict,), _entries),
    ((set, frozenset), _members),
    ((list, tuple), _items),
)
_SHAPE_OF: Final[Callable[[type], _Shape]] = lru_cache(maxsize=1_024)(_Shape)
