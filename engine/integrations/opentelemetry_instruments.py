"""The table of what an engine publishes by OpenTelemetry: each instrument, and how it is read.

Rules: a name, once published, stays, since dashboards and alarms have it. Attributes are names of
the code. A process that only shares a log of another one publishes nothing of projections and
timers: the owner does. Nothing here calls the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, get_args

import msgspec

from ..histogram import SECONDS, SIZES
from ..statistics import (
    EngineStatistics,
    ProjectorState,
    ProjectorStatistics,
    ServerStatistics,
    StoreStatistics,
    TimerStatistics,
)
from ..telemetry import CommitBegan, LoadBegan, ProjectionBegan, QueryBegan
from .opentelemetry_membership import MEMBERSHIP
from .opentelemetry_shapes import Attributes, Instrument, Read, Reading, by, one

__all__ = ["DISTRIBUTIONS", "INSTRUMENTS", "Attributes", "Distribution", "Instrument", "Read"]


class Distribution(msgspec.Struct, frozen=True):
    """A histogram."""

    began: type
    """What it is about."""
    fact: str
    """Under which its end tells the value."""
    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = SECONDS


def _reactions(numbers: EngineStatistics) -> Iterator[Reading]:
    for name, projector in numbers.projectors.items():
        found = projector.reactions
        if found is not None:
            told = {"foldline.projection": name}
            yield found.receipts, {**told, "foldline.outcome": "receipt"}
            yield found.rejected, {**told, "foldline.outcome": "rejected"}
            yield found.waits, {**told, "foldline.outcome": "sent-again"}


def _is_idle(numbers: EngineStatistics) -> bool:
    """Tell whether another process folds and fires: its numbers are the ones, and ours are none."""
    return numbers.membership is not None and numbers.membership.role != "owner"


def _run_here(numbers: EngineStatistics) -> Mapping[str, ProjectorStatistics]:
    """Give the projectors of this process: what members run, each of them tells for itself."""
    if numbers.membership is not None and numbers.membership.member:
        found = numbers.projectors
        return {name: one for name, one in found.items() if one.state != "elsewhere"}
    return {} if _is_idle(numbers) else numbers.projectors


def _projectors(
    read: Callable[[EngineStatistics, str], int | float | None],
) -> Read:
    def of_all(numbers: EngineStatistics) -> Mapping[str, int | float | None]:
        return {name: read(numbers, name) for name in _run_here(numbers)}

    return by("projection", of_all)


def _timers(read: Callable[[TimerStatistics], int | float]) -> Read:
    return lambda numbers: [] if _is_idle(numbers) else [(read(numbers.timers), {})]


def _life(numbers: EngineStatistics) -> Iterator[Reading]:
    for state in ("running", "stopping", "failed"):
        yield int(numbers.state == state), {"foldline.state": state}


def _states(numbers: EngineStatistics) -> Iterator[Reading]:
    for name, projector in _run_here(numbers).items():
        for state in get_args(ProjectorState):
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


def _disk(numbers: EngineStatistics) -> Iterator[Reading]:
    if numbers.store is not None and numbers.store.free_bytes is not None:
        yield numbers.store.free_bytes, {}


_NONE_YET: Final = {"outcome-unknown": 0, "stream-unreadable": 0}
"""What is published before it happens: who watches a number grow never sees one begin with 1."""
_INTAKE: Final = [
    Instrument(
        "counter",
        "commands.answered",
        "{command}",
        "Answered commands by the class of their answer",
        by("answer", lambda n: {**_NONE_YET, **n.commands.answers}),
    ),
    Instrument(
        "counter",
        "commands.overloaded",
        "{command}",
        "Commands that were turned away because something was full",
        one(lambda n: n.commands.overloaded),
    ),
    Instrument(
        "level",
        "commands.open",
        "{command}",
        "Accepted commands without an answer yet",
        one(lambda n: n.commands.open),
    ),
    Instrument(
        "level",
        "aggregates.resident",
        "{aggregate}",
        "Aggregates in memory",
        one(lambda n: n.aggregates.resident),
    ),
    Instrument(
        "counter",
        "aggregates.loaded",
        "{aggregate}",
        "Aggregates that were loaded",
        one(lambda n: n.aggregates.loaded),
    ),
    Instrument(
        "counter",
        "aggregates.passivated",
        "{aggregate}",
        "Aggregates that left memory",
        one(lambda n: n.aggregates.passivated),
    ),
]

_JOURNAL: Final = [
    Instrument(
        "gauge",
        "position",
        "{event}",
        "Position of the last durable event",
        one(lambda n: n.position),
    ),
    Instrument(
        "level",
        "timers.waiting",
        "{timer}",
        "Timers that stand and are not parked",
        _timers(lambda timers: timers.waiting),
    ),
    Instrument(
        "level",
        "timers.parked",
        "{timer}",
        "Timers that are set aside, since their commands failed too often",
        _timers(lambda timers: timers.parked),
    ),
    Instrument(
        "gauge",
        "timers.lag",
        "s",
        "How long the oldest timer is due that is not answered",
        _timers(lambda timers: timers.lag_seconds),
    ),
    Instrument(
        "counter",
        "timers.fired",
        "{timer}",
        "Timers whose commands were answered",
        _timers(lambda timers: timers.fired),
    ),
    Instrument(
        "counter",
        "timers.failed",
        "{timer}",
        "Attempts at the commands of timers that failed",
        _timers(lambda timers: timers.failed),
    ),
    Instrument("counter", "events", "{event}", "Events committed", one(lambda n: n.journal.events)),
    Instrument(
        "counter",
        "journal.bytes",
        "By",
        "Payloads and metadata committed",
        one(lambda n: n.journal.bytes),
    ),
    Instrument(
        "level",
        "journal.undurable",
        "{event}",
        "Events that gather for the next commit",
        one(lambda n: n.journal.undurable_events),
    ),
    Instrument(
        "counter",
        "journal.conflicts",
        "{command}",
        "Decisions that lost against another writer",
        one(lambda n: n.journal.conflicts),
    ),
    Instrument(
        "counter",
        "journal.voided",
        "{command}",
        "Decisions dropped because an earlier one was not stored",
        one(lambda n: n.journal.voided),
    ),
    Instrument(
        "gauge",
        "store.file.size",
        "By",
        "The log's file",
        _store(lambda store: store.file_bytes),
    ),
    Instrument(
        "gauge",
        "store.wal.size",
        "By",
        "Its write-ahead log",
        _store(lambda store: store.wal_bytes),
    ),
    Instrument("gauge", "store.disk.free", "By", "What is free on the log's disk", _disk),
    Instrument(
        "counter",
        "store.wal.folds",
        "{fold}",
        "Times that it was folded into the file",
        _store(lambda store: store.wal_merges),
    ),
]

_SERVER: Final = [
    Instrument(
        "counter",
        "store.server.reconnects",
        "{connection}",
        "Connections made in place of the one that writes, as it broke",
        _server(lambda server: server.reconnects),
    ),
    Instrument(
        "counter",
        "store.server.batches.found",
        "{batch}",
        "Batches whose answer was lost, and that the log had",
        _server(lambda server: server.batches_found),
    ),
    Instrument(
        "counter",
        "store.server.batches.sent_again",
        "{batch}",
        "Batches whose answer was lost, and that the log had not",
        _server(lambda server: server.batches_sent_again),
    ),
    Instrument(
        "counter",
        "store.server.renewals.failed",
        "{renewal}",
        "Times that the lease could not be renewed",
        _server(lambda server: server.renewals_failed),
    ),
    Instrument(
        "gauge",
        "store.server.lease.left",
        "s",
        "What is left of the lease by which the engine has the log",
        _server(lambda server: server.lease_seconds_left),
    ),
]

_READERS: Final = [
    Instrument(
        "gauge",
        "projector.position",
        "{event}",
        "The last event in the views",
        _projectors(lambda n, name: n.projectors[name].position),
    ),
    Instrument(
        "gauge",
        "projector.lag",
        "{event}",
        "Durable events that are not in the views",
        _projectors(lambda n, name: n.projectors[name].lag_events),
    ),
    Instrument(
        "gauge",
        "projector.lag.duration",
        "s",
        "Age of the oldest of them",
        _projectors(lambda n, name: n.projectors[name].lag_seconds),
    ),
    Instrument(
        "counter",
        "projector.events",
        "{event}",
        "Events folded",
        _projectors(lambda n, name: n.projectors[name].events),
    ),
    Instrument(
        "counter",
        "projector.dropped",
        "{event}",
        "Events that the bus dropped and the feed brought",
        _projectors(lambda n, name: n.projectors[name].bus.dropped),
    ),
    Instrument(
        "gauge", "projector.state", "{projection}", "1 for the state that it is in", _states
    ),
    Instrument(
        "level",
        "projector.parked",
        "{event}",
        "Events that are set aside",
        _projectors(lambda n, name: n.projectors[name].parked),
    ),
    Instrument(
        "counter",
        "reactor.commands",
        "{command}",
        "Commands of reactors by their outcome",
        _reactions,
    ),
    Instrument("counter", "queries", "{query}", "Queries by how they ended", _queries),
    Instrument(
        "counter",
        "telemetry.failures",
        "{failure}",
        "Times that the telemetry raised",
        one(lambda n: n.telemetry_failures),
    ),
]

DISTRIBUTIONS: Final = (
    Distribution(CommitBegan, "seconds", "commit.duration", "s", "Commits of batches to the store"),
    Distribution(
        CommitBegan, "committed_events", "commit.events", "{event}", "Events of commits", SIZES
    ),
    Distribution(LoadBegan, "seconds", "load.duration", "s", "Loads of groups of aggregates"),
    Distribution(
        ProjectionBegan, "seconds", "projector.batch.duration", "s", "Batches of projectors"
    ),
    Distribution(QueryBegan, "seconds", "query.duration", "s", "Queries, also those that failed"),
    Distribution(QueryBegan, "wait_seconds", "query.wait.duration", "s", "Waits for `at=`"),
)

_PROCESS: Final = [
    Instrument("gauge", "state", "{engine}", "1 for the state that it is in", _life),
    Instrument(
        "counter",
        "loop.blocked",
        "{block}",
        "Times that the event loop was blocked for too long",
        one(lambda n: n.loop_blocked),
    ),
]

INSTRUMENTS: Final = (*_PROCESS, *MEMBERSHIP, *_INTAKE, *_JOURNAL, *_SERVER, *_READERS)
