"""Who waits for a projector to arrive at a position, and so whether a batch may wait for more.

Rules: a wait ends with yes as soon as the projector is there, and with no at its deadline or as
soon as it gets no further. While many events come and nobody waits, they gather for a moment from
one batch to the next: a transaction costs as much as some hundred events, and a row that is changed
twice in it is written once. Who begins to wait ends that moment.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from ..runtime.bell import Bell

__all__ = ["Arrivals"]

MANY_EVENTS: Final = 32
"""A batch of fewer is not worth to be waited for: the next one is taken at once."""


class Arrivals:
    """The waits for one projector; times are in seconds, by the event loop's clock."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[bool], int] = {}
        self._hurried = Bell()
        """Set where a batch is not to wait for more."""
        self._took_at = -math.inf
        """When the last batch was taken."""
        self._took = 0
        """How many events it had."""

    async def wait(self, position: int, deadline: float | None) -> bool:
        """Return whether the projector arrives at a position, as soon as that is known."""
        reached: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = position
        self.hurry()
        try:
            async with asyncio.timeout_at(deadline):
                return await reached
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(reached, None)

    def answer(self, arrived: int, *, ended: bool) -> None:
        """Answer those who wait for no more than this position, and all where it is the end."""
        for reached, position in list(self._waiting.items()):
            if (arrived >= position or ended) and not reached.done():
                reached.set_result(arrived >= position)

    def hurry(self) -> None:
        """Let the next batch be taken now."""
        self._hurried.set()

    async def let_gather(self, seconds: float) -> None:
        """Return when the next batch is to be taken: so long after the last one, or earlier.

        `took` is to be told of each batch that is taken.
        """
        now = asyncio.get_running_loop().time()
        until = self._took_at + seconds
        if now < until and not self._waiting and self._took >= MANY_EVENTS:
            self._hurried.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._hurried.wait()
            except TimeoutError:
                now = until
        self._took_at = now

    def took(self, events: int) -> None:
        """Note how many events a batch has."""
        self._took = events
