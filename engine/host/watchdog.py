"""Watches the event loop from a thread, and logs the stack of what blocks it.

Rules: whatever runs longer than the limit without giving the loop its turn is logged once, while
it still runs, and again with its length when it is over. A stack names files, lines and source
text, and no values. The same stack is logged once a minute at most. The watch asks the loop a few
times a second and changes nothing in it; it cannot end what blocks. A block up to half as long
again as the limit may pass unseen. Where the machine held up the whole process, or had no core for
the loop, the loop is not to blame: nothing is logged, and nothing is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import anyio

from ..limits import Limits
from ..runtime.ports import Ports, Watcher

__all__ = ["LoopMonitor", "loop_watch"]

_AGAIN_SECONDS: Final = 60.0
_PLACES_MAX: Final = 100
"""Stacks that are remembered; a host has few that block."""


def loop_watch(ports: Ports, limits: Limits, logger: logging.Logger) -> LoopMonitor | None:
    """Give the watch over an engine's loop, where the ports have what watches."""
    watcher = ports.watcher
    return None if watcher is None else LoopMonitor(watcher, limits.loop_blocked_ms / 1_000, logger)


class LoopMonitor:
    """The watch over one engine's loop."""

    def __init__(self, watcher: Watcher, seconds: float, logger: logging.Logger) -> None:
        self._watcher = watcher
        self._seconds = seconds
        self._logger = logger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = 0.0
        self._checked = 0.0
        self._busy = 0.0
        self._answered = True
        self._reported = False
        self._logged = False
        """Whether it was told of the block that goes on."""
        self._told: dict[str, float] = {}
        """When each stack was logged last."""
        self.blocked = 0
        """How often the loop was blocked for longer than the limit."""

    async def run(self) -> None:
        """Watch until cancelled."""
        self._loop = asyncio.get_running_loop()
        stop = self._watcher.start(self._check, self._seconds / 2)
        try:
            await anyio.sleep_forever()
        finally:
            stop()

    def _check(self, now: float, busy: float, stack: Callable[[], str]) -> None:
        """Ask the loop, or see for how long it has not answered; runs in the watcher's thread."""
        held_up = self._was_held_up(now, busy)
        if self._answered:
            if self._logged:
                self._logger.warning(
                    "the event loop goes on, after about %.1f s", now - self._asked
                )
            self._reported = self._logged = False
            self._answered = False
            self._asked = now
            self._ask()
        elif held_up and not self._reported:
            self._asked = now
        elif not self._reported and now - self._asked >= self._seconds:
            self._reported = True
            self.blocked += 1
            self._tell(now, stack())

    def _tell(self, now: float, stack: str) -> None:
        """Log what blocks, unless it was logged a short time ago: it may block at each command."""
        if now - self._told.get(stack, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return
        if len(self._told) >= _PLACES_MAX:
            self._told.clear()
        self._told[stack] = now
        self._logged = True
        self._logger.warning(
            "the event loop has been blocked for more than %d ms, and with it every aggregate "
            "and the host: move this into a thread, or await it (logged once a minute at most, "
            "and counted each time in statistics().loop_blocked):\n%s",
            self._seconds * 1_000,
            stack,
        )

    def _was_held_up(self, now: float, busy: float) -> bool:
        """Tell whether this thread came much too late although the process had little to do.

        Where a call in the loop keeps the interpreter's lock, this thread is late as well, but the
        process has been busy.
        """
        late, worked = now - self._checked, busy - self._busy
        self._checked, self._busy = now, busy
        return late > self._seconds and worked < late / 2

    def _ask(self) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            # The loop was closed under an engine that was not: there is nothing to watch.
            self._answered = True

    def _answer(self) -> None:
        self._answered = True
