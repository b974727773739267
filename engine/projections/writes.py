"""The batches of one projector that are on their way to the views, in their order.

Rules: a batch is noted behind the one before it, whichever is written first. Whoever settles hears
of the first that failed; all that follow it are given up, and folded again. A write whose rows the
database refuses is told with what it was to write, so that the event can be found. This file folds
nothing and writes nothing itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ..errors import RowRefused
from ..runtime.futures import retrieve
from ..stores.contract.views import Changes

__all__ = ["NotTaken", "Writes"]


class NotTaken(Exception):
    """The database has refused the rows of a batch, whose RowRefused is in `__cause__`."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.first = changes.before.position + 1
        self.last = changes.after.position


class Writes:
    """What waits to be written, and what becomes of it."""

    def __init__(self, failed: Callable[[], None]) -> None:
        """Take what is told, at once, where a batch could not be written."""
        self._failed = failed
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.transactions = 0
        """Those that were made."""

    def __len__(self) -> int:
        """Give how many batches are on their way."""
        return len(self._waiting)

    def add(
        self,
        changes: Changes,
        write: Awaitable[bool],
        note: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Take a write that was asked for; call `note` when it is written, and `fail` if not."""
        writing = asyncio.ensure_future(write)
        writing.add_done_callback(retrieve)
        before = self._waiting[-1] if self._waiting else None
        follow = asyncio.ensure_future(self._follow(changes, writing, before, note, fail))
        follow.add_done_callback(self._ended)
        self._waiting.append(follow)

    async def _follow(
        self,
        changes: Changes,
        writing: Awaitable[bool],
        before: asyncio.Future[None] | None,
        note: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Wait for a batch to be written, and note it behind the one before."""
        try:
            try:
                first = await writing
                self.transactions += first
            finally:
                # Also where it failed: whoever waits is woken when all before it have ended.
                if before is not None:
                    await asyncio.wait([before])
        except BaseException as error:
            fail(error)
            if isinstance(error, RowRefused):
                raise NotTaken(changes) from error
            raise
        note()

    def _ended(self, follow: asyncio.Future[None]) -> None:
        """Let the projector hear of a batch that could not be written, where it waits for more."""
        if follow.cancelled() or follow.exception() is not None:
            self._failed()

    @property
    def first_is_done(self) -> bool:
        """Whether the first one has an end, good or bad."""
        return bool(self._waiting) and self._waiting[0].done()

    async def settle(self, left: int = 0) -> None:
        """Return when all but so many batches are written; raise what prevented it."""
        waiting = self._waiting
        while len(waiting) > left:
            write = waiting[0]
            try:
                await write
            finally:
                if write.done():
                    waiting.popleft()

    async def give_up(self) -> None:
        """Wait for all, whatever becomes of them: something has failed."""
        if self._waiting:
            await asyncio.wait(self._waiting)
            self._waiting.clear()

    def cancel(self) -> None:
        """Wait for none any more."""
        for write in self._waiting:
            write.cancel()
