"""Tags in a log: an index of events by what they are about, and a condition that an append checks.

Rules: a tag is `name:value`. What an event is tagged with is in its payload: a `TagForm` says which
fields, and a store keeps the forms by which its index was made, so that it can be made again. The
index gets its rows in the transaction that appends the events; an event without tags has none. A
condition is a query and a position: a request is refused if an event that the query selects has
come behind that position, also with an earlier request of the same batch. It refuses that request
alone, and those behind it on its streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from ...errors import StoreRefused
from ...limits import ID_LENGTH_MAX
from ...model.codec import UNDECODABLE
from ...model.stored import StoredEvent

__all__ = [
    "NOTHING_CAME",
    "Came",
    "Condition",
    "TagBook",
    "TagForm",
    "TagIndex",
    "TagPage",
    "TagRead",
    "TagRow",
    "TagsChanged",
    "Unchanged",
    "is_tag_value",
    "rows_of",
]

_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value: Final = msgspec.json.Decoder(str | int | None).decode


class TagForm(msgspec.Struct, frozen=True, array_like=True):
    """What the events of one type are tagged with."""

    name: str
    """The stored name of the type."""
    version: int
    """Of the type."""
    fields: tuple[tuple[str, str], ...] = ()
    """Names of tags, each with the name of the field in JSON that has its value."""
    fixed: tuple[str, ...] = ()
    """Tags that all of them have."""


class TagRead(msgspec.Struct, frozen=True, array_like=True):
    """Ask for the events that have all these tags and one of these names, after a position."""

    tags: tuple[str, ...]
    names: tuple[str, ...]
    after: int = 0


class TagPage(msgspec.Struct, frozen=True):
    """Events that a query selects, in order of position; `more` where the page ended before."""

    events: Sequence[StoredEvent]
    more: bool


class Unchanged(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Refuse the request if an event with all these tags and one of these names came later."""

    tags: tuple[str, ...]
    names: tuple[str, ...]
    after: int
    """The position behind which none may be."""
    stream: str
    """One of the streams that the request writes to."""


class TagsChanged(msgspec.Struct, frozen=True, gc=False):
    """The request was not written: an event came that a condition of it selects."""

    extra: int
    """The place of that condition in its `extras`."""


Condition: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], int]
"""Tags, names, and the position after which nothing may have come."""
Came: TypeAlias = frozenset[Condition]
"""The conditions of a batch that the log does not fulfil as it is before it."""
NOTHING_CAME: Final[Came] = frozenset()
TagRow: TypeAlias = tuple[str, int, str, int]
"""A tag, the position of an event that has it, and name and version of the event's type."""


@runtime_checkable
class TagIndex(Protocol):
    """A reader of a log that has an index of tags. Calls block; each may be of another moment."""

    def tag_forms(self) -> Sequence[TagForm]:
        """Give the forms by which the index was made; empty for a log that has none."""
        ...

    def read_tags(self, after: tuple[str, int] = ("", 0), *, rows_max: int) -> Sequence[TagRow]:
        """Give the rows behind a tag and a position, in order of these two."""
        ...

    def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select, as `Store.read_tagged` does."""
        ...


def is_tag_value(value: str) -> bool:
    """Tell whether a text can be the value of a tag: 1 to 255 printable characters, as an id."""
    return 0 < len(value) <= ID_LENGTH_MAX and value.isprintable()


class TagBook:
    """What the requests of a batch bring that conditions of later ones select."""

    def __init__(self, came: Came = NOTHING_CAME) -> None:
        self._came = came
        self._brought: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        """Names of events and their tags, by each of these tags."""

    def refusal(self, extras: Sequence[object]) -> TagsChanged | None:
        """Give which condition of a request does not hold; None if all do."""
        for place, extra in enumerate(extras):
            if type(extra) is not Unchanged:
                continue
            if (extra.tags, extra.names, extra.after) in self._came or self._has_brought(extra):
                return TagsChanged(place)
        return None

    def _has_brought(self, condition: Unchanged) -> bool:
        for name, tags in self._brought.get(condition.tags[0], ()):
            if name in condition.names and all(tag in tags for tag in condition.tags):
                return True
        return False

    def add(self, name: str, tags: tuple[str, ...]) -> None:
        """Take an event that is appended."""
        brought, event = self._brought, (name, tags)
        for tag in tags:
            others = brought.get(tag)
            if others is None:
                brought[tag] = [event]
            else:
                others.append(event)


def rows_of(
    events: Iterable[StoredEvent], forms: Mapping[tuple[str, int], TagForm]
) -> list[TagRow]:
    """Give the rows of the index that events have by their forms.

    A value that no query can name is left out. Raises StoreRefused for an event that has no such
    field, or one of another class: whoever decides on tags would never see it.
    """
    rows: list[TagRow] = []
    for event in events:
        form = forms.get((event.name, event.event_version))
        if form is None:
            continue
        tags = [*form.fixed, *_tags_in(event, form)] if form.fields else form.fixed
        rows += [(t, event.position, event.name, event.event_version) for t in dict.fromkeys(tags)]
    return rows


def _tags_in(event: StoredEvent, form: TagForm) -> Iterable[str]:
    try:
        fields = _fields(event.payload)
        found = [(name, _value(fields.get(field, b"null"))) for name, field in form.fields]
    except UNDECODABLE:
        raise StoreRefused(
            f"{event.name} version {event.event_version} at position {event.position} has no text "
            f"and no whole number in one of {', '.join(field for _, field in form.fields)}, by "
            f"which it is to be found: declare tags= that events of this version have. Nothing was "
            f"changed"
        ) from None
    return [f"{name}:{value}" for name, value in found if value is not None and _fits(value)]


def _fits(value: str | int) -> bool:
    return isinstance(value, int) or is_tag_value(value)
