"""The time that a batch is recorded with, and the warning where the clock cannot be right.

Rules: `recorded` never goes back along a log, so one batch that was written while the clock was far
ahead holds the time of all that follow, for ever: nothing can take it back. That is told loudly,
once when it is seen: before the first batch that would be recorded far ahead, and for as long as
the log is ahead of the clock. Nothing is refused, as a clock decides nothing. It knows no store.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from ..runtime.ports import Clock

__all__ = ["Timekeeper"]

_MICROSECONDS: Final = 1_000_000
_BEHIND_MAX: Final = 60 * _MICROSECONDS
"""How far the clock may be behind the log, in µs, as clocks are put right now and then."""
_ASLEEP_MAX: Final = 30 * 86_400 * _MICROSECONDS
"""How long a machine may have slept between two looks, in µs: the other clock may rest then."""
_AT_REST_MAX: Final = 10 * 365 * 86_400 * _MICROSECONDS
"""How long a log may have been at rest before an engine starts on it, in µs."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Timekeeper:
    """Reads the clock for one engine's batches."""

    def __init__(self, clock: Clock, logger: logging.Logger) -> None:
        self._clock = clock
        self._logger = logger
        self._recorded = 0
        """Of the last batch; 0 where the log is empty."""
        self._seen: tuple[int, float] | None = None
        """What both clocks said last."""
        self._behind_told = False

    def begin(self, recorded: int) -> None:
        """Take the time of the log's last event, and look at the clock."""
        self._recorded = recorded
        self._look()

    def now(self) -> int:
        """Give the time for a batch that is to be written."""
        now = self._look()
        self._recorded = max(self._recorded, now)
        return now

    def behind(self) -> float:
        """Give how many seconds the clock is behind the last batch, 0 where it is not."""
        return max(0, self._recorded - self._clock.now()) / _MICROSECONDS

    def _look(self) -> int:
        now, steady = self._clock.now(), self._clock.monotonic()
        if now < self._recorded - _BEHIND_MAX:
            self._tell_behind(now)
        else:
            self._behind_told = False
            self._tell_ahead(now, steady)
        self._seen = now, steady
        return now

    def _tell_behind(self, now: int) -> None:
        if self._behind_told:
            return
        self._behind_told = True
        self._tell(
            "the clock says %s, and the last event of the log was recorded at %s: either the clock "
            "is wrong now, or it was then. Until it has passed that time all events are recorded "
            "at it, and a state or a past `at` a time between has none of them. Their order and "
            "their content are right.",
            _shown(now),
            _shown(self._recorded),
        )

    def _tell_ahead(self, now: int, steady: float) -> None:
        if self._seen is not None:
            expected = self._seen[0] + int((steady - self._seen[1]) * _MICROSECONDS)
            is_ahead = now > expected + _ASLEEP_MAX
        else:
            expected, is_ahead = self._recorded, 0 < self._recorded < now - _AT_REST_MAX
        if is_ahead:
            self._tell(
                "the clock says %s, and %s was to be expected: look at it at once. What is written "
                "meanwhile holds the time of all later events, and cannot be taken back: no event "
                "is recorded at an earlier time than the one before it.",
                _shown(now),
                _shown(expected),
            )

    def _tell(self, text: str, *values: str) -> None:
        # A log handler that fails is not to be taken for a failed write.
        with contextlib.suppress(Exception):
            self._logger.error(text, *values)


def _shown(microseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{microseconds} µs since 1970"
