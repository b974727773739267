"""A link whose calls follow each other, as the one that writes views; a lost one is made anew.

Rules: a call runs to its end, whoever gives up waiting for it, but a server that says nothing for
so long as an answer may take is taken for gone. Where the line breaks, nobody knows whether what
ran was written: whoever asked is told so, looks where the views stand, and goes on from there. What
only reads is asked once more instead. A server that refuses a statement has written nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ....errors import EngineError, StoreFailed
from ....runtime.futures import retrieve
from ..failures import sqlstate_of
from .link import Link, Place, failed, is_lost_line

__all__ = ["Lane"]

T = TypeVar("T")


class Lane:
    """Calls on one link, one at a time, in their order, from `open` to `close`."""

    def __init__(self, place: Place, *, reads: bool = False) -> None:
        """Take where the views are, and whether its calls change nothing."""
        self._place = place
        self._reads = reads
        self._turn = asyncio.Lock()
        self._link: Link | None = None
        self._is_open = False
        self._running: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect; raise StoreFailed or StoreRefused."""
        self._link = await self._place.connect()
        self._is_open = True

    def begin(self) -> None:
        """Take calls; the first one connects."""
        self._is_open = True

    async def close(self) -> None:
        """Let what was asked come to its end, then close; a second call does nothing."""
        self._is_open = False
        if self._running:
            await asyncio.wait(self._running)
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `call(link, *args)` when its turn comes; give what it gives."""
        if not self._is_open:
            raise StoreFailed(f"the views in {self._place.name} are closed", written=False)
        task = asyncio.ensure_future(self._run(call, args))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(retrieve)  # who has asked may have given up by now
        return await asyncio.shield(task)

    async def _run(self, call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        async with self._turn:
            again = self._reads and self._link is not None  # which may have broken long ago
            while True:
                try:
                    return await self._try(call, args)
                except EngineError:
                    raise
                except Exception as error:
                    is_lost = is_lost_line(error)
                    if is_lost and again:
                        again = False
                    elif is_lost or sqlstate_of(error):
                        written = None if is_lost else False
                        raise failed(
                            self._place, error, "written or read", written=written
                        ) from error
                    else:
                        raise

    async def _try(self, call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """Run a call on the link, or on a new one; give up a link that is lost."""
        link = self._link
        if link is None or not link.is_open:
            link = self._link = await self._place.connect()
        seconds, loop = self._place.address.answer_seconds, asyncio.get_running_loop()
        timer = loop.call_later(seconds, link.end)
        try:
            return await call(link, *args)
        except Exception as error:
            if not isinstance(error, EngineError) and is_lost_line(error):
                link.end()
                self._link = None
                if loop.time() >= timer.when():
                    raise StoreFailed(
                        f"the views in {self._place.name} gave no answer within {seconds:g} s: if "
                        f"a handler's SQL, or a lock there, takes that long, add patience=SECONDS "
                        f"to the URL",
                        written=None,
                        passes=True,
                    ) from error
            raise
        finally:
            timer.cancel()
