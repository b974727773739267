"""Reading ahead: while one page is worked on, the next ones are read.

Rules: what was read ahead is given to whoever asks for exactly that; who asks for something else
gets nothing, and it is dropped. So nothing is ever given out of its order. It knows nothing of
pages: whether what it gives may be out of date is the caller's to know.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from ..runtime.futures import retrieve

__all__ = ["AHEAD", "ReadAhead"]

K = TypeVar("K")
P = TypeVar("P")

AHEAD = 2
"""Pages to look ahead. With one, a store's thread would hand its page over, let go of the
interpreter's lock, and miss it for as long as the event loop is busy with that page."""


class ReadAhead(Generic[K, P]):
    """Pages that are being read, in the order in which they will be asked for, by key."""

    def __init__(self, read: Callable[[K], Coroutine[Any, Any, P]]) -> None:
        """Take the function that reads the page of a key."""
        self._read = read
        self._pages: deque[tuple[K, asyncio.Task[P]]] = deque()

    async def take(self, key: K) -> P | None:
        """Give the page of a key where it was the next; None where it was not, and drop the rest.

        Raises what reading it raised.
        """
        if not self._pages or self._pages[0][0] != key:
            self.close()
            return None
        _, page = self._pages.popleft()
        try:
            return await page
        except BaseException:
            self.close()
            raise

    def look(self, keys: Iterable[K]) -> None:
        """Read the pages of these keys, which will be asked for next, in this order."""
        for number, key in enumerate(keys):
            if number < len(self._pages):
                assert self._pages[number][0] == key, "what is looked for twice is in one order"
                continue
            page = asyncio.ensure_future(self._read(key))
            page.add_done_callback(retrieve)
            self._pages.append((key, page))

    def close(self) -> None:
        """Drop what was read ahead, and end what is still being read."""
        while self._pages:
            self._pages.popleft()[1].cancel()
