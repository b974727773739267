"""Wakes a task of the engine, whoever rings: also from a stack that is nearly used up.

Rules: asyncio's Event, set where the interpreter's recursion limit is near, notes that it is set
and loses those who wait: the error comes between the two, and they sleep for ever. A bell first
finds out whether there is room for all of it, and raises RecursionError with nothing changed. Who
rings does so before he changes what the task is to find. All that tasks of the engine wait for is
a bell, unless only the engine's own tasks set it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["Bell", "check_stack"]

_LEVELS: Final = 48
"""Calls inside each other that waking takes, asyncio's debug mode included, and half as many more.

It costs 4 µs, for the first of all that come before the task is awake.
"""
_PART: Final = 3
"""Of the interpreter's limit, as frames, what may be in use unseen: calls of C count there too."""
_frame_at: Final[Callable[[int], object]] = vars(sys)["_getframe"]
"""Raises ValueError where the stack has not so many frames."""


def check_stack(levels: int = _LEVELS) -> None:
    """Raise RecursionError where so many calls inside each other have no room on the stack."""
    if levels:
        check_stack(levels - 1)


def _is_deep() -> bool:
    """Tell, in a tenth of the time, whether so much of the stack is in use that it wants a look."""
    try:
        _frame_at(sys.getrecursionlimit() // _PART)
    except ValueError:
        return False
    return True


class Bell(asyncio.Event):
    """An Event that is set whole or not at all."""

    def set(self) -> None:
        """Wake all who wait. Raises RecursionError, with nothing changed."""
        if not self.is_set():
            if _is_deep():
                check_stack()
            super().set()
