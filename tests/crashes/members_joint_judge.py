"""Compares what several owners decided together with the log, and with what callers were told.

It knows nothing of the engine. Rules: a move is there whole or not at all; no purse has less than
nothing, and no pair; the numbers of a book have no hole and none is there twice. What was told of
two purses, or of a book, was so at one moment between the call and its answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter as Count
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from .members import Said

__all__ = ["Row", "judge_joint", "row_of"]

_NOT_RUN = ("Closed", "Overloaded", "Voided", "Conflict")


class Row(msgspec.Struct, frozen=True):
    """One event of the log."""

    position: int
    stream: str
    version: int
    what: str
    cents: int = 0
    book: str = ""
    number: int = 0


class _Payload(msgspec.Struct):
    what: str
    cents: int = 0
    book: str = ""
    number: int = 0


_payload: Final = msgspec.json.Decoder(_Payload).decode


def row_of(position: int, stream: str, version: int, payload: str | bytes) -> Row:
    """Give an event as the log has it."""
    return Row(position, stream, version, *msgspec.structs.astuple(_payload(payload)))


def judge_joint(said: Sequence[Said], log: Sequence[Row]) -> list[str]:
    """Give what is wrong, of calls about purses and books, and of their events in order."""
    return [*_of_the_log(log), *_of_the_answers(said, log), *_of_what_was_seen(said, log)]


def _of_the_log(log: Sequence[Row]) -> Iterator[str]:
    had: Count[str] = Count()
    last: Count[str] = Count()
    parts: defaultdict[str, list[Row]] = defaultdict(list)
    for row in log:
        parts[row.what].append(row)
        if row.book:
            if row.number != last[row.book] + 1:
                yield f"{row.what} is number {row.number} of {row.book} behind {last[row.book]}"
            last[row.book] = row.number
        name = row.stream.rpartition(":")[2]
        had[name[:2]] += row.cents
        if row.cents < 0 and had[name[:2]] < 0:
            yield f"{row.what} leaves {had[name[:2]]} cents in {name[:2]}"
    for what, rows in parts.items():
        is_move = len(rows) == 2 and not sum(row.cents for row in rows)
        if is_move and rows[1].position == rows[0].position + 1:
            continue
        if len(rows) > 1:
            yield f"{what} is there {len(rows)} times, at {[row.position for row in rows]}"


def _of_the_answers(said: Sequence[Said], log: Sequence[Row]) -> Iterator[str]:
    parts: defaultdict[str, list[Row]] = defaultdict(list)
    for row in log:
        parts[row.what].append(row)
    sent = {one.key: one for one in said if one.what == "sent"}
    for what, rows in parts.items():
        one = sent.get(what)
        if one is None:
            yield f"{what} is in the log, and nobody sent it"
            continue
        streams = {row.stream for row in rows}
        if one.whole and len(rows) != 2:
            yield f"{what} is there in part"
        if not streams <= {one.stream, one.other}:
            yield f"{what} was sent to {one.stream} and {one.other}, and is in {sorted(streams)}"
    for one in said:
        rows = parts[one.key]
        if one.what == "receipt" and one.writes:
            versions = {one.stream: one.version, one.other: one.of_other}
            if not rows or any(
                versions.get(row.stream) != row.version for row in rows if not row.book
            ):
                yield f"{one.key} was acknowledged at {versions}, and the log has {rows}"
            elif rows[-1].position != one.position or rows[-1].number not in (0, one.reply):
                yield f"{one.key} was told {one.position} and {one.reply}: the log has {rows[-1]}"
        elif one.what == "unknown" and one.keyed:
            yield f"{one.key} has a key, and its caller was told that nobody knows"
        elif rows and one.what in (*_NOT_RUN, "too-little"):
            yield f"{one.key} was called not run ({one.what}), and is at {rows[0].position}"
        elif one.what not in ("sent", "receipt", "unknown", "too-little", *_NOT_RUN):
            yield f"{one.key} was answered with {one.what}"


def _of_what_was_seen(said: Sequence[Said], log: Sequence[Row]) -> Iterator[str]:
    """Look at what was told of states: each was so at a moment within the call."""
    begun = {one.key: one.at for one in said if one.what == "sent"}
    ended = {one.key: one.at for one in said if one.what == "receipt" and one.writes}
    stages = _Stages(log, begun, ended)
    for one in said:
        if one.what == "too-little":
            since, until = stages.of(one.stream, one.version)
        elif one.what == "receipt" and not one.writes:
            if one.other.startswith("book:"):
                since, until = stages.of(one.other, one.reply)
            else:
                mine, others = (
                    stages.of(one.stream, one.version),
                    stages.of(one.other, one.of_other),
                )
                since, until = max(mine[0], others[0]), min(mine[1], others[1])
                both = (one.stream, one.version), (one.other, one.of_other)
                if one.reply != sum(stages.cents(*each) for each in both):
                    yield f"{one.key} was told of {one.reply} cents in {both}"
        else:
            continue
        # Positions: what was certain before the call is behind none of it, and so on.
        least, most = stages.between(begun[one.key], one.at)
        if max(since, least) > min(until, most):
            yield (
                f"{one.key} was told of {one.stream} {one.version}, {one.other} {one.of_other} "
                f"and {one.reply}, as the log was at {since} to {until}: between {least} and {most}"
            )


class _Stages:
    """Between which positions a stream, or a book, was at a version."""

    def __init__(
        self, log: Sequence[Row], begun: dict[str, float], ended: dict[str, float]
    ) -> None:
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        self._cents: defaultdict[str, list[int]] = defaultdict(lambda: [0])
        certain: list[tuple[float, int]] = []
        self._begins: list[float] = []
        self._positions = [row.position for row in log]
        for row in log:
            self._places[f"book:{row.book}" if row.book else row.stream].append(row.position)
            had = self._cents[row.stream]
            had.append(had[-1] + row.cents)
            if row.what in ended:
                certain.append((ended[row.what], row.position))
            # What stands behind another one was not there before that one was sent.
            before = self._begins[-1] if self._begins else 0.0
            self._begins.append(max(begun.get(row.what, 0.0), before))
        self._certain: list[tuple[float, int]] = []
        for at, position in sorted(certain):
            before_it = self._certain[-1][1] if self._certain else 0
            self._certain.append((at, max(position, before_it)))

    def of(self, stream: str, version: int) -> tuple[int, int]:
        """Give from where on it was so, and up to where."""
        places = self._places[stream]
        if version > len(places):
            return 1 << 60, 0
        since = places[version - 1] if version else 0
        return since, places[version] - 1 if version < len(places) else 1 << 60

    def cents(self, stream: str, version: int) -> int:
        """Give what a purse had at a version."""
        had = self._cents[stream]
        return had[version] if version < len(had) else -1

    def between(self, begin: float, end: float) -> tuple[int, int]:
        """Give up to where the log was there for certain at one time, and at most at another."""
        count = bisect_left(self._certain, (begin, 0))
        least = self._certain[count - 1][1] if count else 0
        count = bisect_right(self._begins, end)
        return least, self._positions[count] - 1 if count < len(self._positions) else 1 << 60
