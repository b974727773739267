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
from typing import Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import msgspec
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from ..statistics import SECONDS, SIZES, EngineStatistics, ServerStatistics, StoreStatistics
from ..telemetry import CommitBegan, LoadBegan, ProjectionBegan, QueryBegan

__all__ = ["DISTRIBUTIONS", "INSTRUMENTS", "Source", "measured", "measurer", "publish", "withdraw"]

Attributes: TypeAlias = Mapping[str, str | bool | int | float]
Measure: TypeAlias = Callable[[Mapping[str, str | int | float], Attributes, Context], None]
"""Records what is in the facts of something that has ended; its span is in the context."""
Reading: TypeAlias = tuple[int | float, Attributes]
Read: TypeAlias = Callable[[EngineStatistics], Iterable[Reading]]


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


class _Instrument(msgspec.Struct, frozen=True):
    make: Literal["counter", "level", "gauge"]
    name: str
    unit: str
    description: str
    read: Read


class _Distribution(msgspec.Struct, frozen=True):
    began: type
    """What it is about."""
    fact: str
    """Under which its end tells the value."""
    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = SECONDS


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
        self, instrument: _Instrument
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


def _one(read: Callable[[EngineStatistics], int | float]) -> Read:
    return lambda numbers: [(read(numbers), {})]


def _by(label: str, read: Callable[[EngineStatistics], Mapping[str, int | float | None]]) -> Read:
    """Read numbers by name; what is not known is not told."""

    def readings(numbers: EngineStatistics) -> Iterator[Reading]:
        for name, number in read(numbers).items():
            if number is not None:
                yield number, {f"foldline.{label}": name}

    return readings


def _reactions(numbers: EngineStatistics) -> Iterator[Reading]:
    for name, projector in numbers.projectors.items():
        found = projector.reactions
        if found is not None:
            told = {"foldline.projection": name}
            yield found.receipts, {**told, "foldline.outcome": "receipt"}
            yield found.rejected, {**told, "foldline.outcome": "rejected"}
            yield found.waits, {**told, "foldline.outcome": "sent-again"}


def _projectors(
    read: Callable[[EngineStatistics, str], int | float | None],
) -> Read:
    return _by("projection", lambda n: {name: read(n, name) for name in n.projectors})


def _states(numbers: EngineStatistics) -> Iterator[Reading]:
    for name, projector in numbers.projectors.items():
        for state in ("catching-up", "live", "stopped", "closed"):
            yield (
                int(projector.state == state),
                {"foldline.projection": name, "foldline.state": state},
            )


def _queries(numbers: EngineStatistics) -> Iterator[Reading]:
    for name, query in numbers.queries.items():
        for outcome in ("answered", "lagged", "failed"):
            told = {"foldline.query": name, "foldline.outcome": outcome}
            yield getattr(query, outcome), told


def _server(read: Callable[[ServerStatistics], int | float]) -> Read:
    return lambda numbers: [] if numbers.server is None else [(read(numbers.server), {})]


def _store(read: Callable[[StoreStatistics], int]) -> Read:
    return lambda numbers: [] if numbers.store is None else [(read(numbers.store), {})]


_INTAKE: Final = [
    _Instrument(
        "counter",
        "commands.answered",
        "{command}",
        "Answered commands by the class of their answer",
        _by("answer", lambda n: n.commands.answers),
    ),
    _Instrument(
        "counter",
        "commands.overloaded",
        "{command}",
        "Commands that were turned away because something was full",
        _one(lambda n: n.commands.overloaded),
    ),
    _Instrument(
        "level",
        "commands.open",
        "{command}",
        "Accepted commands without an answer yet",
        _one(lambda n: n.commands.open),
    ),
    _Instrument(
        "level",
        "aggregates.resident",
        "{aggregate}",
        "Aggregates in memory",
        _one(lambda n: n.aggregates.resident),
    ),
    _Instrument(
        "counter",
        "aggregates.loaded",
        "{aggregate}",
        "Aggregates that were loaded",
        _one(lambda n: n.aggregates.loaded),
    ),
    _Instrument(
        "counter",
        "aggregates.passivated",
        "{aggregate}",
        "Aggregates that left memory",
        _one(lambda n: n.aggregates.passivated),
    ),
]

_JOURNAL: Final = [
    _Instrument(
        "gauge",
        "position",
        "{event}",
        "Position of the last durable event",
        _one(lambda n: n.position),
    ),
    _Instrument(
        "level",
        "timers.waiting",
        "{timer}",
        "Timers that stand and are not parked",
        _one(lambda n: n.timers.waiting),
    ),
    _Instrument(
        "level",
        "timers.parked",
        "{timer}",
        "Timers that are set aside, since their commands failed too often",
        _one(lambda n: n.timers.parked),
    ),
    _Instrument(
        "gauge",
        "timers.lag",
        "s",
        "How long the oldest timer is due that is not answered",
        _one(lambda n: n.timers.lag_seconds),
    ),
    _Instrument(
        "counter",
        "timers.fired",
        "{timer}",
        "Timers whose commands were answered",
        _one(lambda n: n.timers.fired),
    ),
    _Instrument(
        "counter",
        "timers.failed",
        "{timer}",
        "Attempts at the commands of timers that failed",
        _one(lambda n: n.timers.failed),
    ),
    _Instrument(
        "counter", "events", "{event}", "Events committed", _one(lambda n: n.journal.events)
    ),
    _Instrument(
        "counter",
        "journal.bytes",
        "By",
        "Payloads and metadata committed",
        _one(lambda n: n.journal.bytes),
    ),
    _Instrument(
        "level",
        "journal.undurable",
        "{event}",
        "Events that gather for the next commit",
        _one(lambda n: n.journal.undurable_events),
    ),
    _Instrument(
        "counter",
        "journal.conflicts",
        "{command}",
        "Decisions that lost against another writer",
        _one(lambda n: n.journal.conflicts),
    ),
    _Instrument(
        "counter",
        "journal.voided",
        "{command}",
        "Decisions dropped because an earlier one was not stored",
        _one(lambda n: n.journal.voided),
    ),
    _Instrument(
        "gauge",
        "store.file.size",
        "By",
        "The log's file",
        _store(lambda store: store.file_bytes),
    ),
    _Instrument(
        "gauge",
        "store.wal.size",
        "By",
        "Its write-ahead log",
        _store(lambda store: store.wal_bytes),
    ),
    _Instrument(
        "counter",
        "store.wal.folds",
        "{fold}",
        "Times that it was folded into the file",
        _store(lambda store: store.wal_merges),
    ),
]

_SERVER: Final = [
    _Instrument(
        "counter",
        "store.server.reconnects",
        "{connection}",
        "Connections made in place of the one that writes, as it broke",
        _server(lambda server: server.reconnects),
    ),
    _Instrument(
        "counter",
        "store.server.batches.found",
        "{batch}",
        "Batches whose answer was lost, and that the log had",
        _server(lambda server: server.batches_found),
    ),
    _Instrument(
        "counter",
        "store.server.batches.sent_again",
        "{batch}",
        "Batches whose answer was lost, and that the log had not",
        _server(lambda server: server.batches_sent_again),
    ),
    _Instrument(
        "counter",
        "store.server.renewals.failed",
        "{renewal}",
        "Times that the lease could not be renewed",
        _server(lambda server: server.renewals_failed),
    ),
    _Instrument(
        "gauge",
        "store.server.lease.left",
        "s",
        "What is left of the lease by which the engine has the log",
        _server(lambda server: server.lease_seconds_left),
    ),
]

_READERS: Final = [
    _Instrument(
        "gauge",
        "projector.position",
        "{event}",
        "The last event in the views",
        _projectors(lambda n, name: n.projectors[name].position),
    ),
    _Instrument(
        "gauge",
        "projector.lag",
        "{event}",
        "Durable events that are not in the views",
        _projectors(lambda n, name: n.projectors[name].lag_events),
    ),
    _Instrument(
        "gauge",
        "projector.lag.duration",
        "s",
        "Age of the oldest of them",
        _projectors(lambda n, name: n.projectors[name].lag_seconds),
    ),
    _Instrument(
        "counter",
        "projector.events",
        "{event}",
        "Events folded",
        _projectors(lambda n, name: n.projectors[name].events),
    ),
    _Instrument(
        "counter",
        "projector.dropped",
        "{event}",
        "Events that the bus dropped and the feed brought",
        _projectors(lambda n, name: n.projectors[name].bus.dropped),
    ),
    _Instrument("gauge", "projector.state", "1", "1 for the state that it is in", _states),
    _Instrument(
        "counter",
        "reactor.commands",
        "{command}",
        "Commands of reactors by their outcome",
        _reactions,
    ),
    _Instrument("counter", "queries", "{query}", "Queries by how they ended", _queries),
    _Instrument(
        "counter",
        "telemetry.failures",
        "{failure}",
        "Times that the telemetry raised",
        _one(lambda n: n.telemetry_failures),
    ),
]

DISTRIBUTIONS: Final = (
    _Distribution(
        CommitBegan, "seconds", "commit.duration", "s", "Commits of batches to the store"
    ),
    _Distribution(
        CommitBegan, "committed_events", "commit.events", "{event}", "Events of commits", SIZES
    ),
    _Distribution(LoadBegan, "seconds", "load.duration", "s", "Loads of groups of aggregates"),
    _Distribution(
        ProjectionBegan, "seconds", "projector.batch.duration", "s", "Batches of projectors"
    ),
    _Distribution(QueryBegan, "seconds", "query.duration", "s", "Queries, also those that failed"),
    _Distribution(QueryBegan, "wait_seconds", "query.wait.duration", "s", "Waits for `at=`"),
)

INSTRUMENTS: Final = (*_INTAKE, *_JOURNAL, *_SERVER, *_READERS)
