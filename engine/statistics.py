"""What an engine tells about itself: one struct per station of the walk, taken at one moment.

Rules: counts are since the start, levels are as they are now, and both are plain numbers that may
be read from another thread at any time. Nothing here reads a clock or holds an id: the names in it
are those of the code (projections, queries, answer classes), so there is a bounded number of them.
What a station counts per command is an addition; only batches, loads and queries are measured with
a stopwatch. This file does nothing with the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from . import errors
from .histogram import Histogram

__all__ = [
    "BuildProgress",
    "DirectoryStatistics",
    "EngineStatistics",
    "IntakeStatistics",
    "JournalStatistics",
    "LiveStatistics",
    "MembershipStatistics",
    "ProjectionFailure",
    "ProjectorState",
    "ProjectorStatistics",
    "QueryStatistics",
    "ReactionStatistics",
    "StoreStatistics",
    "SubscriptionStatistics",
    "TimerStatistics",
    "answer_class",
]


def answer_class(error: type[BaseException]) -> str:
    """Give the name of an answer that is an error: "rejected", "wrong-version" and so on.

    It is the engine's own class, so that a user's subclass adds no name: there are few.
    """
    known = next((cls for cls in error.__mro__ if cls.__module__ == errors.__name__), error)
    return re.sub(r"(?<=.)([A-Z])", r"-\1", known.__name__).lower()


class IntakeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Commands at the door. `accepted` is `open` and `answered` together."""

    accepted: int
    """Commands that were let in since the start."""
    open: int
    """Accepted commands that have no answer yet."""
    answered: int
    answers: Mapping[str, int]
    """By class, each answered command in exactly one. "receipt" is a command that was run,
    "repeated-key" the receipt of an earlier one. "cancelled" means that its caller left before it
    was run. Errors are "rejected", "conflict", "voided", "wrong-version", "handler-failed",
    "outcome-unknown" …"""
    overloaded: int
    """Commands that were turned away because something was full; they were never accepted."""


class DirectoryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Aggregates in memory."""

    resident: int
    """Aggregates in memory now."""
    loaded: int
    """Aggregates that came into memory since the start."""
    passivated: int
    """Aggregates that left memory, to make room for others or because they were idle."""
    restored: int
    """Of the loaded ones: from a snapshot and the events after it."""
    distrusted: int
    """Snapshots that did not fit, so that the stream was folded from its beginning."""
    bytes_each: int
    """What one resident aggregate holds (actor, state, keys): an estimate from a few of them."""
    load_seconds: Histogram
    """Of a group of cold aggregates that were read together: from the read to the last fold."""


class SnapshotStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshots on their way to the store."""

    written: int
    """Snapshots that the store has taken."""
    dropped: int
    """Not written, because too many waited or the store refused."""


class JournalStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The writer. A commit is a batch that the store has answered."""

    commits: int
    """Batches since the start."""
    events: int
    """Events committed."""
    bytes: int
    """Their payloads and metadata."""
    undurable_events: int
    """Events that gather for the next commit."""
    undurable_bytes: int
    """Their payloads and metadata."""
    conflicts: int
    """Decisions that lost against another writer."""
    voided: int
    """Decisions that were dropped because an earlier one of their stream, or their batch, was not
    stored."""
    commit_seconds: Histogram
    """From closing the batch to its answer by the store."""
    batch_events: Histogram
    """Events that a commit added."""


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store in files knows of them."""

    file_bytes: int
    """Size of the log's file."""
    wal_bytes: int
    """Size of its write-ahead log."""
    wal_merges: int
    """How often the write-ahead log was merged into the file since the start."""
    wal_merges_put_off: int
    """How often a reader was in the way."""
    free_bytes: int | None = None
    """What is free on the disk of the log; None if the disk does not say."""


class ServerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store in a server knows of it, since the start."""

    reconnects: int
    """Connections that were made in place of the one that writes, as it broke."""
    batches_found: int
    """Batches whose answer was lost, and that the log had."""
    batches_sent_again: int
    """Batches whose answer was lost, and that the log had not."""
    renewals_failed: int
    """Times that the lease could not be renewed, as the server was away."""
    lease_seconds_left: float
    """Of the lease by which this engine has the log; below 0 another engine may take it."""


class TimerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Timers. Counts are since the start."""

    waiting: int
    """Timers that stand, those included that are due, and without those that are parked."""
    due: int
    """Timers that are due and not answered, as far as they have been read."""
    lag_seconds: float
    """How long the oldest of these is due."""
    fired: int
    """Timers whose commands were answered."""
    rejected: int
    """Of these, rejected by the domain."""
    failed: int
    """Attempts that failed, and were or will be made again."""
    parked: int
    """Timers that are set aside now, since their commands failed too often."""
    late_seconds: Histogram
    """Of those fired: from the time for which they were set to the answer."""


class SubscriptionStatistics(msgspec.Struct, frozen=True):
    """Numbers of one subscription to the bus."""

    waiting: int
    """Events that wait now."""
    taken: int
    """Events that were taken."""
    dropped: int
    """Events that were dropped because too many waited; the feed has them."""
    overflows: int
    """How often that happened."""


ProjectorState = Literal[
    "catching-up", "live", "retrying", "stopped", "paused", "building", "elsewhere", "closed"
]
"""Behind the log; at its end; waiting to try again after a failure that may pass; stopped by a
failure; paused by somebody; serving as its former version left it while the new one is built; run
by another process that shares the log, or just now by none; ended."""


class ProjectionFailure(msgspec.Struct, frozen=True):
    """Why a projector stopped, or what it tries again."""

    position: int
    """Of the event that could not be folded; of the checkpoint where no event is to blame."""
    event: str
    """Its name and version, as "order-created v1"; empty where no event is to blame."""
    stream: str
    """`kind:id` of its aggregate; empty where no event is to blame."""
    cause: str
    """The traceback, without the values that were in messages and variables."""


class ReactionStatistics(msgspec.Struct, kw_only=True):
    """What a reactor has done since the start."""

    sent: int = 0
    """Commands that it has sent, those included that were sent again."""
    receipts: int = 0
    """Commands that were executed; also those whose key had been executed before."""
    rejected: int = 0
    """Commands that the domain has rejected."""
    waits: int = 0
    """Times that a command was sent again later, as the engine had no room or it was voided."""


class ProjectorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one projector; counts are since the start."""

    name: str
    """The projection's."""
    state: ProjectorState
    """What it does at this moment."""
    position: int
    """The last event that is in the views."""
    lag_events: int | None
    """Durable events that are not in the views yet; None if the end of the log is not known."""
    lag_seconds: float | None
    """Age of the oldest of these, by `recorded` and the engine's clock; None before it was read."""
    events: int
    """Events folded; those that the projection does not handle are not among them."""
    transactions: int
    """Batches that it has written."""
    batch_seconds: Histogram
    """To fold and write one batch."""
    batch_events: Histogram
    """Events that a batch moved the checkpoint over."""
    pages: int
    """Pages read from the feed."""
    fetches: int
    """Times that rows were not in memory."""
    rows: int
    """Rows in memory."""
    bus: SubscriptionStatistics
    """Of the events that wait for it."""
    failure: ProjectionFailure | None
    """Why it stopped, if it has."""
    retries: int = 0
    """Failures after which it tried again by itself."""
    retrying: ProjectionFailure | None = None
    """What it tries again at present, if it does; with its checkpoint, and no event."""
    parked: int = 0
    """Events set aside."""
    slices: int = 1
    """Projectors that share its keys; what is above is their sum, or the worst of them."""
    building: BuildProgress | None = None
    """How far a build beside the one that serves has come."""
    reactions: ReactionStatistics | None = None
    """Of a reactor; None for what is none."""


class BuildProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A build of a projection on its way to serve."""

    number: int
    """Of the build, counted per projection."""
    version: int
    """Of the projection that is built."""
    state: ProjectorState
    """What its projectors do at this moment."""
    position: int
    """The last event that is in its tables."""
    lag_events: int
    """Durable events that are not."""
    events_per_second: float
    """Positions that it passed in the last seconds."""
    seconds_left: float | None
    """Until it has caught up at this speed; None where it does not move."""
    failure: ProjectionFailure | None
    """Why it stopped, if it has."""
    retrying: ProjectionFailure | None = None
    """What it tries again at present, if it does."""


class QueryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one type of query."""

    answered: int
    """Answers that were given."""
    lagged: int
    """Asked `at` a position that the views did not reach in time."""
    failed: int
    """The answer raised, ran out of time, or its caller was cancelled."""
    seconds: Histogram
    """From asking to the answer or the failure, `at=` waited for."""
    wait_seconds: Histogram
    """Of this the wait for `at=`, where it was asked."""

    def plus(self, other: QueryStatistics) -> QueryStatistics:
        """Give the numbers of both together."""
        seconds, wait_seconds = self.seconds.copy(), self.wait_seconds.copy()
        seconds.add(other.seconds)
        wait_seconds.add(other.wait_seconds)
        return QueryStatistics(
            answered=self.answered + other.answered,
            lagged=self.lagged + other.lagged,
            failed=self.failed + other.failed,
            seconds=seconds,
            wait_seconds=wait_seconds,
        )


class LiveStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Queries that are watched; the asks are among those of `QueryStatistics` too."""

    queries: int
    """Different ones."""
    watchers: int
    """Watchers of them."""
    due: int
    """Those whose rows have changed, and that wait for their turn to be asked."""
    asks: int
    """Times that an answer was asked for."""
    unchanged: int
    """Asks that brought the answer that was there already, which nobody was given again."""
    torn: int
    """Asks that may have seen two states of the views, and were asked again."""


class OwnerStatistics(msgspec.Struct, frozen=True):
    """Another owner of the log, as this process knows it."""

    slots: int
    """Of 256, by the view of this process."""
    views_behind: int
    """How many views it has not heeded yet; 0 where it acts by the one that stands."""
    lease_seconds_left: float
    """Of its lease, when the members were looked at last."""
    waiting: int
    """Commands that this process has sent to it, and that have no answer yet."""
    is_connected: bool
    """Whether commands can be sent to it now."""


class SpreadStatistics(msgspec.Struct, frozen=True):
    """One process's part in the deciding, where several own a log (`Engine(join="spread")`)."""

    member: int
    """The number by which it stands among the owners; 0 while it is none."""
    view: int
    """The number of the members by which it acts."""
    slots: int
    """Of 256, that are its own by this view."""
    slots_ready: int
    """Those of them for which it decides; the others wait until all have seen the view."""
    lease_seconds_left: float
    """Until others may have declared it dead, by its own clock; 0 where that may be so."""
    decided: int
    """Commands that its own engine has answered, of callers here and of other owners."""
    forwarded: int
    """Commands that were sent to another owner."""
    moved: int
    """Times that a command went another way, since its aggregate had moved; callers see none."""
    owners: Mapping[int, OwnerStatistics]
    """The others, by their numbers."""


class MembershipStatistics(msgspec.Struct, frozen=True):
    """One process's part in the ownership of a log (`Engine(join=True)`)."""

    role: str
    """"owner", "member", or "waiting" for a process that owns the log."""
    owner: int | None
    """The process that owns the log; None where that is not known."""
    owners_seen: int
    """How often this process has become the owner, or connected with one."""
    terms: int
    """How often it has become the owner."""
    forwarded: int
    """Commands that it has sent to an owner."""
    answers: Mapping[str, int] = {}
    """To commands that it gave to an owner, by class, as in `commands`, if it has a telemetry. The
    owner counts them too, among its own."""
    seconds: float = 0.0
    """From a command to its answer, of all of these together."""
    spread: SpreadStatistics | None = None
    """None without `join="spread"`."""
    member: int = 0
    """Its number among those that run projections (`share_projections=True`); 0 for none."""
    duties: tuple[str, ...] = ()
    """What it runs at this moment: projections, and as `balances/2` slices of one."""


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one engine, station by station."""

    state: str
    """"new", "running", "stopping", "stopped" or "failed"."""
    position: int
    """Position of the last durable event."""
    commands: IntakeStatistics
    """Commands at the door."""
    handlers_running: int
    """Async handlers at work, those included whose outcome nobody waits for any more."""
    aggregates: DirectoryStatistics
    """Aggregates in memory."""
    snapshots: SnapshotStatistics
    """Snapshots on their way to the store."""
    journal: JournalStatistics
    """The writer of the log."""
    store: StoreStatistics | None
    """None for a store that has no files."""
    server: ServerStatistics | None
    """None for a store that is in no server."""
    projectors: Mapping[str, ProjectorStatistics]
    """By the name of the projection."""
    queries: Mapping[str, QueryStatistics]
    """By the name of the query."""
    live: LiveStatistics
    """Queries that are watched."""
    timers: TimerStatistics
    """Commands for later."""
    loop_blocked: int
    """How often the event loop was blocked for longer than Limits.loop_blocked_ms."""
    telemetry_failures: int
    """How often the telemetry raised; the engine continued without it."""
    membership: MembershipStatistics | None = None
    """None without `join=True`. A member's other numbers are those of its own process."""
