"""A wait with an end, which says what was waited for: asyncio's own TimeoutError is without a word.

Rules: a TimeoutError that what is waited for raises by itself stays as it is. Times are in seconds,
by the event loop's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["within"]

T = TypeVar("T")


async def within(deadline: float | None, awaited: Awaitable[T], why: Callable[[], str]) -> T:
    """Give what is awaited; raise TimeoutError at the deadline, and say why."""
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await awaited
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(why()) from None
