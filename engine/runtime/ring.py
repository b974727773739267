"""A ring that any number of tasks hear, and that none misses which it had not yet come to.

Rules: who waits says how many rings he knows of: if there were more since, he does not wait. So
whoever counts, looks, and then waits misses nothing that was rung while he looked. A pause ends by
itself too: a ring is a hint, and no promise.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from .bell import Bell

__all__ = ["Ring"]


class Ring:
    """Rung by one, and heard by all who wait."""

    def __init__(self) -> None:
        self._bell = Bell()
        self.count = 0
        """How often it was rung."""

    def ring(self) -> None:
        """Wake all who wait."""
        self._bell.set()
        self._bell.clear()
        self.count += 1

    async def wait(self, known: int, seconds: float) -> None:
        """Return when it was rung more often than `known`, or behind so many seconds."""
        if self.count == known:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._bell.wait()
