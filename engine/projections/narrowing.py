"""The search for the event whose rows the database refuses, by ever smaller batches.

Rules: a refused batch is folded again in fewer events at once, until a batch has one event. That
one is to blame, and fails from then on as if its handler had. Behind the last suspect the batches
have their size again. It folds nothing itself.
"""

from __future__ import annotations

from typing import Final

from ..errors import RowRefused
from .writes import NotTaken

__all__ = ["Narrowing"]

PARTS: Final = 8
"""Into so many batches one is divided whose rows the database refuses."""


class Narrowing:
    """How many events a projector's batch has at most."""

    def __init__(self, refused: dict[int, Exception], events_max: int) -> None:
        """Take where the event to blame is put down, and the size of a batch at other times."""
        self._refused = refused
        self._most = self._events_max = events_max
        self._last = 0
        """Position of the last suspect; 0 where there is none."""

    @property
    def is_under_way(self) -> bool:
        """Whether an event is looked for."""
        return bool(self._last)

    def events_max(self, position: int) -> int:
        """Give how many events the batch behind a position has at most."""
        if self._last and position >= self._last:
            self._last, self._events_max = 0, self._most
            self._refused.clear()
        return self._events_max

    def begin(self, error: Exception) -> bool:
        """Fold fewer at once where the database has refused rows; tell whether that is so."""
        if not isinstance(error, NotTaken):
            return False
        count = error.last - error.first + 1
        self._last, self._events_max = error.last, max(1, count // PARTS)
        if count == 1:
            assert isinstance(error.__cause__, RowRefused)
            self._refused[error.first] = error.__cause__
        return True
