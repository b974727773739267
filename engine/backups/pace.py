"""Resting between pieces of work, so that whoever has the log open hardly notices.

Rules: of the time a share is worked, and the rest is rested, in pieces. A piece that took long, for
whatever reason, is followed by a long rest, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..runtime.native import native_sleep

__all__ = ["BESIDE_PERCENT", "Pace"]

BESIDE_PERCENT: Final = 40
"""Of the time, beside an engine."""
_ALL: Final = 100
_REST_SECONDS_MAX: Final = 2.0


class Pace:
    """Works `percent` of the time; `monotonic` gives seconds."""

    def __init__(
        self,
        percent: int,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None] = native_sleep,
    ) -> None:
        self._percent = percent
        self._monotonic = monotonic
        self._sleep = sleep
        self._since = monotonic()

    def rest(self) -> None:
        """Rest for what was worked since the last rest."""
        if self._percent >= _ALL:
            return
        worked = self._monotonic() - self._since
        seconds = worked * (_ALL - self._percent) / self._percent
        self._sleep(min(seconds, _REST_SECONDS_MAX))
        self._since = self._monotonic()
