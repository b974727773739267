"""Judges a story: whether what everybody was told and shown can be true together.

Rules: it looks only at what clients, followers and queries were told, and at the log in the end;
never into the engine. Each finding names the promise of docs/reference/promises.md that it breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

from engine.errors import Rejected

from .domain import OPERATION, POISON, Put, Slowly, Take, Was
from .linear import entries_of, fits
from .story import Operation, Seen, Story
from .tallied import tallied

__all__ = ["judge", "judge_log", "runs_of"]

Runs: TypeAlias = dict[int, list[list[Any]]]
"""By operation: the logged events of each time that it was run."""


def judge(story: Story) -> list[str]:
    """Give what cannot be true; nothing for a story that holds together."""
    if story.problems:
        return list(story.problems)
    if story.swarm.flipped:
        return []  # nobody was shown anything else than before, and more is not promised
    runs = runs_of(story)
    problems = [*_places(story), *_strangers(story)]
    for operation in story.operations:
        problems += _operation(operation, runs[operation.number], story)
    problems += _order(story, runs)
    problems += _seen(story)
    problems += _views(story)
    problems += _brittle(story)
    problems += tallied(story)
    # The search can only be told wrong by what the rest has found, so it comes last.
    return problems or list(_linear(story))


def judge_log(story: Story) -> list[str]:
    """Give what cannot be true of a story without views and without damage."""
    runs = runs_of(story)
    problems = list(_places(story))
    for operation in story.operations:
        problems += _operation(operation, runs[operation.number], story)
    problems += _order(story, runs)
    problems += _seen(story)
    return problems or list(_linear(story))


def runs_of(story: Story) -> Runs:
    """Cut the events of each operation into the runs that they come from."""
    runs: Runs = defaultdict(list)
    for logged in story.log:
        number = logged.event.operation
        begins = not isinstance(logged.event, Was) or logged.event.part == 0
        if begins or not runs[number]:
            runs[number].append([])
        runs[number][-1].append(logged)
    return runs


def _places(story: Story) -> Iterator[str]:
    versions: Counter[str] = Counter()
    recorded = 0
    for number, logged in enumerate(story.log, 1):
        meta = logged.meta
        versions[meta.stream] += 1
        if meta.position != number:
            yield f"P4: position {meta.position} in place {number}"
        if meta.headers and meta.headers[OPERATION] != str(logged.event.operation):
            yield f"P5: {logged.event} has the headers of operation {meta.headers[OPERATION]}"
        if meta.version != versions[meta.stream]:
            yield f"P3: {meta.stream} has version {meta.version} in its place"
        if meta.recorded < recorded:
            yield f"P14: recorded goes back at {number}"
        recorded = meta.recorded
    for position, shown in story.shown.items():
        if position > len(story.log):
            yield f"P1: a follower was shown {shown} at {position}, which is not there"


def _strangers(story: Story) -> Iterator[str]:
    found = Counter(logged.event.operation for logged in story.log)
    for stranger in story.strangers:
        count = found[stranger.number]
        if count > 1 or (stranger.written is not None and count != stranger.written):
            yield f"P3: {stranger} is {count} times in the log"


# -- commands -----------------------------------------------------------------------------------


def _operation(operation: Operation, runs: list[list[Any]], story: Story) -> Iterator[str]:
    what = f"operation {operation.number} ({type(operation.command).__name__}, key {operation.key})"
    command = operation.command
    parts = command.parts if isinstance(command, Put) else 1
    writes = isinstance(command, Put | Slowly) or (isinstance(command, Take) and command.amount)
    for run in runs:
        positions = [logged.meta.position for logged in run]
        if len(run) != parts or positions[-1] - positions[0] != parts - 1:
            yield f"P2: of {what} there are {len(run)} of {parts} events, at {positions}"
    if operation.receipts and writes:
        if not runs:
            yield f"P1: {what} was acknowledged and is not in the log"
        ends = [(run[-1].meta.version, run[-1].meta.position) for run in runs]
        for receipt in operation.receipts:
            if runs and (receipt.version, receipt.position) not in ends:
                yield f"P8: {what} has {receipt}, and its last events are at {ends}"
    if runs and not operation.in_doubt and not operation.receipts:
        yield f"P6: {what} was called not run or rejected, and is in the log"
    yield from _run_again(operation, runs, story.swarm.key_window, what)
    yield from _decided(operation, story.decided.get(operation.number, []), what)
    yield from _justified(operation, story, what)


def _run_again(
    operation: Operation, runs: list[list[Any]], key_window: int, what: str
) -> Iterator[str]:
    """A command is run once; with a key that has left the window, it may be run again."""
    for before, after in pairwise(runs):
        gone = before[-1].meta.version <= after[0].meta.version - 1 - key_window
        if operation.key is None or not gone:
            places = [run[0].meta.version for run in runs]
            yield f"P8: {what} was run {len(runs)} times, at versions {places}"
            return


def _decided(operation: Operation, moments: list[int], what: str) -> Iterator[str]:
    """A handler is run once for each sending, and not for one whose caller had left by then.

    The task of an async handler may have been made before, and not have had its first step.
    """
    if len(moments) > len(operation.sendings):
        yield f"P5: {what} was sent {len(operation.sendings)} times and decided {len(moments)}"
    last = operation.sendings[-1] if operation.sendings else None
    at_once = not isinstance(operation.command, Slowly)
    if at_once and last is not None and last.left and any(moment > last.left for moment in moments):
        yield f"P13: {what} was run after its caller had been cancelled"


def _justified(operation: Operation, story: Story, what: str) -> Iterator[str]:
    for sending in operation.sendings:
        rejected = sending.answer
        if not isinstance(rejected, Rejected):
            continue
        total, version = rejected.details["total"], rejected.details["version"]
        found = _fold(story, f"cell:{operation.command.cell_id}", version)
        if found != (version, total):
            yield (
                f"P7: {what} was rejected on total {total} at version {version}: the log has "
                f"{found[1]} after {found[0]} events"
            )


def _fold(story: Story, stream: str, version: int) -> tuple[int, int]:
    """Give the version and the total of a stream after so many events, or all that it has."""
    amounts = [
        _amount(logged.event)
        for logged in story.log
        if logged.meta.stream == stream and logged.meta.version <= version
    ]
    return len(amounts), sum(amounts)


def _amount(event: Any) -> int:
    amount: int = event.amount
    return amount if isinstance(event, Was) else -amount


# -- order --------------------------------------------------------------------------------------


def _order(story: Story, runs: Runs) -> Iterator[str]:
    """Per cell, what was acknowledged stands before what was sent later, and turns are kept."""
    by_stream: dict[str, list[tuple[Operation, int]]] = defaultdict(list)
    for operation in story.operations:
        found = runs[operation.number]
        if len(found) == 1:
            meta = found[0][0].meta
            by_stream[meta.stream].append((operation, meta.position))
    for stream, placed in by_stream.items():
        for one, place in placed:
            for other, later in placed:
                if later > place and _comes_before(other, one, in_line=story.in_line):
                    yield (
                        f"P5: {stream}: operation {other.number} came before {one.number}, and "
                        f"stands behind it"
                    )


def _comes_before(one: Operation, other: Operation, *, in_line: bool) -> bool:
    """Tell whether `one` must stand before `other` in the log, if both are there."""
    first, second = one.sendings, other.sendings
    told = [sending.ended for sending in first if sending.ended and one.receipts]
    if in_line and len(first) == len(second) == 1 and first[0].life == second[0].life:
        # A mailbox takes commands in the order in which they were sent.
        return first[0].begun < second[0].begun
    receipts = [s.ended for s in first if s.answer in one.receipts]
    return bool(told and receipts) and min(receipts) < second[0].begun


def _linear(story: Story) -> Iterator[str]:
    for cell in sorted({operation.command.cell_id for operation in story.operations}):
        entries = entries_of(story, cell)
        fit = fits(entries, story.swarm.key_window)
        story.answers["histories" if fit is not None else "histories too large"] += 1
        if fit is False:
            yield f"P5: what was told of {cell} fits no order of its {len(entries)} calls"


# -- readers ------------------------------------------------------------------------------------


def _seen(story: Story) -> Iterator[str]:
    for seen in story.seen:
        found = _fold(story, f"cell:{seen.cell}", seen.version)
        if found != (seen.version, seen.total):
            yield f"P5: {seen}, where the log has {found[1]} after {found[0]} events"
        if seen.position is not None and not _is_at(story, seen):
            yield f"P9: {seen} is not what the log has up to that position"


def _is_at(story: Story, seen: Seen) -> bool:
    if seen.position is None or not 0 < seen.position <= len(story.log):
        return False
    meta = story.log[seen.position - 1].meta
    return (meta.stream, meta.version) == (f"cell:{seen.cell}", seen.version)


def _views(story: Story) -> Iterator[str]:
    counts: Counter[str] = Counter()
    journeys: Counter[int] = Counter()
    for logged in story.log:
        counts[logged.meta.id] += 1
        journeys[logged.event.operation] += isinstance(logged.event, Was)
    for cell, count in counts.items():
        row = story.cells.get(cell)
        found = None if row is None else (row.events, row.total)
        if found != _fold(story, f"cell:{cell}", count):
            yield f"P9: the view of {cell} is {row}, of {count} events"
        states = [s for s in story.seen if s.what == "actor" and s.cell == cell]
        if not states or (states[-1].version, states[-1].total) != found:
            yield f"P5: {cell} decides on {states[-1:]}: its events give {found}"
    for words, found_by in story.found.items():
        with_them = sorted(c for c, row in story.cells.items() if row and row.words == words)
        if sorted(found_by) != with_them:
            yield f"P9: a search for {words!r} finds {found_by}, and {with_them} have these words"
    journeys[0] = sum(journeys.values())
    for number, row in story.journeys.items():
        if (0 if row is None else row.events) != journeys[number]:
            yield f"P9: operation {number} has {row}, of {journeys[number]} events"


def _brittle(story: Story) -> Iterator[str]:
    """The projection that breaks has all before the event that breaks it, and nothing after."""
    poison: int | None = None
    counts: Counter[str] = Counter()
    for logged in story.log:
        if not isinstance(logged.event, Was):
            continue
        if logged.event.amount == POISON and not story.swarm.mended:
            poison = logged.meta.position
            break
        counts[logged.meta.id] += 1
    if story.brittle_stopped_at != poison:
        yield f"P12: a projection stopped at {story.brittle_stopped_at}, the poison is at {poison}"
    for cell, row in story.counts.items():
        if (0 if row is None else row.events) != counts[cell]:
            yield f"P12: the brittle view of {cell} is {row}, of {counts[cell]} events"
