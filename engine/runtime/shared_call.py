"""A call that is made once for all who wait for it, and never gives what is older than the asking.

Rules: one call is under way at a time. Who asks while it is gets the result of the next one, which
all share who have asked by then. A call that fails, fails for who made it; the others make it
anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

__all__ = ["SharedCall"]

T = TypeVar("T")


class SharedCall(Generic[T]):
    """A call without arguments, for many who want its newest result."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._under_way: asyncio.Future[None] | None = None
        self._begun = self._done = 0
        """Numbers of the call that was begun last, and of the one whose result is held."""
        self._result: T | None = None

    async def __call__(self, is_enough: Callable[[], bool] | None = None) -> T:
        """Give the result of a call that began after this was asked for.

        With `is_enough` also of the one that was under way, if that was enough to know.
        """
        asked = self._begun
        while self._done <= asked:
            if self._done == asked > 0 and is_enough is not None and is_enough():
                break
            if self._under_way is None:
                await self._make()
            else:
                await asyncio.shield(self._under_way)
        return cast("T", self._result)

    async def _make(self) -> None:
        ended = self._under_way = asyncio.get_running_loop().create_future()
        self._begun += 1
        number = self._begun
        try:
            self._result = await self._call()
            self._done = number
        finally:
            self._under_way = None
            ended.set_result(None)
