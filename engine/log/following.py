"""Follows a log that others append to, for an engine that folds it, and fires its timers.

Rules: it looks often while something comes, and seldom while nothing does. A look that takes long,
as beside a busy server, is followed by a longer rest: what is found by it is asked for then, and
all that would be done for one event is done for many. What it finds it does not read: it lets
everybody who follows the bus read it from the log.
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
_REST_TIMES: Final = 10
"""As long as a look has taken, it rests at least so often."""


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
        rest, now = _REST_MIN, asyncio.get_running_loop().time
        while not self._stopped.is_set():
            begun = now()
            try:
                moved = self._seen((await self._log.head()).position)
            except EngineError:
                moved = False  # whoever reads the log is told himself
            took = now() - begun
            rest = min(max(_REST_MIN if moved else rest * 2, _REST_TIMES * took), _REST_MAX)
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
