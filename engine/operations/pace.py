"""How fast an engine goes: rates and latencies, out of two looks at its numbers.

Rules: a look that comes within a second of the last one gives the rates of that one, so that
several who look see the same, and none disturbs another. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..histogram import Histogram
from ..statistics import EngineStatistics
from .answers import Latency, Rates

__all__ = ["Pace", "PositionPace"]

LOOK_SECONDS: Final = 1.0
"""Between the two looks that a rate needs, at least."""
_RUN: Final = frozenset({"receipt", "repeated-key", "rejected"})


class Pace:
    """The looks at one engine."""

    def __init__(self) -> None:
        self._last: tuple[float, EngineStatistics] | None = None
        self._before: tuple[float, EngineStatistics] | None = None

    def look(self, at: float, numbers: EngineStatistics) -> None:
        """Take the numbers of a moment, in seconds of a clock that only goes forward."""
        if self._last is not None and at - self._last[0] < LOOK_SECONDS:
            return
        self._before, self._last = self._last, (at, numbers)

    def rates(self) -> Rates | None:
        """Give what happened each second; None at the first look."""
        if self._before is None or self._last is None:
            return None
        (begin, before), (end, now) = self._before, self._last
        seconds = end - begin
        return Rates(
            seconds=seconds,
            events=(now.journal.events - before.journal.events) / seconds,
            commands=(now.commands.answered - before.commands.answered) / seconds,
            failures=(_failures(now) - _failures(before)) / seconds,
            queries=(_answered(now) - _answered(before)) / seconds,
            folded=max(0.0, (_folded(now) - _folded(before)) / seconds),
        )

    def latencies(self, numbers: EngineStatistics) -> list[Latency]:
        """Give how long each station takes, if it has done anything."""
        recent: dict[str, Histogram] = {}
        if self._before is not None and self._last is not None:
            earlier = dict(_histograms(self._before[1]))
            for name, histogram in _histograms(self._last[1]):
                recent[name] = _difference(histogram, earlier.get(name))
        return [
            _latency(name, histogram, recent.get(name))
            for name, histogram in _histograms(numbers)
            if histogram.count
        ]


def _failures(numbers: EngineStatistics) -> int:
    answers = numbers.commands.answers
    return sum(count for name, count in answers.items() if name not in _RUN)


def _answered(numbers: EngineStatistics) -> int:
    return sum(query.answered for query in numbers.queries.values())


def _folded(numbers: EngineStatistics) -> int:
    return sum(projector.events for projector in numbers.projectors.values())


def _histograms(numbers: EngineStatistics) -> Iterator[tuple[str, Histogram]]:
    yield "commit", numbers.journal.commit_seconds
    yield "load", numbers.aggregates.load_seconds
    yield "timers late", numbers.timers.late_seconds
    for name, query in numbers.queries.items():
        yield f"query {name}", query.seconds
    for name, projector in numbers.projectors.items():
        yield f"fold {name}", projector.batch_seconds


def _difference(now: Histogram, before: Histogram | None) -> Histogram:
    if before is None:
        return now
    counts = [max(0, late - early) for late, early in zip(now.counts, before.counts, strict=True)]
    return Histogram(now.bounds, counts, now.sum - before.sum, now.max)


def _latency(name: str, whole: Histogram, recent: Histogram | None) -> Latency:
    is_told = recent is not None and recent.count > 0
    return Latency(
        name=name,
        count=whole.count,
        p50=whole.quantile(0.5),
        p99=whole.quantile(0.99),
        max=whole.max,
        recent=None if recent is None else recent.count,
        recent_p50=recent.quantile(0.5) if is_told and recent is not None else None,
        recent_p99=recent.quantile(0.99) if is_told and recent is not None else None,
    )


class PositionPace:
    """The looks at the end of one log, from beside its engine."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._rates: Rates | None = None

    def look(self, at: float, position: int) -> Rates | None:
        """Take a position; give how fast it moves, None at the first look."""
        if self._last is None:
            self._last = at, position
        elif (seconds := at - self._last[0]) >= LOOK_SECONDS:
            events = max(0, position - self._last[1]) / seconds
            self._rates = Rates(seconds=seconds, events=events)
            self._last = at, position
        return self._rates
