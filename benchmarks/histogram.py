"""An HDR histogram: counts durations in buckets so narrow that any percentile is right to 0.1 %.

Rules: nanoseconds below 2,048 have a bucket each; above, every doubling is cut into 1,024 buckets
of one width, and only those are kept that have counted something. So its memory is bounded whatever
it counts, and a percentile is never told too low, and at most one part in 1,024 too high. Two can
be added up. It knows no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["Histogram"]

_BITS = 11
_HALF = 1 << (_BITS - 1)
_LONGEST = 3_600_000_000_000
"""An hour, in nanoseconds: what takes longer is counted as an hour."""


def _bucket_of(value: int) -> int:
    shift = max(value.bit_length() - _BITS, 0)
    return shift * _HALF + (value >> shift)


def _highest_in(bucket: int) -> int:
    shift = max(bucket // _HALF - 1, 0)
    return ((bucket - shift * _HALF + 1) << shift) - 1


class Histogram:
    """Counts of durations, given and told in seconds."""

    __slots__ = ("_counts", "_longest", "count")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        """Begin with these durations."""
        self._counts: dict[int, int] = {}
        self._longest = 0
        self.count = 0
        """How much was counted."""
        for value in seconds:
            self.record(value)

    def record(self, seconds: float, weight: int = 1) -> None:
        """Count a duration, `weight` times; less than nothing is nothing."""
        value = min(max(int(seconds * 1e9), 0), _LONGEST)
        bucket = _bucket_of(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + weight
        self.count += weight
        if value > self._longest:
            self._longest = value

    def add(self, other: Histogram) -> None:
        """Count all that another one has."""
        for bucket, number in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + number
        self.count += other.count
        self._longest = max(self._longest, other._longest)

    @property
    def max(self) -> float:
        """The longest duration, in seconds; exact."""
        return self._longest / 1e9

    def percentile(self, percent: float) -> float:
        """Give the seconds that this percentage (0 to 100) of the counted does not exceed.

        Raises ValueError where nothing was counted: a figure of nothing is no figure.
        """
        if not self.count:
            raise ValueError("nothing was counted: run for longer, or with more clients")
        # Rounded, because 99.9 % of 1,000 is 999 and not 999.0000000000001.
        rank = max(math.ceil(round(self.count * percent / 100, 6)), 1)
        counted = 0
        for bucket in sorted(self._counts):
            counted += self._counts[bucket]
            if counted >= rank:
                return min(_highest_in(bucket), self._longest) / 1e9
        raise AssertionError("the buckets hold all that was counted")

    def ms(self, percent: float) -> float:
        """Give the same in milliseconds; 0 where nothing was counted."""
        return self.percentile(percent) * 1e3 if self.count else 0.0

    def milliseconds(self) -> dict[str, float]:
        """Give the figures of latency that every scenario tells, by column name."""
        return {
            "p50": self.percentile(50) * 1e3,
            "p99": self.percentile(99) * 1e3,
            "p99.9": self.percentile(99.9) * 1e3,
        }
