"""Timers in the modelled server: the statements inside of their functions, and what is read.

Rules: as for the rest of the log's functions. A timer of the tables is a row by stream and name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from .expressions import compiled
from .plpgsql import Call, Running, Step

__all__ = ["TIMER_STEPS", "all_timers", "count_timers", "due_timers", "standing_timers"]

_NEXT, _ATTEMPTS, _PARKED, _POSITION = 8, 9, 10, 3
_NEW: Final = (
    *("w_streams", "w_names", "w_dues", "w_places", "w_versions", "w_commands", "w_payloads"),
    "w_metadatas",
)
_SETTLED: Final = (
    *("p_streams", "p_names", "p_positions", "p_nexts", "p_attempts", "p_parked"),
    "p_causes",
)


def _rows(variables: dict[str, Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(variables[name] for name in names), strict=True))


def _perform_fired(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = False
        for stream, name, place in _rows(variables, ("f_streams", "f_names", "f_positions")):
            there = call.tables.timers.get((stream, name))
            row = {"position": None if there is None else there[_POSITION], "place": place}
            if condition(variables, row):
                variables["FOUND"] = True
        yield from ()

    return step


def _delete_timers(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        keys = _rows(variables, ("d_streams", "d_names"))
        gone = [key for key in keys if key in call.tables.timers]
        for key in gone:
            call.change("unset", *key)
        variables["ROW_COUNT"] = len(gone)
        yield from ()

    return step


def _insert_timers(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        deleted = set(_rows(variables, ("d_streams", "d_names")))
        for stream, name, due, place, *rest in _rows(variables, _NEW):
            if (stream, name) in call.tables.timers and (stream, name) not in deleted:
                raise call.fail("23505", "duplicate key value violates a unique constraint")
            position = variables["p_after"] + place
            call.change("set", (stream, name, due, position, *rest, due, 0, False, ""))
        yield from ()

    return step


def _settle(found: re.Match[str]) -> Step:
    deletes = found[0].startswith("DELETE")

    def step(call: Call, variables: dict[str, Any]) -> Running:
        gone = 0
        for stream, name, position, *settled in _rows(variables, _SETTLED):
            row = call.tables.timers.get((stream, name))
            if row is None or row[_POSITION] != position or (settled[0] < 0) != deletes:
                continue
            if deletes:
                call.change("unset", stream, name)
                gone += 1
            else:
                call.change("set", (*row[:_NEXT], *settled))
        variables["ROW_COUNT"] = gone
        yield from ()

    return step


TIMER_STEPS: Final = (
    (
        (
            "PERFORM 1 FROM unnest(f_streams, f_names, f_positions) AS u(stream, name, place) "
            "LEFT JOIN {s}.timers w ON w.stream = u.stream AND w.name = u.name WHERE @where"
        ),
        _perform_fired,
    ),
    (
        (
            "DELETE FROM {s}.timers w USING unnest(d_streams, d_names) AS u(stream, name) WHERE "
            "w.stream = u.stream AND w.name = u.name"
        ),
        _delete_timers,
    ),
    (
        (
            "INSERT INTO {s}.timers(stream, name, due, position, version, command, payload, "
            "metadata, next, attempts, parked, cause) SELECT u.stream, u.name, u.due, p_after + "
            "u.place, u.version, u.command, u.payload, u.metadata, u.due, 0, false, '' FROM "
            "unnest(w_streams, w_names, w_dues, w_places, w_versions, w_commands, w_payloads, "
            "w_metadatas) AS u(stream, name, due, place, version, command, payload, metadata)"
        ),
        _insert_timers,
    ),
    (
        (
            "UPDATE {s}.timers w SET next = u.next, attempts = u.attempts, parked = u.parked, "
            "cause = u.cause FROM unnest(p_streams, p_names, p_positions, p_nexts, p_attempts, "
            "p_parked, p_causes) AS u(stream, name, position, next, attempts, parked, cause) "
            "WHERE w.stream = u.stream AND w.name = u.name AND w.position = u.position AND "
            "u.next >= 0"
        ),
        _settle,
    ),
    (
        (
            "DELETE FROM {s}.timers w USING unnest(p_streams, p_names, p_positions, p_nexts) AS "
            "u(stream, name, position, next) WHERE w.stream = u.stream AND w.name = u.name AND "
            "w.position = u.position AND u.next < 0"
        ),
        _settle,
    ),
)
"""Each with the words that it is known by, where a name behind an @ stands for any text."""


def _place(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[_NEXT], row[_POSITION], row[0], row[1]


def standing_timers(call: Call, streams: Sequence[str], names: Sequence[str]) -> Any:
    """Give the positions of those that stand."""
    keys = zip(streams, names, strict=True)
    timers = call.tables.timers
    return [(*key, timers[key][_POSITION]) for key in keys if key in timers]


def due_timers(call: Call, *values: Any) -> Any:
    """Give those behind a place and up to a time."""
    *after, until, timers_max = values
    rows = [row for row in call.tables.timers.values() if not row[_PARKED] and row[_NEXT] <= until]
    return sorted((r for r in rows if _place(r) > tuple(after)), key=_place)[:timers_max]


def all_timers(call: Call, stream: str, name: str, timers_max: int) -> Any:
    """Give those behind a key."""
    keys = [key for key in sorted(call.tables.timers) if key > (stream, name)]
    return [call.tables.timers[key] for key in keys[:timers_max]]


def count_timers(call: Call) -> Any:
    """Give how many wait, how many have failed, and how many an operator has cancelled."""
    rows = call.tables.timers.values()
    parked = [row[_ATTEMPTS] > 0 for row in rows if row[_PARKED]]
    return [(len(rows) - len(parked), sum(parked), len(parked) - sum(parked))]
