"""A clock and ids of a test's own: for scenarios, and for `Ports(clock=..., ids=...)` of an engine.

Rules: the clock stands still until the test moves it, and ids count up, so a test can expect both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ..errors import UsageError

__all__ = ["ManualClock", "SequentialIds", "microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock that stands still until the test moves it; for `Ports(clock=...)`."""

    def __init__(self, now: datetime | int = 0) -> None:
        """Begin at an aware datetime, or at µs since 1970-01-01 UTC; UsageError without a zone."""
        self._now = microseconds(now)
        self._elapsed = 0.0
        self._told: list[Callable[[], None]] = []

    def now(self) -> int:
        """Give the time in µs since 1970-01-01 UTC."""
        return self._now

    @property
    def time(self) -> datetime:
        """The same as a datetime in UTC, for what a program asks the system's clock."""
        return _EPOCH + timedelta(microseconds=self._now)

    def monotonic(self) -> float:
        """Give the seconds by which it was moved forward."""
        return self._elapsed

    def advance(self, by: timedelta | float) -> None:
        """Move the clock by a timedelta or by seconds; back, with a negative number."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        self._now += round(seconds * 1_000_000)
        self._elapsed += max(0.0, seconds)
        for call in tuple(self._told):
            call()

    def on_jump(self, call: Callable[[], None], /) -> Callable[[], None]:
        """Have it called when the clock was moved, so that an engine fires what is due then."""
        self._told.append(call)
        return lambda: self._told.remove(call)


def microseconds(moment: datetime | int) -> int:
    """Give µs since 1970-01-01 UTC; raise UsageError for a datetime without a zone."""
    if isinstance(moment, int):
        return moment
    if moment.utcoffset() is None:
        raise UsageError(f"{moment} has no time zone: write datetime(..., tzinfo=UTC)")
    return round(moment.timestamp() * 1_000_000)


class SequentialIds:
    """Ids that a test can expect: `id-1`, `id-2` …; for `Ports(ids=...)`."""

    def __init__(self, prefix: str = "id") -> None:
        """Begin every id with the prefix."""
        self._prefix = prefix
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """Give the next id."""
        return f"{self._prefix}-{next(self._numbers)}"
