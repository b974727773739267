"""Compares a log with what each caller was told of it, and when.

It knows nothing of the engine: it reads rows of the log, and what processes said. What was
acknowledged is there, once and at its place; nothing is there that nobody sent; what was called not
run is not there; each call has one answer. In each stream no event stands before another that was
acknowledged before it was sent. A count that was told lies between what was acknowledged before it
was asked for, and what was sent before it was told. A timer has rung once at most, directly behind
its reminder; where nothing else came behind that, it has rung or waits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Container, Iterator, Sequence

import msgspec

from .members import Said
from .members_joint_judge import Row, judge_joint
from .members_notebooks import REMINDER, RUNG, TAKEN

__all__ = ["History", "Row", "judge"]

NOT_RUN = ("Closed", "Overloaded", "Voided", TAKEN)
_OF_PROCESSES = ("ready", "owner", "member", "waiting", "stops")


class History(msgspec.Struct):
    """What was said in one trial, and who was killed."""

    said: list[Said] = []
    killed: set[str] = set()
    """Names of processes whose last calls have no answer."""


def judge(history: History, log: Sequence[Row], waiting: Container[str] | None = None) -> list[str]:
    """Give what is wrong, of notebooks and of what is decided together.

    `waiting` has the streams that have a timer at the end, where that was read.
    """
    told = [one for one in history.said if ":" not in one.key]
    notes = [one for one in told if not one.other and not _is_of_a_purse(one.stream)]
    together = [one for one in told if one.other or _is_of_a_purse(one.stream)]
    rows = [row for row in log if row.stream.startswith("notebook:")]
    others = [row for row in log if not row.stream.startswith("notebook:")]
    return [
        *_of_the_log(log, rows),
        *_of_the_calls(told, history.killed),
        *_of_the_timers(rows, waiting),
        *_of_the_answers(notes, [*map(_as_sent, rows)]),
        *judge_joint(together, others),
    ]


def _is_of_a_purse(stream: str) -> bool:
    return stream.startswith("purse:")


def _of_the_log(log: Sequence[Row], notes: Sequence[Row]) -> Iterator[str]:
    versions: Count[str] = Count()
    for place, row in enumerate(log, 1):
        versions[row.stream] += 1
        if row.position != place:
            yield f"position {row.position} stands in place {place}"
            return
        if row.version != versions[row.stream]:
            yield f"{row.stream} has version {row.version} in place {versions[row.stream]}"
            return
    for what, count in Count(row.what for row in notes).items():
        if count > 1:
            yield f"{what} is in the log {count} times"


def _of_the_timers(notes: Sequence[Row], waiting: Container[str] | None) -> Iterator[str]:
    last: dict[str, Row] = {}
    for row in notes:
        before = last.get(row.stream)
        if row.what.endswith(RUNG) and (before is None or before.what + RUNG != row.what):
            yield f"{row.what} was rung behind {before}"
        last[row.stream] = row
    for stream, row in last.items():
        if row.what.endswith(REMINDER) and waiting is not None and stream not in waiting:
            yield f"{row.what} is the last note of {stream}, and its timer neither rang nor waits"


def _as_sent(row: Row) -> Row:
    return msgspec.structs.replace(row, what=row.what.removesuffix(REMINDER))


def _of_the_calls(said: Sequence[Said], killed: Container[str]) -> Iterator[str]:
    open_calls: set[str] = set()
    for one in said:
        if one.what == "sent":
            open_calls.add(one.key)
        elif one.what == "failed":
            yield f"the engine of {one.key} has failed"
        elif one.what not in _OF_PROCESSES:
            if one.key not in open_calls:
                yield f"{one.key} was answered, and had no call, or an answer"
            open_calls.discard(one.key)
    for key in sorted(open_calls):
        if key.partition("-")[0] not in killed:
            yield f"{key} was never answered"


def _of_the_answers(said: Sequence[Said], log: Sequence[Row]) -> Iterator[str]:
    places = {row.what: row for row in log}
    sent = {one.key: one for one in said if one.what == "sent"}
    for key in places.keys() - sent.keys():
        if not key.endswith(RUNG):
            yield f"{key} is in the log, and nobody sent it"
    for one in said:
        found = places.get(one.key)
        if one.what == "receipt":
            told = one.stream, one.version, one.position
            if found is None or told != (found.stream, found.version, found.position):
                yield f"{one.key} was acknowledged at {told}, and the log has {found}"
        elif one.what == "unknown":
            if one.keyed:
                yield f"{one.key} has a key, and its caller was told that nobody knows"
        elif one.what in NOT_RUN:
            if found is not None:
                yield f"{one.key} was called not run ({one.what}), and is at {found.position}"
        elif one.what not in ("sent", "counted", "failed", *_OF_PROCESSES):
            yield f"{one.key} was answered with {one.what}"
    streams: dict[str, list[Row]] = {}
    for row in log:
        streams.setdefault(row.stream, []).append(row)
    acknowledged = {one.key: one.at for one in said if one.what == "receipt"}
    begun = {key: one.at for key, one in sent.items()}
    asked: dict[str, list[Said]] = {}
    for one in said:
        if one.what == "counted":
            asked.setdefault(one.stream, []).append(one)
    for rows in streams.values():
        yield from _of_the_order(rows, begun, acknowledged)
    for stream, counts in asked.items():
        yield from _of_the_counts(counts, streams.get(stream, []), begun, acknowledged)


def _of_the_order(
    rows: list[Row], begun: dict[str, float], acknowledged: dict[str, float]
) -> Iterator[str]:
    latest = 0.0
    for row in rows:
        at = begun.get(row.what, 0.0)
        ended = acknowledged.get(row.what)
        if ended is not None and ended < latest:
            yield f"{row.what} was acknowledged before one in front of it was sent"
        latest = max(latest, at)


def _of_the_counts(
    asked: list[Said], rows: list[Row], begun: dict[str, float], acknowledged: dict[str, float]
) -> Iterator[str]:
    """Look at each count that was told of one stream."""
    # The newest event that was certain at a time, and the oldest that could not be there yet.
    ends = sorted((acknowledged[row.what], row.version) for row in rows if row.what in acknowledged)
    certain: list[int] = []
    for _, version in ends:
        certain.append(max(version, certain[-1] if certain else 0))
    begins: list[float] = []
    for row in rows:
        begins.append(max(begun.get(row.what, 0.0), begins[-1] if begins else 0.0))
    for one in asked:
        since = begun.get(one.key, 0.0)
        before = bisect_left(ends, (since, 0))
        least = certain[before - 1] if before else 0
        if one.version < least:
            yield f"{one.key} was told {one.version} notes, when {least} were acknowledged"
        elif one.version > len(rows):
            yield f"{one.key} was told {one.version} notes, and the log has {len(rows)}"
        elif one.version and begins[one.version - 1] > one.at:
            yield f"{one.key} was told {one.version} notes, before that many were sent"
