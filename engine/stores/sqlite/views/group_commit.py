"""Writes of views that gather while one is under way, and share the next transaction.

Rules: what a part asked to write first is written first, and its writes are joined into one, whose
rows are those of the last that has them. Where a transaction of several cannot be made, each is
made by itself, so that no part pays for another's. This file runs no SQL: it says what goes
together, and remembers what became of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from ....errors import StoreFailed
from ....model.rows import Flat, Scalar
from ...contract.views import Changes, Part

__all__ = ["Gathered", "GroupCommit", "joined"]

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


class GroupCommit:
    """The writes that wait: added by the event loop, written by the thread of the views."""

    def __init__(
        self,
        write: Callable[[Sequence[Changes]], None],
        wrote: Callable[[Sequence[Changes]], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        """Take what makes a transaction, what follows it, and what tells to make none any more."""
        self._write = write
        self._wrote = wrote
        self._is_stopped = is_stopped
        self._waiting: deque[Gathered] = deque()

    def add(self, changes: Changes) -> Gathered:
        """Let a write wait for its transaction."""
        write = Gathered(changes)
        self._waiting.append(write)
        return write

    def run(self, wanted: Gathered) -> None:
        """Return when a write is done, with what waits before it and may go with it.

        Raises what prevented it.
        """
        while not wanted.is_done:
            self._write_together(self._take() or [wanted])
        if wanted.error is not None:
            raise wanted.error

    def _take(self) -> Sequence[Gathered]:
        """Give the writes of the next transaction, in their order."""
        taken: list[Gathered] = []
        rows = 0
        while self._waiting and (not taken or rows + self._waiting[0].rows <= ROWS_MAX):
            write = self._waiting.popleft()
            rows += write.rows
            taken.append(write)
        return taken

    def _write_together(self, writes: Sequence[Gathered]) -> None:
        together = joined(writes)
        error: Exception | None = None
        try:
            self._write(together)
        except Exception as why:
            if len(writes) > 1 and not self._is_stopped():
                self._write_apart(writes)
                return
            error = why
        else:
            try:
                self._wrote(together)
            except Exception as why:
                # All of it is visible, so none of it is tried again.
                error = why
        for write in writes:
            write.error, write.is_done = error, True

    def _write_apart(self, writes: Sequence[Gathered]) -> None:
        for write in writes:
            if not self._is_stopped():
                self._write_together([write])
            else:
                write.error, write.is_done = _stopped(), True


def _stopped() -> StoreFailed:
    return StoreFailed("a sync of the views' file has failed just before", written=False)


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
