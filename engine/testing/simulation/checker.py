"""Judges a story: whether what everybody was told and shown can be true together.

Rules: it looks only at what clients, followers and queries were told, and at the log in the end;
never into the engine. Each finding names the promise that it breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from .domain import Put, Slowly, Take, Taken, Was
from .world import Operation, Story

__all__ = ["judge"]


def judge(story: Story) -> list[str]:
    """Give what cannot be true; nothing for a story that holds together."""
    if story.problems:
        return list(story.problems)
    problems: list[str] = []
    events: dict[int, list[Any]] = defaultdict(list)
    for logged in story.log:
        events[logged.event.operation].append(logged)
    problems += _places(story)
    for operation in story.operations:
        problems += _operation(operation, events[operation.number], story)
    problems += _order(story, events)
    problems += _views(story)
    return problems


def _places(story: Story) -> list[str]:
    problems: list[str] = []
    versions: Counter[str] = Counter()
    recorded = 0
    for number, logged in enumerate(story.log, 1):
        meta = logged.meta
        versions[meta.stream] += 1
        if meta.position != number:
            problems.append(f"P4: position {meta.position} in place {number}")
        if meta.version != versions[meta.stream]:
            problems.append(f"P3: {meta.stream} has version {meta.version} in its place")
        if meta.recorded < recorded:
            problems.append(f"P14: recorded goes back at {number}")
        recorded = meta.recorded
    last = len(story.log)
    for position, shown in story.seen.items():
        if position > last:
            problems.append(f"P1: a follower was shown {shown} at {position}, which is not there")
    return problems


def _operation(operation: Operation, events: list[Any], story: Story) -> list[str]:
    problems: list[str] = []
    what = f"operation {operation.number} ({type(operation.command).__name__}, key {operation.key})"
    command = operation.command
    parts = command.parts if isinstance(command, Put) else 1
    writes = isinstance(command, Put | Slowly | Take)
    runs = len(events) / parts
    positions = [logged.meta.position for logged in events]
    if 0 < runs <= 1 and positions[-1] - positions[0] != len(positions) - 1:
        problems.append(f"P2: the events of {what} do not stand together: {positions}")
    if runs != int(runs):
        problems.append(f"P2: {what} is there by halves: {len(events)} of {parts} events")
    if runs > 1:
        problems.append(f"P8: {what} was run {runs:g} times")
    nothing = isinstance(command, Take) and command.amount == 0
    if operation.receipts and writes and not nothing:
        if not events:
            problems.append(f"P1: {what} was acknowledged and is not in the log")
        else:
            last = events[-1].meta
            problems += [
                f"P8: {what} has {receipt}, and its last event is at {last}"
                for receipt in operation.receipts
                if (receipt.version, receipt.position) != (last.version, last.position)
            ]
    certain = not operation.doubt and not operation.receipts
    if certain and events:
        problems.append(f"P6: {what} was called not run or rejected, and is in the log")
    problems += _justified(operation, story, what)
    return problems


def _justified(operation: Operation, story: Story, what: str) -> list[str]:
    problems: list[str] = []
    for rejected in operation.rejections:
        total, version = rejected.details["total"], rejected.details["version"]
        stream = f"cell:{operation.command.cell_id}"
        found = 0
        count = 0
        for logged in story.log:
            if logged.meta.stream == stream and logged.meta.version <= version:
                found += _amount(logged.event)
                count += 1
        if (found, count) != (total, version):
            problems.append(
                f"P7: {what} was rejected on total {total} at version {version}, which was {found} "
                f"after {count} events"
            )
    return problems


def _amount(event: Any) -> int:
    return event.amount if isinstance(event, Was) else -event.amount


def _order(story: Story, events: dict[int, list[Any]]) -> list[str]:
    """An operation that was begun after another one's receipt came stands behind it, per cell."""
    problems: list[str] = []
    by_stream: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
    for operation in story.operations:
        found = events[operation.number]
        if found:
            place = found[0].meta.position
            by_stream[found[0].meta.stream].append(
                (operation.begun, operation.ended, place, operation.number)
            )
    for stream, placed in by_stream.items():
        for begun, _, place, number in placed:
            for _, ended, other, earlier in placed:
                if ended and ended < begun and other > place:
                    problems.append(
                        f"P5: {stream}: operation {earlier} was acknowledged before {number} was "
                        f"sent, and stands behind it"
                    )
    return problems


def _views(story: Story) -> list[str]:
    problems: list[str] = []
    totals: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for logged in story.log:
        assert isinstance(logged.event, Was | Taken)
        totals[logged.meta.id] += _amount(logged.event)
        counts[logged.meta.id] += 1
    for cell, count in counts.items():
        row = story.rows.get(cell)
        if row is None or (row.total, row.events) != (totals[cell], count):
            problems.append(f"P9: the view of {cell} is {row}: {totals[cell]} of {count} events")
        state = story.states.get(cell)
        if state is None or (state["total"], state["version"]) != (totals[cell], count):
            problems.append(f"P5: {cell} decides on {state}: {totals[cell]} of {count} events")
    return problems
