"""Latencies: many in an HdrHistogram, right to 0.1 %; those of a moment as they are.

Rules: an HdrHistogram counts nanoseconds with three significant digits, in an array of 264 KiB
whatever it counts. Therefore the few of a moment are kept each, in four bytes. A percentile is the
least value that so many of the counted do not exceed: never told too low, and by an HdrHistogram at
most one part in 1,024 too high. Two of a kind can be added up. Nothing here knows a clock.
"""

from __future__ import annotations

import importlib
import math
from array import array
from collections.abc import Callable, Iterable
from typing import Protocol, cast

__all__ = ["Histogram", "Sample"]

_LONGEST = 3_600_000_000_000
"""An hour, in nanoseconds: what takes longer is counted as an hour."""


class _Hdr(Protocol):
    """What is used of `hdrh.histogram.HdrHistogram`, which has no types."""

    total_count: int
    max_value: int

    def record_value(self, value: int, count: int = 1) -> bool: ...
    def get_value_at_percentile(self, percentile: float) -> int: ...
    def add(self, other_hist: _Hdr) -> None: ...


_new = cast(
    "Callable[[int, int, int], _Hdr]", importlib.import_module("hdrh.histogram").HdrHistogram
)


def _rank(count: int, percent: float) -> int:
    # Rounded, because 99.9 % of 1,000 is 999 and not 999.0000000000001.
    return max(math.ceil(round(count * percent / 100, 6)), 1)


class Histogram:
    """Counts of durations, given and told in seconds."""

    __slots__ = ("_hdr",)

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        """Begin with these durations."""
        self._hdr = _new(1, _LONGEST, 3)
        for value in seconds:
            self.record(value)

    def record(self, seconds: float, weight: int = 1) -> None:
        """Count a duration, `weight` times; less than nothing is nothing."""
        self._hdr.record_value(min(max(int(seconds * 1e9), 0), _LONGEST), weight)

    def add(self, other: Histogram) -> None:
        """Count all that another one has."""
        self._hdr.add(other._hdr)

    @property
    def count(self) -> int:
        """How much was counted."""
        return self._hdr.total_count

    @property
    def max(self) -> float:
        """The longest duration, in seconds; exact."""
        return self._hdr.max_value / 1e9

    def percentile(self, percent: float) -> float:
        """Give the seconds that this percentage (0 to 100) of the counted does not exceed.

        Raises ValueError where nothing was counted: a figure of nothing is no figure.
        """
        if not self.count:
            raise ValueError("nothing was counted: run for longer, or with more clients")
        # Asked for by rank: HdrHistogram takes the nearest rank, which may be one too low.
        rank = _rank(self.count, percent)
        found = self._hdr.get_value_at_percentile(100 * rank / self.count)
        return min(found, self._hdr.max_value) / 1e9

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


class Sample:
    """The durations of a moment, each kept; given in seconds."""

    __slots__ = ("_seconds",)

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        """Begin with those of others."""
        self._seconds = array("f")
        for sample in samples:
            self._seconds.extend(sample._seconds)

    def record(self, seconds: float) -> None:
        """Keep a duration."""
        self._seconds.append(seconds)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._seconds)

    def ms(self, *percents: float) -> list[float]:
        """Give the milliseconds that these percentages (0 to 100) of them do not exceed.

        They are 0 where there is none.
        """
        if not self._seconds:
            return [0.0] * len(percents)
        ordered = sorted(self._seconds)
        return [ordered[_rank(len(ordered), percent) - 1] * 1e3 for percent in percents]
