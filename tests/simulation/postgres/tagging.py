"""Tags in the modelled server: the statements inside of their functions, and what is read.

Rules: as for the rest of the log's functions. The index has a position and a number of a type, by
tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from .plpgsql import Call, Running, Step

__all__ = ["TAG_STEPS", "came", "counted", "tag_forms", "tagged", "tagged_events"]

_QUERY: Final = ("u_tags", "u_further", "u_names", "u_afters")
_FORM: Final = ("p_names", "p_versions", "p_fields", "p_fixed")


def _rows(variables: dict[str, Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(variables[name] for name in names), strict=True))


def _selected(tables: Any, tag: str, further: str, names: str, after: int) -> Iterator[int]:
    """Give the positions that a query selects, in order."""
    wanted = set(msgspec.json.decode(names))
    others = [dict(tables.tags.get(other, ())) for other in msgspec.json.decode(further)]
    for position, kind in sorted(tables.tags.get(tag, ())):
        named = tables.types[kind][0] in wanted
        if position > after and named and all(position in other for other in others):
            yield position


def _perform_came(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        queries = _rows(variables, _QUERY)
        variables["FOUND"] = any(any(_selected(call.tables, *query)) for query in queries)
        yield from ()

    return step


def _insert_tags(found: re.Match[str]) -> Step:
    places = ("g_tags", "g_places", "g_types")
    names = places if "p_after" in found[0] else ("p_tags", "p_positions", "p_types")

    def step(call: Call, variables: dict[str, Any]) -> Running:
        after = variables["p_after"] if names == places else 0
        for tag, position, kind in _rows(variables, names):
            call.change("tagged", tag, after + position, kind)
        yield from ()

    return step


def _delete_tags(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.change("untagged", tuple(variables["p_stale"]))
        yield from ()

    return step


def _delete_forms(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.change("forms", ())
        yield from ()

    return step


def _insert_forms(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.change("forms", tuple(_rows(variables, _FORM)))
        yield from ()

    return step


_SELECTED: Final = (
    "FROM {s}.tags g WHERE g.tag = u.tag AND g.position > u.after AND g.type IN (SELECT t.number "
    "FROM {s}.event_types t WHERE t.name IN ( SELECT n.name FROM "
    "jsonb_array_elements_text(u.names::jsonb) AS n(name))) AND NOT EXISTS ( SELECT 1 FROM "
    "jsonb_array_elements_text(u.further::jsonb) AS f(tag) WHERE NOT EXISTS ( SELECT 1 FROM "
    "{s}.tags o WHERE o.tag = f.tag AND o.position = g.position))"
)
TAG_STEPS: Final = (
    (
        (
            "PERFORM 1 FROM unnest(u_tags, u_further, u_names, u_afters) AS u(tag, further, names, "
            f"after) WHERE EXISTS (SELECT 1 {_SELECTED})"
        ),
        _perform_came,
    ),
    (
        (
            "INSERT INTO {s}.tags(tag, position, type) SELECT u.tag, p_after + u.place, u.type "
            "FROM unnest(g_tags, g_places, g_types) AS u(tag, place, type)"
        ),
        _insert_tags,
    ),
    (
        (
            "INSERT INTO {s}.tags(tag, position, type) SELECT u.tag, u.position, u.type FROM "
            "unnest(p_tags, p_positions, p_types) AS u(tag, position, type)"
        ),
        _insert_tags,
    ),
    ("DELETE FROM {s}.tags g WHERE g.type = ANY (p_stale)", _delete_tags),
    ("DELETE FROM {s}.tag_forms", _delete_forms),
    (
        (
            "INSERT INTO {s}.tag_forms(name, version, fields, fixed) SELECT u.name, u.version, "
            "u.fields, u.fixed FROM unnest(p_names, p_versions, p_fields, p_fixed) AS u(name, "
            "version, fields, fixed)"
        ),
        _insert_forms,
    ),
)


# -- what is read ---------------------------------------------------------------------------------


def tag_forms(call: Call) -> list[tuple[Any, ...]]:
    """Give the forms of the index."""
    return list(call.tables.tag_forms)


def came(call: Call, *columns: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Give which queries select an event, counted from 1."""
    queries = enumerate(zip(*columns, strict=True), 1)
    return [(place,) for place, query in queries if any(_selected(call.tables, *query))]


def counted(call: Call, *asked: Any) -> list[tuple[Any, ...]]:
    """Give how many events queries select, one more than wanted at most."""
    *columns, most = asked
    queries = zip(*columns, strict=True)
    return [(min(most + 1, len(list(_selected(call.tables, *query)))),) for query in queries]


def tagged(call: Call, *asked: Any) -> list[tuple[Any, ...]]:
    """Give the events that queries select, as many as fit."""
    *columns, events_max, bytes_max = asked
    rows: list[tuple[Any, ...]] = []
    so_far = 0
    for place, query in enumerate(zip(*columns, strict=True), 1):
        for position in list(_selected(call.tables, *query))[:events_max]:
            event = call.tables.events[position - 1]
            so_far += len(event.payload) + len(event.metadata)
            if len(rows) < events_max and (not rows or so_far <= bytes_max):
                rows.append((place, *_columns(event)))
    return rows


def tagged_events(
    call: Call, after: int, until: int, kinds: Sequence[int], events_max: int
) -> list[tuple[Any, ...]]:
    """Give the events of some types behind a position."""
    found = [e for e in call.tables.events if after < e.position <= until and e.type in kinds]
    return [_columns(event) for event in found[:events_max]]


def _columns(event: Any) -> tuple[Any, ...]:
    return (
        *(event.position, event.stream, event.version, event.type, event.recorded, event.payload),
        *(event.metadata, event.encoding, event.checksum, event.behind),
    )
