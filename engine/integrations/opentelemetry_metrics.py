"""The statistics of engines as OpenTelemetry instruments, and its histograms of what it timed.

Rules: counts and levels are observable, so that the engine pays nothing for them until a reader
asks, in its own thread; all numbers of one collection come from one call of `statistics()`. There
is no observable histogram, and buckets that the engine has filled cannot be given to the API. So a
histogram of the SDK gets each value by itself, in the event loop, when a batch, load or query ends;
never per command. It gets the engine's bounds as advice: a view may choose others. The instruments
of a meter are made once and shared by the engines that are published on it, since a second
instrument of the same name would be read by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from ..statistics import EngineStatistics
from .opentelemetry_instruments import DISTRIBUTIONS, INSTRUMENTS, Attributes, Instrument

__all__ = ["DISTRIBUTIONS", "INSTRUMENTS", "Source", "measured", "measurer", "publish", "withdraw"]

Measure: TypeAlias = Callable[[Mapping[str, str | int | float], Attributes, Context], None]
"""Records what is in the facts of something that has ended; its span is in the context."""


class Source:
    """The numbers of one engine."""

    def __init__(self, statistics: Callable[[], EngineStatistics], attributes: Attributes) -> None:
        self.attributes = attributes
        self._statistics = statistics
        self._asked: set[str] = set()
        self._last: EngineStatistics | None = None

    def read(self, instrument: str) -> EngineStatistics:
        """Give the numbers: the same to all instruments, new ones to who asks again."""
        if self._last is None or instrument in self._asked:
            self._asked.clear()
            self._last = self._statistics()
        self._asked.add(instrument)
        return self._last


class _Published:
    """The instruments of one meter and the engines that they are read from."""

    def __init__(self, meter: Meter) -> None:
        # The meter is not kept: it keeps the instruments, and these keep this.
        self.sources: tuple[Source, ...] = ()
        makers = {
            "counter": meter.create_observable_counter,
            "level": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for instrument in INSTRUMENTS:
            makers[instrument.make](
                f"foldline.{instrument.name}",
                callbacks=[self._callback(instrument)],
                unit=instrument.unit,
                description=instrument.description,
            )
        self.histograms: dict[type, list[tuple[str, Histogram]]] = {}
        for each in DISTRIBUTIONS:
            made = meter.create_histogram(
                f"foldline.{each.name}",
                each.unit,
                each.description,
                explicit_bucket_boundaries_advisory=each.bounds,
            )
            self.histograms.setdefault(each.began, []).append((each.fact, made))

    def _callback(
        self, instrument: Instrument
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for source in self.sources:
                for number, attributes in instrument.read(source.read(instrument.name)):
                    yield Observation(number, {**source.attributes, **attributes})

        return observe


_published: Final[WeakKeyDictionary[Meter, _Published]] = WeakKeyDictionary()


def _published_on(meter: Meter) -> _Published:
    published = _published.get(meter)
    if published is None:
        published = _published[meter] = _Published(meter)
    return published


def publish(meter: Meter, source: Source) -> None:
    """Let an engine's numbers be read on this meter until `withdraw`."""
    published = _published_on(meter)
    # A new tuple, so that a collection in another thread goes on over the old one.
    published.sources = (*published.sources, source)


def measured() -> frozenset[type]:
    """Give what has a value in a histogram when it ends."""
    return frozenset(each.began for each in DISTRIBUTIONS)


def measurer(meter: Meter, began: type) -> Measure:
    """Give what records the end of such a thing into the histograms of a meter."""
    histograms = _published_on(meter).histograms[began]

    def measure(
        facts: Mapping[str, str | int | float], attributes: Attributes, context: Context
    ) -> None:
        for fact, histogram in histograms:
            value = facts.get(fact)
            if value is not None:
                assert not isinstance(value, str), f"{fact} is a number"
                histogram.record(value, attributes, context=context)

    return measure


def withdraw(meter: Meter, source: Source) -> None:
    """Let them be read no more."""
    published = _published[meter]
    published.sources = tuple(other for other in published.sources if other is not source)
