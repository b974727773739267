"""Reading the log from a position on, page by page, for whoever follows it: projectors and feeds.

Rules: behind a full page the next ones are read while the reader is at work on it, so it holds
three pages at most. An empty page was read after it was asked for: nothing that was committed
before is missing in it. A damaged event comes as Damaged, after all that stands before it. It
remembers no position: the reader says where it stands, and may go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import Damaged
from ..limits import Limits
from ..model.stored import StoredEvent
from .read_ahead import AHEAD, ReadAhead

__all__ = ["FeedSource", "LogReader"]


class FeedSource(Protocol):
    """The part of a store that gives its log in order."""

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """See `Store.read_feed`."""
        ...


class LogReader:
    """Pages of the log, for one reader; `close` ends what is still being read."""

    def __init__(self, store: FeedSource, limits: Limits) -> None:
        self._store = store
        self._events_max = limits.page_events
        self._bytes_max = limits.page_bytes
        self._ahead: ReadAhead[int, Sequence[StoredEvent]] = ReadAhead(self._read)

    async def read(self, after: int) -> Sequence[StoredEvent]:
        """Give what follows a position: a page, or nothing at the end of the log.

        Raises Damaged, and what `Store.read_feed` raises.
        """
        page = await self._ahead.take(after) or await self._read(after)
        size = len(page)
        if size == self._events_max:
            self._ahead.look(after + size * n for n in range(1, AHEAD + 1))
        return page

    def close(self) -> None:
        """Drop what was read ahead."""
        self._ahead.close()

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
