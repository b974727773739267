"""What is told of several projectors together, and how fast a position moves.

Rules: counts are added up, and of states and ages the worst is told. Nothing here looks at a clock
by itself or keeps a projector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ..histogram import Histogram
from ..statistics import (
    BuildProgress,
    ProjectorState,
    ProjectorStatistics,
    SubscriptionStatistics,
)

__all__ = ["Rate", "nothing_yet", "together", "worst"]

RATE_SECONDS: Final = 5.0
_WORST: Final[Sequence[ProjectorState]] = (
    "stopped",
    "paused",
    "retrying",
    "catching-up",
    "building",
    "live",
    "elsewhere",
    "closed",
)


class Rate:
    """How fast a position moves, over the last seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: deque[tuple[float, int]] = deque(maxlen=64)

    def note(self, position: int) -> None:
        """Look at a position, at most some times a second."""
        now = self._now()
        if not self._seen or now - self._seen[-1][0] >= RATE_SECONDS / 60:
            self._seen.append((now, position))

    def per_second(self, position: int) -> float:
        """Give how many positions it passes in a second."""
        now = self._now()
        recent = [seen for seen in list(self._seen) if now - seen[0] <= RATE_SECONDS]
        if not recent or now <= recent[0][0]:
            return 0.0
        return max(0.0, (position - recent[0][1]) / (now - recent[0][0]))


def worst(states: Sequence[ProjectorState]) -> ProjectorState:
    """Give the state that needs somebody's attention most."""
    return min(states, key=_WORST.index)


def together(one: ProjectorStatistics, other: ProjectorStatistics) -> ProjectorStatistics:
    """Add the numbers of two slices up; those of the first are used up by it."""
    one.batch_seconds.add(other.batch_seconds)
    one.batch_events.add(other.batch_events)
    ages = [age for age in (one.lag_seconds, other.lag_seconds) if age is not None]
    return msgspec.structs.replace(
        one,
        lag_seconds=max(ages, default=None),
        events=one.events + other.events,
        transactions=one.transactions + other.transactions,
        pages=one.pages + other.pages,
        fetches=one.fetches + other.fetches,
        rows=one.rows + other.rows,
        bus=SubscriptionStatistics(
            one.bus.waiting + other.bus.waiting,
            one.bus.taken + other.bus.taken,
            one.bus.dropped + other.bus.dropped,
            one.bus.overflows + other.bus.overflows,
        ),
        failure=one.failure or other.failure,
        retries=one.retries + other.retries,
        retrying=one.retrying or other.retrying,
        parked=one.parked + other.parked,
    )


def nothing_yet(
    name: str, position: int, end: int, building: BuildProgress | None
) -> ProjectorStatistics:
    """Give the numbers of a projection whose tables nobody here folds on, or that is not open."""
    return ProjectorStatistics(
        name=name,
        state="building" if building else "catching-up",
        position=position,
        lag_events=max(0, end - position),
        lag_seconds=None,
        events=0,
        transactions=0,
        batch_seconds=Histogram.of_seconds(),
        batch_events=Histogram.of_sizes(),
        pages=0,
        fetches=0,
        rows=0,
        bus=SubscriptionStatistics(0, 0, 0, 0),
        failure=None,
        building=building,
    )
