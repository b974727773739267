"""Reading the log from a position on, page by page, for whoever follows it: projectors and feeds.

Rules: behind a full page the next ones are asked for while the reader is at work on it, so it holds
three pages at most. An empty page was read after it was asked for: nothing that was committed
before is missing in it. A damaged event comes as Damaged, after all that stands before it. It
remembers no position: the reader says where it stands, and may go back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from .errors import Damaged
from .limits import Limits
from .stores.contract import Store, StoredEvent

__all__ = ["LogReader"]

_AHEAD = 2
"""Pages asked for ahead. With one, a store's thread would hand its page over, let go of the
interpreter's lock, and miss it for as long as the event loop is busy with that page."""


class LogReader:
    """Pages of the log, for one reader; `close` ends what is still being read."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._events_max = limits.page_events
        self._bytes_max = limits.page_bytes
        self._ahead: deque[tuple[int, asyncio.Task[Sequence[StoredEvent]]]] = deque()
        """Where each page begins, and who reads it."""

    async def read(self, after: int) -> Sequence[StoredEvent]:
        """Give what follows a position: a page, or nothing at the end of the log.

        Raises Damaged, and what `Store.read_feed` raises.
        """
        page = await self._take_ahead(after) or await self._read(after)
        if len(page) == self._events_max:
            self._look_ahead(after + self._events_max)
        return page

    def close(self) -> None:
        """Drop what was read ahead."""
        while self._ahead:
            self._ahead.popleft()[1].cancel()

    async def _take_ahead(self, after: int) -> Sequence[StoredEvent]:
        """Give the page that was read ahead, if it is the one; nothing where it is not known."""
        if not self._ahead or self._ahead[0][0] != after:
            self.close()
            return ()
        _, page = self._ahead.popleft()
        try:
            return await page
        except BaseException:
            self.close()
            raise

    def _look_ahead(self, after: int) -> None:
        while len(self._ahead) < _AHEAD:
            begin = after + len(self._ahead) * self._events_max
            page = asyncio.ensure_future(self._read(begin))
            page.add_done_callback(_forgive)
            self._ahead.append((begin, page))

    async def _read(self, after: int) -> Sequence[StoredEvent]:
        """Read a page; where an event is damaged, what stands before it."""
        events_max = self._events_max
        while True:
            try:
                return await self._store.read_feed(
                    after, events_max=events_max, bytes_max=self._bytes_max
                )
            except Damaged as damaged:
                good = damaged.position - 1 - after
                if good < 1 or good >= events_max:
                    raise
                events_max = good


def _forgive(page: asyncio.Task[Sequence[StoredEvent]]) -> None:
    """Let nobody be told of an error that no reader came for; whoever comes is told himself."""
    if not page.cancelled():
        page.exception()
