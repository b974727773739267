"""Holds: an answer in memory lets writes wait, so that all that it reads is one state.

Rules: one answer holds at a time, and the next one waits for its turn. It begins when all writes
that came before it have ended. A write waits for one hold at most: between two of them, those that
waited get their turn. A hold ends by itself after its seconds. This file reads and writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

__all__ = ["Holds"]


class Holds:
    """The holds of one store in memory, and the writes that they wait for."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._held: asyncio.Future[None] | None = None
        """What writes wait for."""
        self._writes: dict[asyncio.Future[None], None] = {}
        """Those that are under way, or wait for a hold."""

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[None]:
        """Write inside, when the answer that holds now has ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes[ended] = None
        try:
            if self._held is not None and not self._held.done():
                await asyncio.shield(self._held)
            yield
        finally:
            del self._writes[ended]
            ended.set_result(None)

    async def begin(self, seconds: float) -> Callable[[], None]:
        """Hold writes up until what this gives is called, or for so many seconds."""
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        held = self._held = loop.create_future()

        def end() -> None:
            if not held.done():
                held.set_result(None)
                timer.cancel()
                self._turn.release()

        timer = loop.call_later(seconds, end)
        try:
            if self._writes:
                await asyncio.wait(list(self._writes), timeout=seconds)
        except BaseException:
            end()
            raise
        return end
