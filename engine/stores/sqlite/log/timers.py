"""The SQL of timers in a log file: which stand, which are due, and what a batch changes.

Rules: one statement moves many timers, since each may hand the interpreter's lock over. Those that
are due are found by an index, so that a million others cost nothing. Nothing is remembered between
two batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from ...contract.timers import (
    NO_TIMERS,
    DuePlace,
    SettledTimer,
    TimerKey,
    WaitingTimer,
    may_replace,
)
from ..connection import check_order, run
from .schema import check_inserted

__all__ = [
    "add_timers",
    "change_timers",
    "count_timers",
    "read_due",
    "read_standing",
    "read_timers",
    "settle_timers",
]

_COLUMNS: Final = (
    "stream, name, due, position, version, command, payload, metadata, next, attempts, parked, "
    "cause"
)
_READ: Final = (
    "{keys}, due, position, version, CAST(command AS BLOB), payload, metadata, next, attempts, "
    "parked, CAST(cause AS BLOB)"
)
"""What is read of one: a text that is damaged is not to keep the others from their commands."""
_STANDING: Final = """
    SELECT timers.stream, timers.name, timers.position FROM json_each(?) asked
    JOIN timers ON timers.stream = asked.value->>0 AND timers.name = asked.value->>1
"""
_DELETE: Final = """
    DELETE FROM timers
    WHERE (stream, name) IN (SELECT asked.value->>0, asked.value->>1 FROM json_each(?) asked)
"""
_DONE: Final = """
    DELETE FROM timers WHERE (stream, name) IN (
        SELECT t.stream, t.name FROM json_each(?) asked
        JOIN timers t ON t.stream = asked.value->>0 AND t.name = asked.value->>1
        WHERE t.position = asked.value->>2)
"""
_KEPT: Final = """
    UPDATE timers SET next = asked.value->>3, attempts = asked.value->>4,
        parked = asked.value->>5, cause = asked.value->>6
    FROM json_each(?) asked
    WHERE stream = asked.value->>0 AND timers.name = asked.value->>1
        AND position = asked.value->>2
"""
# Behind a place, of which most have the same time or a later one.
_DUE: Final = f"""
    SELECT {_READ.format(keys="CAST(stream AS BLOB), CAST(name AS BLOB)")}
    FROM timers INDEXED BY timers_by_due
    WHERE parked = 0 AND (next, position, stream, name) > (?, ?, ?, ?) AND next <= ?
    ORDER BY next, position, stream, name LIMIT ?
"""  # noqa: S608 - names of columns alone
_ALL: Final = f"""
    SELECT {_READ.format(keys="stream, name")} FROM timers
    WHERE (stream, name) > (?, ?) ORDER BY stream, name LIMIT ?
"""  # noqa: S608 - names of columns alone
_COUNT: Final = """
    SELECT (SELECT count(*) FROM timers WHERE parked = 0),
        (SELECT count(*) FROM timers WHERE parked <> 0 AND attempts > 0),
        (SELECT count(*) FROM timers WHERE parked <> 0 AND attempts = 0)
"""
_ROWS_MAX: Final = 256
_ROWS_STEP: Final = 32
"""Rows of one INSERT: so few texts that they stay prepared, as for events."""


def read_standing(connection: Any, keys: Sequence[TimerKey]) -> Mapping[TimerKey, int]:
    """Give the positions of these timers, of those that stand."""
    if not keys:
        return NO_TIMERS
    rows = run(connection, _STANDING, (_as_json(keys),))
    return {(stream, name): position for stream, name, position in rows}


def change_timers(connection: Any, changes: Mapping[TimerKey, WaitingTimer | None]) -> int:
    """Change what a batch changes; give how many timers more there are."""
    gone, former = 0, [key for key, timer in changes.items() if may_replace(timer)]
    if former:
        run(connection, _DELETE, (_as_json(former),))
        gone = connection.changes()
    new = [timer for timer in changes.values() if timer is not None]
    add_timers(connection, new)
    return len(new) - gone


def add_timers(connection: Any, timers: Sequence[WaitingTimer]) -> None:
    """Add timers, in few statements; raise what SQLite raises where one stands already."""
    begin = 0
    while left := len(timers) - begin:
        size = left if left < _ROWS_STEP else min(left - left % _ROWS_STEP, _ROWS_MAX)
        flat: list[Any] = []
        for timer in timers[begin : begin + size]:
            flat += msgspec.structs.astuple(timer)
        run(connection, _insert(size), flat)
        check_inserted(connection, size)
        begin += size


def settle_timers(connection: Any, settled: Sequence[SettledTimer]) -> int:
    """Take timers away, or let them wait; give how many were taken away."""
    gone = 0
    done = [(s.stream, s.name, s.position) for s in settled if s.next is None]
    if done:
        run(connection, _DONE, (_as_json(done),))
        gone = connection.changes()
    kept = [msgspec.structs.astuple(s) for s in settled if s.next is not None]
    if kept:
        run(connection, _KEPT, (_as_json(kept),))
    return gone


def read_due(connection: Any, after: DuePlace, until: int, timers_max: int) -> list[WaitingTimer]:
    """Give a page of those that are due, in order; also those whose name is damaged."""
    return [_due(row) for row in run(connection, _DUE, (*after, until, timers_max))]


def read_timers(connection: Any, after: TimerKey, timers_max: int) -> list[WaitingTimer]:
    """Give a page of all timers, in order."""
    page = [_timer(*row) for row in run(connection, _ALL, (*after, timers_max))]
    check_order([timer.key for timer in page], after, "timers")
    return page


def count_timers(connection: Any) -> tuple[int, int, int]:
    """Give how many there are, how many of them have failed, and how many are cancelled."""
    waiting, failed, cancelled = run(connection, _COUNT)[0]
    return waiting + failed, failed, cancelled


def _due(row: tuple[Any, ...]) -> WaitingTimer:
    stream, name = row[0].decode(errors="replace"), row[1].decode(errors="replace")
    timer = _timer(stream, name, *row[2:])
    is_damaged = (stream.encode(), name.encode()) != row[:2]
    return msgspec.structs.replace(timer, command="") if is_damaged else timer


def _timer(*columns: Any) -> WaitingTimer:
    values = [*columns]
    values[5], values[11] = values[5].decode(errors="replace"), values[11].decode(errors="replace")
    values[10] = bool(values[10])  # SQLite has none
    return WaitingTimer(*values)


def _as_json(rows: Sequence[tuple[Any, ...]]) -> str:
    return msgspec.json.encode(rows).decode()


@cache
def _insert(rows: int) -> str:
    marks = "(" + ",".join("?" * _COLUMNS.count(",")) + ",?)"
    return "INSERT INTO timers VALUES" + ",".join([marks] * rows)
