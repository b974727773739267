"""Compares what callers of several owners were told with the log that they have left.

Rules: a receipt is in the log where it says, once; a key is there once at most; a reactor has made
one command of each event, in the order of its stream, and each of these one by a timer; what was
said not to be run is not there; and no answer tells of a version below one that was acknowledged to
anybody before its command was sent. The log is read without an engine.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

__all__ = ["Told", "judge", "judge_numbers", "read_book"]

Row: TypeAlias = tuple[int, str, int, str | None]
_NOT_RUN = ("Closed", "Voided", "Overloaded", "DeadlinePassed", "Conflict")


class Told(msgspec.Struct, frozen=True):
    """One command of one caller."""

    name: str
    counter: str
    key: str | None
    begun: float
    ended: float | None
    what: str
    """Of its answer, "lost" where its process died."""
    version: int


def read_book(path: Path) -> list[Told]:
    """Read what one process has written down; its last line may be cut."""
    sent: dict[tuple[str, int], list[Any]] = {}
    told: list[Told] = []
    for line in path.read_text().splitlines():
        try:
            at, name, number, counter, key, what, version = json.loads(line)
        except ValueError:
            continue
        if what == "sent":
            sent[name, number] = [counter, key, at]
            continue
        counter, key, begun = sent.pop((name, number))
        told.append(Told(f"{name}-{number}", counter, key, begun, at, what, version))
    told += [
        Told(f"{name}-{number}", counter, key, begun, None, "lost", 0)
        for (name, number), (counter, key, begun) in sent.items()
    ]
    return told


def judge(told: Sequence[Told], rows: Sequence[Row]) -> list[str]:
    """Give what cannot be true of a log of position, stream, version and key."""
    clients = [row for row in rows if kind_of(row) == "client"]
    plain = [one for one in told if not one.counter.startswith("book-")]
    return [*_places(rows), *_receipts(plain, clients), *_stale(told), *_made(rows)]


def judge_numbers(told: Sequence[Told], rows: Sequence[tuple[str, int, str | None]]) -> list[str]:
    """Give what cannot be true of books and numbers, each with its key, in the order of the log."""
    problems: list[str] = []
    last: Counter[str] = Counter()
    there = {(book, number): key for book, number, key in rows}
    for book, number, _ in rows:
        if number != last[book] + 1:
            problems.append(f"{book} has {number} behind {last[book]}")
        last[book] = number
    for one in told:
        if one.counter.startswith("book-") and one.what == "done":
            found = there.get((one.counter, one.version), "nothing")
            if found != one.key:
                problems.append(f"{one} was acknowledged, and {found} is there")
    return problems


def kind_of(row: Row) -> str:
    """Give who has made an event: a client, the reactor, or a timer that it led to."""
    stream = row[1]
    if stream.startswith("till:"):
        return "till"
    if stream.startswith("bell:"):
        return "reactor"
    return "timer" if stream.startswith("counter:m-") else "client"


def _made(rows: Sequence[Row]) -> Iterator[str]:
    """Give what was not made once because of each event, or out of the order of their stream."""
    made: defaultdict[str, list[str | None]] = defaultdict(list)
    wanted: defaultdict[str, list[str | None]] = defaultdict(list)
    timed: Counter[str] = Counter()
    for row in rows:
        position, stream, _, key = row
        name = stream.partition(":")[2]
        if kind_of(row) == "client":
            wanted[name].append(f"reaction:mirror:{position}:0")
        elif kind_of(row) == "reactor":
            made[name].append(key)
        elif kind_of(row) == "timer":
            timed[name.removeprefix("m-")] += 1
    for name in [*{**made, **wanted}]:
        if made[name] != wanted[name]:
            yield f"{name} has {made[name]}, and {wanted[name]} follow from its events"
        if timed[name] != len(made[name]):
            yield f"{len(made[name])} timers of {name} led to {timed[name]} events"


def _places(rows: Sequence[Row]) -> Iterator[str]:
    versions: Counter[str] = Counter()
    for place, (position, stream, version, _) in enumerate(rows, 1):
        versions[stream] += 1
        if position != place or version != versions[stream]:
            yield f"the event in place {place} is {stream} {version} at {position}"
    keys = Counter(key for *_, key in rows if key is not None)
    yield from (f"the key {key} is there {n} times" for key, n in keys.items() if n > 1)


def _receipts(told: Sequence[Told], rows: Sequence[Row]) -> Iterator[str]:
    there = {(stream, version): key for _, stream, version, key in rows}
    keys = {key for *_, key in rows if key is not None}
    given: Counter[tuple[str, int]] = Counter()
    for one in told:
        place = f"counter:{one.counter}", one.version
        if one.what == "done":
            given[place] += 1
            if there.get(place, "nothing") != one.key:
                yield f"{one} was acknowledged, and {there.get(place, 'nothing')} is there"
        elif one.what in _NOT_RUN and one.key in keys:
            yield f"{one} was said not to be run, and is in the log"
    yield from (f"{place} was given to {n} callers" for place, n in given.items() if n > 1)
    sent = {one.key for one in told if one.key is not None}
    yield from (f"nobody has sent the key {key}" for key in keys - sent)
    # Without a key: no more events than callers who may have them.
    free = Counter(stream for _, stream, _, key in rows if key is None)
    may = Counter(
        f"counter:{one.counter}"
        for one in told
        if one.key is None and one.what in ("done", "OutcomeUnknown", "lost")
    )
    yield from (f"{s} has {n} events, sent {may[s]} times" for s, n in free.items() if n > may[s])


def _stale(told: Sequence[Told]) -> Iterator[str]:
    done: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in told:
        if one.what == "done" and one.ended is not None:
            done[one.counter].append((one.ended, one.version))
    for one in told:
        if one.what not in ("done", "seen"):
            continue
        least = max((v for ended, v in done[one.counter] if ended < one.begun), default=0)
        if one.version < least or (one.what == "done" and one.version <= least):
            yield f"{one} tells of a version below {least}, which was acknowledged before"
