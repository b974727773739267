"""Writes of views that wait for the same transaction, and what it writes for all of them.

Rules: what a part asked to write first is written first, and its writes are joined into one, whose
rows are those of the last that has them. A write that could not even be tried waits no more: who
asked for it was told so, and begins anew where the views stand. This file runs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from ...model.rows import Flat, Scalar
from .views import Changes, Part

__all__ = ["Gathered", "joined", "taken", "tried"]

ROWS_MAX: Final = 20_000
"""Rows after which a transaction takes no more writes, so that others need not wait for it."""


class Gathered(msgspec.Struct, eq=False):
    """One write, and what became of it."""

    changes: Changes
    is_done: bool = False
    """Whether it has been tried."""
    error: Exception | None = None
    """Why it is not written, if it is not."""
    first: bool = False
    """Whether it was the first of its part in its transaction."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(map(len, self.changes.rows.values()))


def taken(waiting: deque[Gathered]) -> Sequence[Gathered]:
    """Take the writes of the next transaction out of those that wait, in their order."""
    found: list[Gathered] = []
    rows = 0
    while waiting and (not found or rows + waiting[0].rows <= ROWS_MAX):
        write = waiting.popleft()
        rows += write.rows
        found.append(write)
    return found


async def tried(waiting: deque[Gathered], write: Gathered, run: Awaitable[None]) -> None:
    """Run what writes; let a write wait no more that could not even be tried."""
    try:
        await run
    except Exception:
        # Its part begins anew where the views stand, and writes another in its place.
        if write in waiting:
            waiting.remove(write)
        raise


def joined(writes: Sequence[Gathered]) -> Sequence[Changes]:
    """Give what one transaction writes: one for each part, in the order of their first writes."""
    by_part: dict[tuple[str, int, int], list[Gathered]] = {}
    for write in writes:
        by_part.setdefault(_identity(write.changes.part), []).append(write)
    for each in by_part.values():
        each[0].first = True
    return [_join([write.changes for write in each]) for each in by_part.values()]


def _identity(part: Part) -> tuple[str, int, int]:
    return part.definition.name, part.build, part.slice


def _join(changes: Sequence[Changes]) -> Changes:
    """Give one write for several of a part, each of which begins where the one before ends."""
    first, last = changes[0], changes[-1]
    if first is last:
        return first
    assert all(a.after == b.before for a, b in pairwise(changes)), "a part's writes have no gaps"
    rows: dict[str, dict[Scalar, Flat | None]] = {}
    for each in changes:
        for attribute, changed in each.rows.items():
            rows.setdefault(attribute, {}).update(changed)
    return Changes(
        first.part,
        first.before,
        last.after,
        rows,
        tuple(parked for each in changes for parked in each.parked),
        tuple(position for each in changes for position in each.released),
        any(each.everything for each in changes),
    )
