"""Tags of events: which fields of a class say what its events are about, and how they are read.

Rules: a tag is `name:value`. `tags=("course", "student")` names fields, whose values are texts or
whole numbers; None is no tag. A name with a colon, as "invoices:all", is a tag that all events of
the class have. A value is what an id may be, so that a query can name each. Personal fields are no
tags: a tag is stored as it stands. This file knows no store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import inspect

from ..errors import DefinitionError, HandlerFailed, InvalidInput
from ..limits import ID_LENGTH_MAX, TAGS_MAX
from .given import shown

__all__ = [
    "EventTags",
    "TagReader",
    "check_tag_names",
    "event_tags",
    "is_fixed",
    "named",
    "reader_of",
]

TagReader: TypeAlias = Callable[[Any], tuple[str, ...]]
"""Gives the tags of an event; raises HandlerFailed for a value that none can have."""

_TAG_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(:[^\s:]+)?")


class EventTags(msgspec.Struct, frozen=True):
    """What the events of one class are tagged with."""

    fields: tuple[tuple[str, str], ...] = ()
    """Fields whose values are tags, each with its name in JSON."""
    fixed: tuple[str, ...] = ()
    """Tags that all of them have."""

    @property
    def names(self) -> frozenset[str]:
        """The names as they are declared."""
        return frozenset((*(name for name, _ in self.fields), *self.fixed))


def is_fixed(name: str) -> bool:
    """Tell whether a declared name is a whole tag."""
    return ":" in name


def named(name: str, value: str) -> str:
    """Give a tag of a declared name: itself if that is a whole tag."""
    return name if is_fixed(name) else f"{name}:{value}"


def check_tag_names(where: str, tags: object) -> tuple[str, ...]:
    """Give declared names; raise DefinitionError for what are none."""
    what = shown(tags)
    listed = isinstance(tags, Sequence) and not isinstance(tags, str)
    names = tuple(cast("Sequence[object]", tags)) if listed else ()
    fits = all(
        isinstance(name, str) and len(name) <= ID_LENGTH_MAX and _TAG_NAME.fullmatch(name)
        for name in names
    )
    if not listed or not fits or len({*names}) < len(names):
        raise DefinitionError(
            f"{where} has tags={what}: write a list of names of fields, each once, as "
            f'tags=("course", "student"), or of whole tags, as tags=("invoices:all",)'
        )
    if len(names) > TAGS_MAX:
        raise DefinitionError(f"{where} has {len(names)} tags, and {TAGS_MAX} are the most")
    return cast("tuple[str, ...]", names)


def event_tags(cls: type[msgspec.Struct], tags: object) -> EventTags | None:
    """Give what events of a class are tagged with; None for nothing.

    Raises DefinitionError for a field that cannot be a tag, and NameError where a field names a
    type that is not there yet.
    """
    where = f"event {cls.__qualname__}"
    names = check_tag_names(where, tags)
    if not names:
        return None
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    by_name = {field.name: field for field in info.fields}
    fields: list[tuple[str, str]] = []
    for name in names:
        if is_fixed(name):
            continue
        field = by_name.get(name)
        if field is None:
            raise DefinitionError(
                f"{where} has the tag {name!r}, and no field of that name: add it"
            )
        _check_field(where, field)
        fields.append((name, field.encode_name))
    return EventTags(tuple(fields), tuple(filter(is_fixed, names)))


def _check_field(where: str, field: inspect.Field) -> None:
    if _is_personal(field.type):
        raise DefinitionError(
            f"{where} has the tag {field.name!r}, which is a personal field: a tag is stored as it "
            f"stands, and stays. Tag the event with an id of your own for the person"
        )
    if not _is_taggable(field.type):
        raise DefinitionError(
            f"{where} has the tag {field.name!r}, which is no text and no whole number: write "
            f"`{field.name}: str`, or `str | None` for events without it"
        )
    if field.default not in (None, msgspec.NODEFAULT) or field.default_factory not in (
        None,
        msgspec.NODEFAULT,
    ):
        raise DefinitionError(
            f"{where} has the tag {field.name!r} with a default: events that were stored without "
            f"it are found by no tag, so give none, or None"
        )


def _is_personal(type_: inspect.Type) -> bool:
    if not isinstance(type_, inspect.Metadata):
        return False
    extra = cast("dict[str, object]", type_.extra or {})
    return extra.get("foldline") == "personal" or _is_personal(type_.type)


def _is_taggable(type_: inspect.Type) -> bool:
    if isinstance(type_, inspect.Metadata):
        return _is_taggable(type_.type)
    if isinstance(type_, inspect.UnionType):
        return all(isinstance(t, inspect.NoneType) or _is_taggable(t) for t in type_.types)
    return isinstance(type_, inspect.StrType | inspect.IntType)


def no_tag(text: str) -> str:
    """Say why a text cannot be a tag; nothing where it can."""
    if 0 < len(text) <= ID_LENGTH_MAX and text.isprintable():
        return ""
    return f"it has {len(text)} characters, and a tag has 1 to {ID_LENGTH_MAX} printable ones"


def reader_of(cls: type[msgspec.Struct], tags: EventTags) -> TagReader:
    """Give what reads the tags of events of a class."""
    fields, fixed, where = [(n, f"{n}:") for n, _ in tags.fields], tags.fixed, cls.__name__
    may_repeat = any(tag.startswith(begin) for tag in fixed for _, begin in fields)

    def read(event: Any) -> tuple[str, ...]:
        found: list[str] = []
        for name, begin in fields:
            value = getattr(event, name)
            if value is None:
                continue
            if type(value) is str:
                text = value
            else:
                text = str.__str__(value) if isinstance(value, str) else int.__repr__(value)
            if not 0 < len(text) <= ID_LENGTH_MAX or not text.isprintable():
                raise HandlerFailed(
                    f"{where}.{name} is a tag with {len(text)} characters: it has 1 to "
                    f"{ID_LENGTH_MAX} printable ones. Nothing was written."
                ) from InvalidInput(no_tag(text))
            found.append(begin + text)
        if may_repeat:
            return tuple(dict.fromkeys((*found, *fixed)))  # a value may make a whole tag
        return (*found, *fixed)

    return read
