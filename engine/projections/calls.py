"""Calls that a task makes for others, between its own steps: one at a time, in the order asked.

Rules: a call that has begun goes to its end, whether or not its caller still waits; one whose
caller left before is not begun. Every caller is answered: with what the call gives or raises, and
with Closed where the task ends before. This file owns no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from ..errors import Closed
from ..runtime.futures import retrieve

__all__ = ["Calls"]

T = TypeVar("T")
_Waiting: TypeAlias = tuple[Callable[[], Awaitable[Any]], "asyncio.Future[Any]"]


class Calls:
    """What others want to be done by one task."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Take what wakes the task."""
        self._wake = wake
        self._waiting: deque[_Waiting] = deque()
        self._refused = ""
        self.is_running = False
        """Whether one is being made."""

    def __bool__(self) -> bool:
        """Whether a call waits."""
        return bool(self._waiting)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Let the task make a call; give what it gives. Raises Closed where it makes none."""
        if self._refused:
            raise Closed(self._refused)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(retrieve)
        # Woken first: it may raise RecursionError, and then nothing is to be done later.
        self._wake()
        self._waiting.append((call, answer))
        return await answer

    async def run_next(self) -> None:
        """Make the call that has waited longest."""
        call, answer = self._waiting.popleft()
        if answer.done():
            return
        self.is_running = True
        try:
            result = await call()
        except Exception as error:
            _settle(answer, error)
        except BaseException:
            _settle(answer, Closed("it was ended in the middle: look at what has become of it"))
            raise
        else:
            if not answer.done():
                answer.set_result(result)
        finally:
            self.is_running = False

    def refuse(self, why: str) -> None:
        """Answer Closed to every call that waits, and to all that come."""
        self._refused = why
        while self._waiting:
            _settle(self._waiting.popleft()[1], Closed(why))


def _settle(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
