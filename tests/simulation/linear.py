"""Whether what clients were told of one cell fits into one order: linearizability, by search.

Rules: it looks at calls and answers alone, never at the log, so that it judges what the rest of the
checker takes for granted. An answer must be the one that a plain cell would give at some moment
between the call's begin and its end; a call without an answer may have had its effect at any moment
after its begin, or never. The search is that of Wing and Gong (1993) with the memory of Lowe
(2017): no state is visited twice with the same calls done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from engine.errors import Rejected, WrongVersion
from engine.model.messages import Receipt

from .domain import Put, Slowly, Take
from .story import Operation, Seen, Sending, Story

__all__ = ["VISITS_MAX", "Cell", "Entry", "entries_of", "fits"]

VISITS_MAX: Final = 4_000
"""States after which a history counts as too large to be judged."""
_NEVER: Final = 1 << 60


class Cell(msgspec.Struct, frozen=True):
    """What a cell is, after some calls."""

    version: int = 0
    total: int = 0
    keys: tuple[tuple[int, int, int], ...] = ()
    """Operation, first and last version of what still counts as executed."""


class Entry(msgspec.Struct, frozen=True):
    """One call: its span, and what it asked and was told."""

    begun: int
    ended: int
    must: bool
    """Whether it certainly had its effect, or gave its answer, within its span."""
    operation: Operation | None = None
    answer: Any = None
    stranger_at: int | None = None
    """For a stranger's event: the version it was appended to."""
    shown: tuple[int, int] | None = None
    """For a read: version and total."""


def entries_of(story: Story, cell: str) -> list[Entry]:
    """Give the calls that touched one cell, by their begin."""
    entries = [
        *_sendings(story, cell),
        *_strangers(story, cell),
        *(_read(seen) for seen in story.seen if seen.cell == cell and seen.what != "view"),
    ]
    return sorted(entries, key=lambda entry: entry.begun)


def _sendings(story: Story, cell: str) -> Iterator[Entry]:
    # What writes nothing, or nothing again, is decided on the state that the engine knows. Where
    # somebody wrote into the store who is no engine, that may be an older one; engines never do so.
    alone = all(stranger.cell != cell for stranger in story.strangers)
    for operation in story.operations:
        if operation.command.cell_id != cell:
            continue
        if not isinstance(operation.command, Put | Take | Slowly):
            continue
        for sending in operation.sendings:
            answer: Any = sending.answer
            if answer is None:
                yield Entry(sending.begun, _NEVER, False, operation)
            elif isinstance(answer, Receipt | Rejected | WrongVersion):
                repeated = any(one.answer in (answer, None) for one in _before(operation, sending))
                writes = isinstance(answer, Receipt) and _effect(operation.command)[0]
                begun = sending.begun if alone or (writes and not repeated) else 0
                yield Entry(begun, sending.ended, True, operation, answer)


def _before(operation: Operation, sending: Sending) -> Iterator[Sending]:
    """Give those that may have had the effect that this one was told of."""
    for one in operation.sendings:
        if 0 < one.ended < sending.ended or (one.answer is None and one.begun < sending.begun):
            yield one


def _strangers(story: Story, cell: str) -> Iterator[Entry]:
    for stranger in story.strangers:
        if stranger.cell == cell and stranger.written is not False:
            written = stranger.written is True
            ended = stranger.ended if written else _NEVER
            yield Entry(stranger.begun, ended, written, stranger_at=stranger.expected)


def _read(seen: Seen) -> Entry:
    return Entry(seen.begun, seen.ended, True, shown=(seen.version, seen.total))


def fits(entries: Sequence[Entry], key_window: int) -> bool | None:
    """Tell whether there is an order in which all is as it was told; None where it took too long.

    `entries` are sorted by their begin.
    """
    # What has to happen is tried before what may have: a stack gives the last first.
    order = sorted(range(len(entries)), key=lambda n: entries[n].must)
    musts = sum(1 << n for n, entry in enumerate(entries) if entry.must)
    seen: set[tuple[int, Cell]] = set()
    stack = [(0, Cell())]
    while stack:
        done, cell = stack.pop()
        if done & musts == musts:
            return True
        if (done, cell) in seen:
            continue
        seen.add((done, cell))
        if len(seen) > VISITS_MAX:
            return None
        stack += _next(entries, order, done, cell, key_window)
    return False


def _next(
    entries: Sequence[Entry], order: Sequence[int], done: int, cell: Cell, key_window: int
) -> Iterator[tuple[int, Cell]]:
    """Give what may come next: any call that began before another one had to have ended."""
    open_until = min(
        entry.ended for n, entry in enumerate(entries) if entry.must and not done >> n & 1
    )
    for n in order:
        entry = entries[n]
        if done >> n & 1 or entry.begun > open_until:
            continue
        after = _after(cell, entry, key_window)
        if after is not None:
            yield done | 1 << n, after


def _after(cell: Cell, entry: Entry, key_window: int) -> Cell | None:
    """Give the cell after a call, or None where the call cannot have gone so."""
    if entry.shown is not None:
        return cell if entry.shown == (cell.version, cell.total) else None
    if entry.operation is None:
        if entry.stranger_at != cell.version:
            return None
        return Cell(cell.version + 1, cell.total + 3, cell.keys)
    return _after_command(cell, entry.operation, entry.answer, key_window)


def _after_command(cell: Cell, operation: Operation, answer: Any, key_window: int) -> Cell | None:
    if operation.key is not None:
        for number, _, last in cell.keys:
            if number == operation.number and last > cell.version - key_window:
                told = not isinstance(answer, Receipt) or answer.version == last
                return cell if told and not isinstance(answer, Rejected | WrongVersion) else None
    wrong = operation.expected is not None and operation.expected != cell.version
    if isinstance(answer, WrongVersion):
        return cell if wrong and answer.actual == cell.version else None
    if wrong:
        return None
    parts, amount = _effect(operation.command)
    if isinstance(answer, Rejected):
        told_state = (answer.details["version"], answer.details["total"])
        return cell if told_state == (cell.version, cell.total) and -amount > cell.total else None
    if cell.total + amount < 0:
        return None
    after = _recorded(cell, operation, parts, amount)
    if isinstance(answer, Receipt) and answer.version != after.version:
        return None
    return after


def _effect(command: Any) -> tuple[int, int]:
    """Give the events of a command that is run, and what they add."""
    if isinstance(command, Put):
        return command.parts, command.parts * command.amount
    if isinstance(command, Take):
        return (1 if command.amount else 0), -command.amount
    return 1, command.amount


def _recorded(cell: Cell, operation: Operation, parts: int, amount: int) -> Cell:
    keys = cell.keys
    version = cell.version + parts
    if operation.key is not None and parts:
        kept = tuple(key for key in keys if key[0] != operation.number)
        keys = (*kept, (operation.number, cell.version + 1, version))
    return Cell(version, cell.total + amount, keys)
