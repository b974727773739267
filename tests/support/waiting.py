"""How a test waits: for a condition, or until nothing goes on any more; never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until a condition holds; for a minute, whatever clock the loop has."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition never came true")
        await asyncio.sleep(0)
        time.sleep(0)  # let threads have their turn


async def settle() -> None:
    """Let everything that can go on without the outside go on."""
    for _ in range(50):
        await asyncio.sleep(0)
