"""Writes of views that gather while one is under way, and share the next transaction.

Rules: where a transaction of several cannot be made, each is made by itself, so that no part pays
for another's. This file runs no SQL: it remembers what became of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ....errors import StoreFailed
from ...contract.gathering import Gathered, joined, taken
from ...contract.views import Changes

__all__ = ["GroupCommit"]


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
        self.waiting: deque[Gathered] = deque()

    def add(self, changes: Changes) -> Gathered:
        """Let a write wait for its transaction."""
        write = Gathered(changes)
        self.waiting.append(write)
        return write

    def run(self, wanted: Gathered) -> None:
        """Return when a write is done, with what waits before it and may go with it.

        Raises what prevented it.
        """
        while not wanted.is_done:
            self._write_together(taken(self.waiting) or [wanted])
        if wanted.error is not None:
            raise wanted.error

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
