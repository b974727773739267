"""How a test waits: for a condition, or until nothing goes on any more; never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

_SPIN_SECONDS = 0.05
_NAP_SECONDS = 0.001


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Let the loop run until a condition holds; raise AssertionError if it never does."""
    begin = time.monotonic()
    # A simulated loop's time would move on by a nap: there the loop only turns.
    naps = type(asyncio.get_running_loop()).__module__.partition(".")[0] in ("asyncio", "uvloop")
    while not condition():
        waited = time.monotonic() - begin
        if waited > seconds:
            raise AssertionError("the condition never came true")
        # Who waits this long waits for a thread, a server or a process, and leaves it the core.
        await asyncio.sleep(_NAP_SECONDS if naps and waited > _SPIN_SECONDS else 0)
        time.sleep(0)  # let threads have their turn


async def settle() -> None:
    """Let everything that can go on without the outside go on."""
    for _ in range(50):
        await asyncio.sleep(0)
