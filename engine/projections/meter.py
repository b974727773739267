"""What the batches of one projector took: for its statistics, and for a telemetry that looks on.

Rules: a batch is measured from its folding until it is written, and each has one end. Of a batch
that is not written the statistics know nothing. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..histogram import Histogram
from ..model.stored import StoredEvent
from ..runtime.ports import Ports
from ..telemetry import Observer, ProjectionBegan

__all__ = ["Measured", "Meter"]


class Meter:
    """The figures of all batches since the start."""

    def __init__(
        self, projection: str, watch: Observer | None, stopwatch: Callable[[], float]
    ) -> None:
        self.seconds = Histogram.of_seconds()
        self.events = Histogram.of_sizes()
        self.pages = 0
        """Of the log that were read."""
        self.oldest: int | None = None
        """When the first event that is not written yet was recorded."""
        self.watch = watch
        self.stopwatch = stopwatch
        self._projection = projection

    def saw(self, event: StoredEvent) -> None:
        """Note an event that is to be written."""
        self.oldest = self.oldest or event.recorded

    def age(self, ports: Ports, waiting: int | None) -> float | None:
        """Give the age in seconds of the first event that is not in the views, if it was seen.

        `waiting` is when the first event on the bus was recorded.
        """
        oldest = self.oldest or waiting
        return None if oldest is None else max(0, ports.clock.now() - oldest) / 1e6

    def begin(self, events: Sequence[StoredEvent]) -> Measured:
        """Begin to measure a batch."""
        begin, watch = self.stopwatch(), self.watch
        if watch is None:
            return Measured(self, begin, None)
        return Measured(self, begin, watch.begin(ProjectionBegan(self._projection, tuple(events))))


class Measured:
    """One batch under way."""

    def __init__(self, meter: Meter, begin: float, seen: Any) -> None:
        self._meter = meter
        self._begin = begin
        self._seen = seen

    def written(self, events: int, position: int, poison: Exception | None) -> None:
        """It is written, with so many events, and queries see this position."""
        meter = self._meter
        meter.oldest = None
        seconds = meter.stopwatch() - self._begin
        meter.seconds.record(seconds)
        meter.events.record(events)
        if meter.watch is not None:
            facts = {"projected_events": events, "position": position}
            meter.watch.end(self._seen, poison, seconds=seconds, **facts)

    def end(self, error: BaseException | None) -> None:
        """It is not written, or there was nothing to write."""
        if self._meter.watch is not None:
            self._meter.watch.end(self._seen, error)
