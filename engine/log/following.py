"""Follows a log that others append to, for an engine that folds it, and fires its timers.

Rules: it looks often while something comes, and seldom while nothing does. What it finds it does
not read: it lets everybody who follows the bus read it from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ..errors import EngineError
from ..stores.contract.log import LogSource
from .bus import Bus

__all__ = ["Following", "following"]

_REST_MIN: Final = 0.002
_REST_MAX: Final = 0.05


class Following:
    """One engine's look at the end of its log."""

    def __init__(
        self, log: LogSource, bus: Bus, seen: Callable[[int], bool], moved: Callable[[], None]
    ) -> None:
        """Take who is told of the end of the log, and tells whether it has moved; then `moved`."""
        self._moved = moved
        self._log = log
        self._bus = bus
        self._seen = seen
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped.set()

    async def run(self) -> None:
        """Look until `stop`."""
        rest = _REST_MIN
        while not self._stopped.is_set():
            try:
                moved = self._seen((await self._log.head()).position)
            except EngineError:
                moved = False  # whoever reads the log is told himself
            rest = _REST_MIN if moved else min(rest * 2, _REST_MAX)
            if moved:
                self._bus.miss()
                self._moved()
            try:
                async with asyncio.timeout(rest):
                    await self._stopped.wait()
            except TimeoutError:
                continue


def following(
    log: LogSource, bus: Bus, seen: Callable[[int], bool], moved: Callable[[], None]
) -> Sequence[Following]:
    """Give what follows the log of the engine that leads, to which others append."""
    return [Following(log, bus, seen, moved)] if getattr(log, "shared", False) else []
