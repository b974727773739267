"""Pages of the log that several projectors need at about the same time, read once for all of them.

Rules: only full pages are shared: what they hold never changes, while an end of the log that
somebody read may be no end any more. It keeps few pages, and those last that were asked for last;
whoever comes later reads the log. It decides nothing about what is read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias

from ..model.stored import StoredEvent
from .reader import FeedSource

__all__ = ["SharedPages"]

PAGES: Final = 8
"""Pages that are kept: those that each reader looks ahead, and as many for those that lag."""

Page: TypeAlias = Sequence[StoredEvent]
_Key: TypeAlias = tuple[int, int, int]


class SharedPages:
    """A log's feed, for several readers of one engine."""

    def __init__(self, store: FeedSource) -> None:
        self._store = store
        self._pages: OrderedDict[_Key, Page] = OrderedDict()
        self._reading: dict[_Key, asyncio.Future[Page | None]] = {}
        self.shared = 0
        """Pages that were given without reading them."""

    async def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Page:
        """Give what `Store.read_feed` gives."""
        key = (after, events_max, bytes_max)
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
        elif (reading := self._reading.get(key)) is not None:
            page = await asyncio.shield(reading)
        if page is not None:
            self.shared += 1
            return page
        return await self._read(key)

    async def _read(self, key: _Key) -> Page:
        after, events_max, bytes_max = key
        mine = key not in self._reading
        full: Page | None = None
        if mine:
            self._reading[key] = asyncio.get_running_loop().create_future()
        try:
            page = await self._store.read_feed(after, events_max=events_max, bytes_max=bytes_max)
            if len(page) < events_max:
                # Whoever catches up is there, and nobody needs what is behind him for long.
                self._pages.clear()
            elif events_max > 1:  # who wants a single event follows nobody
                full = page
                self._keep(key, page)
        finally:
            # Whoever waited reads for himself where this failed, or met the end of the log.
            if mine:
                self._reading.pop(key).set_result(full)
        return page

    def _keep(self, key: _Key, page: Page) -> None:
        self._pages[key] = page
        self._pages.move_to_end(key)
        while len(self._pages) > PAGES:
            self._pages.popitem(last=False)
