"""The timers of a log as its events say them, and whether the table of timers agrees.

Rules: the metadata of events names each timer that was set, cancelled, and fired by a command with
events. One whose command wrote nothing is taken away without an event: it is in no table any more,
and the log says that it waits. So what the table lacks is a fault only if it is not due yet. What
stands in the table must be what the log says. Calls block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from ..errors import StoreFailed
from ..model.codec import decode_metadata
from ..model.stored import StoredEvent
from ..model.timers import is_at_once
from ..stores.contract.outside import LogReader
from ..stores.contract.timers import TimerKey, WaitingTimer
from ..write.replying import carried_by
from .marked import marked

__all__ = [
    "TIMER_MARKS",
    "ComparedTimers",
    "as_they_stand",
    "compare_timers",
    "fold_timers",
    "table_of",
    "timer_differences",
]

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_PAGE_TIMERS: Final = 1_000
_ATTEMPTS: Final = 10
TIMER_MARKS: Final = (b'"timers"', b'"cancels"', b'"fired"')
"""One of which stands in the metadata of each event that says something of timers."""


class ComparedTimers(msgspec.Struct, frozen=True):
    """What the log says, beside what its table says."""

    position: int
    """Up to which both were read."""
    timers: int
    """That stand in the table."""
    differences: tuple[tuple[TimerKey, WaitingTimer | None, WaitingTimer | None], ...]
    """Each with what the log says, and what the table says."""


def fold_timers(timers: dict[TimerKey, WaitingTimer], events: Sequence[StoredEvent]) -> None:
    """Bring timers from before some events to behind them; raise Damaged for odd metadata."""
    for stored in marked(events, TIMER_MARKS):
        metadata = decode_metadata(stored)
        if metadata.fired is not None:
            stream, name, position = metadata.fired
            there = timers.get((stream, name))
            if there is not None and there.position == position:
                del timers[stream, name]
        for name in metadata.cancels:
            timers.pop((stored.stream, name), None)
        if not metadata.timers:
            continue
        later, at_once = (carried_by(metadata, depth) for depth in (0, metadata.depth + 1))
        for name, due, command, payload in metadata.timers:
            timers[stored.stream, name] = WaitingTimer(
                stored.stream,
                name,
                due,
                stored.position,
                stored.version,
                command,
                bytes(payload),
                at_once if is_at_once(name) else later,
                due,
            )


def compare_timers(log: LogReader, now: int) -> ComparedTimers:
    """Compare the table of timers with the log, also while an engine writes.

    `now` is the time in µs. Raises Damaged for an event that cannot be used, and StoreFailed where
    the log grows too fast.
    """
    folded: dict[TimerKey, WaitingTimer] = {}
    position = 0
    for _ in range(_ATTEMPTS):
        while page := log.read_feed(position, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
            fold_timers(folded, page)
            position = page[-1].position
        table = table_of(log)
        if log.head().position == position:
            found = tuple(timer_differences(folded, table, now))
            return ComparedTimers(position, len(table), found)
    raise StoreFailed(
        f"{log.name} grows faster than its timers are read: compare those of a copy", written=False
    )


def timer_differences(
    folded: Mapping[TimerKey, WaitingTimer], table: Mapping[TimerKey, WaitingTimer], now: int
) -> Iterator[tuple[TimerKey, WaitingTimer | None, WaitingTimer | None]]:
    """Give those timers of which log and table do not say the same, in order."""
    for key in sorted(folded.keys() | table.keys()):
        said, there = folded.get(key), table.get(key)
        if there is None:
            if said is not None and said.due > now:
                yield key, said, None
        elif said is None or said != _untried(there):
            yield key, said, there


def as_they_stand(
    folded: Mapping[TimerKey, WaitingTimer], table: Mapping[TimerKey, WaitingTimer], now: int
) -> dict[TimerKey, WaitingTimer]:
    """Give the timers that a log says, each as its table has it.

    One that was due and is not in the table was fired without an event. Where both say otherwise,
    the log is believed.
    """
    found: dict[TimerKey, WaitingTimer] = {}
    for key, said in folded.items():
        there = table.get(key)
        if there is not None:
            found[key] = there if _untried(there) == said else said
        elif said.due > now:
            found[key] = said
    return found


def _untried(timer: WaitingTimer) -> WaitingTimer:
    """Give a timer as it was set: how often it was tried stands in the table alone."""
    return msgspec.structs.replace(timer, next=timer.due, attempts=0, parked=False, cause="")


def table_of(log: LogReader) -> Mapping[TimerKey, WaitingTimer]:
    """Give the timers of a log's table."""
    found: dict[TimerKey, WaitingTimer] = {}
    after = "", ""
    while page := log.read_timers(after, timers_max=_PAGE_TIMERS):
        found |= {timer.key: timer for timer in page}
        after = page[-1].key
    return found
