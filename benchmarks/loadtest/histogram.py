"""How often which latency was seen: buckets that grow with the value, as HDR histograms have them.

Rules: values are whole microseconds. Below 128 a bucket is one value; above, each power of two has
64 buckets, so that a quantile is at most 1.6 percent off, and never told too low. Two histograms
can be added up, since their buckets are the same.
"""

from __future__ import annotations

__all__ = ["Histogram"]

_EXACT_BITS = 7
_PER_OCTAVE = 1 << (_EXACT_BITS - 1)


class Histogram:
    """Counts by bucket; empty at first."""

    __slots__ = ("_counts", "count", "max")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        """Values seen."""
        self.max = 0
        """The largest one, exactly."""

    def record(self, value: int) -> None:
        """Count one value; below 0 it counts as 0."""
        value = max(0, value)
        bucket = bucket_of(value)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.max = max(self.max, value)

    def add(self, other: Histogram) -> None:
        """Count all that another one has."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> int:
        """Give a value that this share (0 to 1) of the values does not exceed; 0 without any."""
        assert 0.0 <= share <= 1.0
        counted = 0
        for bucket in sorted(self._counts):
            counted += self._counts[bucket]
            if counted >= share * self.count:
                return min(highest_of(bucket), self.max)
        return self.max


def bucket_of(value: int) -> int:
    """Give the bucket of a value."""
    shift = max(0, value.bit_length() - _EXACT_BITS)
    return shift * _PER_OCTAVE + (value >> shift)


def highest_of(bucket: int) -> int:
    """Give the largest value of a bucket."""
    shift = max(0, bucket // _PER_OCTAVE - 1)
    return ((bucket - shift * _PER_OCTAVE + 1) << shift) - 1
