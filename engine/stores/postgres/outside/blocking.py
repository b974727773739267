"""One connection for calls that block: opened, asked, and closed in a loop of its own.

Rules: a connection that broke is made anew at the next call, which may then change what it reads
between two calls, and never within one. A call that only reads is made once more where it was the
first to find an old connection broken. What the server says is told as `failed` tells it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ....errors import EngineError, StoreFailed
from ....runtime.native import result_of
from ....runtime.own_loop import OwnLoop
from ..failures import sqlstate_of
from ..views.link import Link, Place, failed, is_lost_line

__all__ = ["Blocking"]

T = TypeVar("T")


class Blocking:
    """A link to one place, from `open` to `close`."""

    def __init__(self, place: Place, *, reads: bool = False) -> None:
        """Take where to connect, and whether the calls change nothing."""
        self._reads = reads
        self._place = place
        self._loop = OwnLoop("foldline-outside")
        self._link: Link | None = None
        self._is_open = False

    def open(self) -> None:
        """Connect; raise StoreRefused or StoreFailed."""
        self._is_open = True
        self._loop.run(self._connected)

    def close(self) -> None:
        """Close the connection and its thread; a second call does nothing."""
        self._is_open = False
        if self._link is not None:
            self._loop.run(self._close)
        self._loop.close()

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _connected(self) -> Link:
        if self._link is None or not self._link.is_open:
            self._link = await self._place.connect()
        return self._link

    def run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `call(link, *args)`; give what it gives."""
        return result_of(self.begin(call, *args))

    def begin(self, call: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Have it run behind those that were begun; give where its end is told."""
        if not self._is_open:
            raise StoreFailed(f"{self._place.name} is closed", written=False)
        return self._loop.begin(lambda: self._run(call, args))

    async def _run(self, call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        former, link = self._link, await self._connected()
        try:
            return await call(link, *args)
        except EngineError:
            raise
        except Exception as error:
            if is_lost_line(error):
                link.end()
                if self._reads and link is former:
                    return await self._run(call, args)
                raise failed(self._place, error, "asked", written=None) from error
            if sqlstate_of(error):
                raise failed(self._place, error, "asked", written=False) from error
            raise
