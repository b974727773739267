"""Whether the other end of a line still says something to who waits for it.

Rules: one that says nothing is asked, and whatever is at work answers that. Looks are counted, and
not seconds: this process may have stood still itself. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .wire import Line, Listing

__all__ = ["LOOKS", "Hearing"]

LOOKS: Final = 4
"""How often one is found silent, one after the other, before it is said to stand still."""


class Hearing:
    """The ear of one end of a line."""

    def __init__(self, line: Line, is_waiting: Callable[[], bool]) -> None:
        """Take who tells whether something is to come."""
        self._line = line
        self._is_waiting = is_waiting
        self.silent = 0
        """How many looks, one after the other, have heard nothing."""

    @property
    def is_silent(self) -> bool:
        """Whether it has said nothing for so long that somebody is to do something."""
        return self.silent >= LOOKS

    async def look(self, seconds: float) -> None:
        """Listen for a while, and ask where nothing has come."""
        heard = self._line.heard
        await asyncio.sleep(seconds)
        if self._line.heard != heard:
            self.silent = 0
        elif self.silent or self._is_waiting():
            self.silent += 1
            self._line.send(Listing(0))  # whatever it is at: one that lives answers
