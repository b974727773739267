"""The shape of stored structs as a hash: what tells a later release that an event's fields changed.

Rules: covered are the encoded names, the order, types and requiredness of all fields, and the same
of all structs inside. Class names and docstrings are not: they do not show in bytes. A default is
covered where a stored event may lack its field, since there it is what the event says; elsewhere it
is not, since all fields are stored, but for those that are UNSET. In events and states the names of
an enum's numbers are: with `auto()` a number goes to another member as one goes. Covered is whether
an event has personal fields, and not which: they may become more. A shape that an earlier release
wrote under the same version is gone on from only where what is absent there is well defined.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import inspect

from ..errors import DefinitionError
from .annotations import UNRESOLVED, defaults_of, struct_of
from .exact import holds_itself
from .messages import Event
from .numbers import gives_own_names
from .personal import has_marks
from .stored import LATER, EventType

__all__ = ["CLASSES_MAX", "event_type", "has_numbers", "schema_hash"]

_canonical = msgspec.json.Encoder(order="deterministic", enc_hook=repr)

_EMPTY: tuple[Any, ...] = (list, dict, set, tuple, frozenset, bytearray)


CLASSES_MAX: Final = 4_096
"""Of how many classes it is kept what they look like: each engine of a process asks anew."""


def schema_hash(cls: type[msgspec.Struct], *, meaning: bool = False) -> str:
    """Give 16 hexadecimal digits that change when the encoded form of a struct can change.

    With `meaning` also when the same bytes may say something else: a default changes that may stand
    for a field that was left out, or a number of an enum gets another name.
    """
    return _hash(_Shape(defaults=meaning, names=meaning).of(_info(cls)))


def has_numbers(cls: type[msgspec.Struct]) -> bool:
    """Tell whether values of a class may have members of enums whose values are numbers."""
    return schema_hash(cls) != schema_hash(cls, meaning=True)


@lru_cache(maxsize=CLASSES_MAX)
def event_type(cls: type[Event], left_out: int = 0) -> EventType:
    """Give a class of event as a log stores it, with the shapes that it goes on from.

    With `left_out` as a former release does, which had so many fewer of the fields that were added.
    """
    info = _info(cls)
    added = cls.event_added
    hashes: list[str] = []
    later: list[str] = []
    # From all that it has today to the first release, which had none of what was added.
    for count in range(len(added), -1, -1):
        fields = [f for f in info.fields if f.name not in added[count:]]
        held = msgspec.structs.replace(info, fields=tuple(fields))
        absent = cls.__struct_fields__ if cls.event_omitted else added[:count]
        shapes = [
            _Shape(defaults=True, names=True, event=cls, absent=absent).of(held),
            # As former releases described it.
            _Shape(defaults=True, names=False, event=cls, absent=absent).of(held),
            _Shape(defaults=False, names=False).of(held),
        ]
        # Gone on from without the mark, and never back: unmarked, what is encrypted is not seen.
        marked = [["personal", each] for each in shapes] if has_marks(held) else []
        into = later if count > len(added) - left_out else hashes
        into += [_hash(each) for each in (*marked, *shapes)]
    today, *former = dict.fromkeys(hashes)
    if later:
        former += [LATER, *(each for each in dict.fromkeys(later) if each not in hashes)]
    return EventType(cls.event_name, cls.event_version, today, tuple(former))


def _info(cls: type[msgspec.Struct]) -> inspect.StructType:
    try:
        info = inspect.type_info(cls)
    except RecursionError:
        raise DefinitionError(holds_itself(cls.__qualname__)) from None
    except (TypeError, *UNRESOLVED) as error:
        raise DefinitionError(
            f"the fields of {cls.__qualname__} cannot be stored: {error}. Use types that msgspec "
            f"decodes, declared at the top of a module."
        ) from error
    assert isinstance(info, inspect.StructType)
    return info


def _hash(shape: Any) -> str:
    return blake2b(_canonical.encode(shape), digest_size=8).hexdigest()


class _Shape:
    """Describes types as plain lists and strings."""

    def __init__(
        self,
        *,
        defaults: bool,
        names: bool,
        event: type[Event] | None = None,
        absent: Sequence[str] = (),
    ) -> None:
        self._defaults = defaults
        """Whether defaults are covered where stored bytes may lack their field."""
        self._names = names
        """Whether the names are covered that an enum gives to numbers, and what may be UNSET."""
        self._event = event
        self._absent = absent
        """Fields of the event itself that stored bytes may lack."""
        self._inside: list[type] = []

    def of(self, value: Any) -> Any:
        """Describe a type; a struct inside itself by its depth."""
        if isinstance(value, inspect.StructType):
            return self._struct(value)
        if isinstance(value, inspect.EnumType):
            return ["enum", self._members(value.cls)]
        if isinstance(value, inspect.UnionType):
            return ["union", *sorted((self.of(t) for t in value.types), key=repr)]
        if isinstance(value, inspect.Metadata):
            return self.of(value.type)
        if isinstance(value, inspect.Type):
            parts = {
                name: self.of(getattr(value, name))
                for name in value.__struct_fields__
                if name != "cls"
            }
            named = getattr(value, "cls", None)
            described = [type(value).__name__, getattr(named, "__name__", None), parts]
            unset = self._unset(value.cls) if isinstance(value, inspect.DataclassType) else []
            return [*described, unset] if unset else described
        if isinstance(value, (tuple, list)):
            return [self.of(item) for item in _items(value)]
        if isinstance(value, inspect.Field):
            return [value.encode_name, value.required, self.of(value.type)]
        return value if isinstance(value, int | float | str | bool | None) else repr(value)

    def _members(self, cls: type[Enum]) -> Sequence[Any]:
        """Describe an enum: by its numbers and their names, or by its texts."""
        if (
            self._names
            and gives_own_names(cls)
            and any(isinstance(member.value, int) for member in cls)
        ):
            # The first name of a number: others may come and go.
            return sorted(([member.value, member.name] for member in cls), key=repr)
        return sorted(str(member.value) for member in cls)

    def _unset(self, cls: Any) -> list[str]:
        """Name the fields of a dataclass that are left out unless they are set."""
        made = typing.get_origin(cls) or cls
        if not self._names or not dataclasses.is_dataclass(made):
            return []  # of `attrs`, say
        return [field.name for field in dataclasses.fields(made) if field.default is msgspec.UNSET]

    def _struct(self, value: inspect.StructType) -> Any:
        if value.cls in self._inside:
            return ["again", self._inside.index(value.cls)]
        self._inside.append(value.cls)
        fields = [[f.encode_name, f.required, self.of(f.type)] for f in value.fields]
        self._inside.pop()
        described = ["struct", value.tag_field, value.tag, value.array_like, fields]
        absent = self._said_by_absence(value) if self._defaults else []
        return [*described, absent] if absent else described

    def _said_by_absence(self, value: inspect.StructType) -> list[Any]:
        cls = struct_of(value.cls)
        if cls is self._event:
            names: Sequence[str] = self._absent
        else:
            names = cls.__struct_fields__ if cls.__struct_config__.omit_defaults else ()
        held = {field.name for field in value.fields}
        said: list[Any] = []
        for name, (default, factory) in defaults_of(cls).items():
            if name not in held:
                continue
            # msgspec never leaves out what another function has made.
            is_left_out = name in names and (factory is None or factory in _EMPTY)
            if is_left_out or (self._names and default is msgspec.UNSET):
                said.append([name, *_default(default if factory is None else factory())])
        return said


def _default(value: Any) -> tuple[str, str]:
    """Describe a default: its type and its JSON."""
    try:
        said = _canonical.encode(value).decode()
    except Exception:
        said = repr(value)
    return type(value).__name__, said


def _items(value: Any) -> Iterable[Any]:
    return value  # type: ignore[no-any-return]
