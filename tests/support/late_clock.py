"""A clock that is ahead, for what took so long."""

from __future__ import annotations

from engine.runtime.machine import SystemClock


class LateClock(SystemClock):
    """The machine's clock, with so many seconds more since its start."""

    seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds
