"""A histogram with bounds in steps of 1, 2 and 5, for durations and for numbers of things.

Rules: its counts are plain numbers that may be read from another thread at any time. It reads no
clock: who measures gives the value. A quantile is never too low.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

from .errors import UsageError

__all__ = ["SECONDS", "SIZES", "Histogram"]

SECONDS: Final = (*(float(f"{m}e{e}") for e in range(-6, 2) for m in (1, 2, 5)), 100.0)
"""Bounds of durations: 1, 2, 5, 10 µs … 50, 100 s."""
SIZES: Final = (*(float(f"{m}e{e}") for e in range(6) for m in (1, 2, 5)), 1e6)
"""Bounds of numbers of things: 1, 2, 5, 10 … 1,000,000."""


class Histogram(msgspec.Struct):
    """How often values fell into which bucket; bounds in steps of 1, 2, 5.

    A bucket holds what is above the bound before and at most its own; the last one what is above
    all. So a quantile is never too low, and at most 2.5 times too high.
    """

    bounds: tuple[float, ...]
    """The highest value of each bucket but the last."""
    counts: list[int]
    """One more than there are bounds."""
    sum: float = 0.0
    """Of all values."""
    max: float = 0.0
    """The highest value."""

    @classmethod
    def of_seconds(cls) -> Histogram:
        """Give an empty one for durations in seconds."""
        return cls(SECONDS, [0] * (len(SECONDS) + 1))

    @classmethod
    def of_sizes(cls) -> Histogram:
        """Give an empty one for numbers of things."""
        return cls(SIZES, [0] * (len(SIZES) + 1))

    def record(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if value > self.max:
            self.max = value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """Give a value that a share `q` (0 to 1) of the values does not exceed; 0.0 where none is.

        It is the upper bound of the bucket concerned, or the largest value where that is less.
        """
        if not 0.0 <= q <= 1.0:
            raise UsageError(f"a quantile is asked for a share from 0 to 1, not {q!r}")
        counted, wanted = 0, q * self.count
        for bound, number in zip(self.bounds, self.counts, strict=False):
            counted += number
            if number and counted >= wanted:
                return min(bound, self.max)
        return self.max

    def copy(self) -> Histogram:
        """Give the numbers as they are now."""
        return Histogram(self.bounds, self.counts.copy(), self.sum, self.max)

    def add(self, other: Histogram) -> None:
        """Count all that another one with the same bounds has counted."""
        assert self.bounds == other.bounds, "only like histograms are added up"
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        self.max = max(self.max, other.max)
