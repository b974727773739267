"""The SQL of tags in a log file: the index, what a condition asks of it, and how it is made anew.

Rules: one statement does it for a whole batch, since each may hand the interpreter's lock over. The
index is a tree by tag and position, so that what came behind a position is found by one look. Its
forms stand beside it; where an engine has others, it is made anew from the payloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ....model.codec import UNDECODABLE
from ....model.stored import StoredEvent
from ...contract.log import Batch, conditions_of
from ...contract.tags import (
    NOTHING_CAME,
    Came,
    Condition,
    TagForm,
    TagPage,
    TagRead,
    TagRow,
    rows_of,
)
from ..connection import check_order, run
from .heads import read_types
from .pages import Types, read_selected
from .schema import check_inserted

__all__ = [
    "RecentTags",
    "add_tags",
    "index_tags",
    "is_index_of",
    "read_came",
    "read_forms",
    "read_rows",
    "read_tagged",
]

_Forms: TypeAlias = Mapping[tuple[str, int], TagForm]
Numbers: TypeAlias = Mapping[tuple[str, int], tuple[int, str]]
"""Number and schema hash of each type, by name and version."""

# The first tag leads; its rows are few behind a position, and the others are looked for one by one.
_SELECTED: Final = """
    FROM tags WHERE tags.tag = {query}->>0->>0 AND tags.position > {query}->>2
    AND tags.type IN (
        SELECT number FROM event_types WHERE name IN (SELECT value FROM json_each({query}->1)))
    AND NOT EXISTS (
        SELECT 1 FROM json_each({query}->0) further WHERE further.key > 0 AND NOT EXISTS (
            SELECT 1 FROM tags other
            WHERE other.tag = further.value AND other.position = tags.position))
"""
_CAME: Final = (
    "SELECT json_group_array(asked.key) FROM json_each(?) asked WHERE EXISTS (SELECT 1 "  # noqa: S608
    f"{_SELECTED.format(query='asked.value')})"
)
_POSITIONS: Final = (
    "SELECT json_group_array(position) FROM (SELECT tags.position "  # noqa: S608 - ours
    f"{_SELECTED.format(query='?1')} ORDER BY tags.position LIMIT ?2)"
)
_INSERT: Final = """
    INSERT INTO tags SELECT value->>0, value->>1, value->>2 FROM json_each(?)
"""
_FORMS: Final = "SELECT name, version, fields, fixed FROM tag_forms"
_ROWS: Final = """
    SELECT tags.tag, tags.position, coalesce(event_types.name, ''), coalesce(version, 0)
    FROM tags LEFT JOIN event_types ON event_types.number = tags.type
    WHERE (tags.tag, tags.position) > (?, ?) ORDER BY tags.tag, tags.position LIMIT ?
"""
_ADD_FORM: Final = "INSERT INTO tag_forms VALUES (?, ?, ?, ?)"
_EVENTS_OF: Final = (
    "SELECT position FROM events WHERE position > ?1 AND type IN (SELECT value FROM json_each(?2)) "
    "ORDER BY position LIMIT ?3"
)
_PAGE_EVENTS: Final = 2_000
_RECENT_MAX: Final = 50_000
"""Tags that a writer remembers."""
_PAGE_BYTES: Final = 16 * 1024 * 1024

_integers: Final = msgspec.json.Decoder(list[int]).decode
_fields: Final = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
_fixed: Final = msgspec.json.Decoder(tuple[str, ...]).decode


class RecentTags:
    """Where each tag came last among the latest events of a log, as its writer inserted them.

    Good for a yes, which the schema checks again: it lets no event be behind another that the
    writer does not know. Bounded: if there are too many tags, it begins anew.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._after = 0
        """The position behind which it has all tags."""

    def begin(self, position: int) -> None:
        """Forget all; what comes behind a position will be known."""
        self._last.clear()
        self._after = position

    def add(self, rows: Sequence[TagRow]) -> None:
        """Take what was inserted durably."""
        last = self._last
        for tag, position, _, _ in rows:
            last[tag] = position
        if len(last) > _RECENT_MAX and rows:
            self.begin(rows[-1][1])

    def shows(self, condition: Condition) -> bool:
        """Tell whether it is plain that nothing came which a condition selects."""
        tags, _, after = condition
        return after >= self._after and any(self._last.get(tag, 0) <= after for tag in tags)


def read_came(connection: Any, batch: Batch, recent: RecentTags) -> Came:
    """Give those of a batch's conditions that do not hold; `recent` spares most of the looks."""
    conditions = [each for each in conditions_of(batch) if not recent.shows(each)]
    if not conditions:
        return NOTHING_CAME
    ((found,),) = run(connection, _CAME, (_as_json(conditions),))
    return frozenset(conditions[place] for place in _integers(found))


def add_tags(connection: Any, rows: Sequence[TagRow], types: Numbers) -> None:
    """Add what events are found by; raise StoreFailed where that is not added."""
    if not rows:
        return
    told = [(tag, position, types[name, version][0]) for tag, position, name, version in rows]
    run(connection, _INSERT, (_as_json(told),))
    check_inserted(connection, len(rows))


def read_tagged(
    connection: Any,
    types: Types,
    reads: Sequence[TagRead],
    events_max: int,
    bytes_max: int,
) -> Sequence[TagPage]:
    """Give a page of the events that each query selects; raise Damaged."""
    pages: list[TagPage] = []
    left, bytes_left, is_first = events_max, bytes_max, True
    for read in reads:
        ((found,),) = run(connection, _POSITIONS, (_as_json(read), left + 1))
        wanted = _integers(found)
        events: Sequence[StoredEvent] = ()
        if wanted and (left > 0 or is_first) and (bytes_left > 0 or is_first):
            events = read_selected(connection, types, wanted[: max(left, 1)], bytes_left, is_first)
        pages.append(TagPage(events, len(events) < len(wanted)))
        left -= len(events)
        bytes_left -= sum(len(event.payload) + len(event.metadata) for event in events)
        is_first = is_first and not events
        if pages[-1].more:
            left = bytes_left = 0
    return pages


def read_forms(connection: Any) -> Sequence[TagForm]:
    """Give the forms by which the index was made."""
    return tuple(_kept(connection).values())


def read_rows(connection: Any, after: tuple[str, int], rows_max: int) -> Sequence[TagRow]:
    """Give rows of the index, in order; a type that is not there has no name."""
    found: Sequence[TagRow] = run(connection, _ROWS, (*after, rows_max))
    check_order([row[:2] for row in found], after, "tags")
    return found


def is_index_of(connection: Any, forms: Sequence[TagForm]) -> bool:
    """Tell whether the index is of these forms."""
    return _believed(connection) == _by_type(forms)


def _believed(connection: Any) -> _Forms:
    """Give the forms of the index; none where they are damaged, so that it is made anew."""
    try:
        return _kept(connection)
    except UNDECODABLE:
        return {}


def _kept(connection: Any) -> _Forms:
    return _by_type(
        TagForm(name, version, _fields(fields), _fixed(fixed))
        for name, version, fields, fixed in run(connection, _FORMS)
    )


def _by_type(forms: Iterable[TagForm]) -> _Forms:
    return {(form.name, form.version): form for form in forms}


def index_tags(connection: Any, types: Types, forms: Sequence[TagForm]) -> int:
    """Make the index anew for types whose forms are others now; within a transaction.

    Gives how many events were indexed.
    """
    kept, wanted = _believed(connection), _by_type(forms)
    numbers: Numbers = {
        (name, version): (n, hash_) for n, name, version, hash_ in read_types(connection)
    }
    other = {key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key)}
    stale = _as_json([numbers[key][0] for key in other if key in numbers])
    if kept:
        run(connection, "DELETE FROM tags WHERE type IN (SELECT value FROM json_each(?))", (stale,))
    else:
        run(connection, "DELETE FROM tags")  # whatever it says: somebody had it made again
    run(connection, "DELETE FROM tag_forms")
    for form in wanted.values():
        fields, fixed = _as_json(form.fields), _as_json(form.fixed)
        run(connection, _ADD_FORM, (form.name, form.version, fields, fixed))
    new = {key: wanted[key] for key in other if key in wanted and key in numbers}
    return _index_events(connection, types, numbers, new)


def _index_events(
    connection: Any,
    types: Types,
    numbers: Numbers,
    forms: _Forms,
) -> int:
    asked = _as_json([numbers[key][0] for key in forms])
    after = count = 0
    while forms:
        found = run(connection, _EVENTS_OF, (after, asked, _PAGE_EVENTS))
        if not found:
            break
        events = read_selected(connection, types, [row[0] for row in found], _PAGE_BYTES, True)
        rows = rows_of(events, forms)
        if rows:
            add_tags(connection, rows, numbers)
        count += len(events)
        after = events[-1].position
    return count


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
