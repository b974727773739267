"""What operators are given: structs that are the same from inside an engine and from beside it.

Rules: their names and fields are those of the console's API, version 1: they stay, and new ones may
be added. Times are µs since 1970-01-01 UTC. What people wrote (payloads, headers, values of claims,
states) is None for whoever may not see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..members.wire import Member
from ..statistics import BuildProgress, ProjectionFailure
from ..stores.contract.requests import Request
from ..stores.contract.views import Build

__all__ = [
    "Audit",
    "AuditEntry",
    "Claims",
    "Done",
    "Latency",
    "LogEntry",
    "LogPage",
    "Members",
    "Overview",
    "Rates",
    "Retained",
    "Sagas",
    "ShownChange",
    "ShownClaim",
    "ShownProjection",
    "ShownSaga",
    "ShownState",
    "ShownTimer",
    "StreamCount",
    "Timers",
]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened each second, between the last two looks."""

    seconds: float
    """Between the two looks."""
    events: float
    """Events that became durable."""
    commands: float | None = None
    """Commands that were answered; None from beside the engine, as below."""
    failures: float | None = None
    """Of these, neither receipts nor rejections."""
    queries: float | None = None
    """Answers to queries."""
    folded: float | None = None
    """Events that projections folded."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long a station takes, in seconds. Quantiles are at most 2.5 times too high."""

    name: str
    """"commit", "load", "timers late"; "query NAME" and "fold NAME" for one query or projection."""
    count: int
    """How often since the start."""
    p50: float
    """Half took no longer, since the start."""
    p99: float
    """All but each hundredth took no longer."""
    max: float
    """The longest one."""
    recent: int | None = None
    """How often between the last two looks; None at the first look."""
    recent_p50: float | None = None
    """Of those."""
    recent_p99: float | None = None
    """Of those."""


class StreamCount(msgspec.Struct, frozen=True):
    """A stream and a number."""

    stream: str
    """`kind:id` of the aggregate."""
    count: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine stands, in numbers."""

    state: str
    """"running", "stopping", "failed" and so on; "in use" or "at rest" from beside it."""
    position: int
    """Position of the last durable event."""
    recorded: int | None
    """When that was written; None for an empty log."""
    now: int
    """The clock of who answers, in µs."""
    process: int | None = None
    """The process that has the log open, if that is known."""
    rates: Rates | None = None
    """None at the first look."""
    latencies: Sequence[Latency] = ()
    """Of each station; nothing from beside the engine."""
    commands_open: int | None = None
    """Accepted commands that have no answer yet."""
    answers: Mapping[str, int] = {}
    """Answered commands since the start, by the class of their answer."""
    overloaded: int | None = None
    """Commands that were turned away, since the start."""
    undurable_events: int | None = None
    """Events that wait for the next commit."""
    resident: int | None = None
    """Aggregates in memory."""
    mailboxes: Sequence[StreamCount] = ()
    """The aggregates for which most commands wait, the fullest first."""
    hot: Sequence[StreamCount] = ()
    """The aggregates with most of the last `hot_of` events of the log."""
    hot_of: int = 0
    projections: int = 0
    """How many there are."""
    lag_events: int | None = 0
    """Of the projection that is furthest behind; None at a member whose owner does not answer."""
    lag_seconds: float | None = None
    """Age of the oldest event that is not in all views."""
    troubled: Sequence[str] = ()
    """Projections that are stopped, paused, or try something again."""
    parked: int | None = 0
    """Events set aside, of all projections; None as above."""
    timers_waiting: int | None = None
    """Timers that wait for their time."""
    timers_due: int | None = None
    """Timers that are due and not answered."""
    timers_parked: int | None = None
    """Timers that are set aside."""
    timers_lag_seconds: float | None = None
    """How long the oldest of those is due."""
    file_bytes: int | None = None
    """Size of the log's file."""
    wal_bytes: int | None = None
    """Size of its write-ahead log."""
    loop_blocked: int | None = None
    """How often the event loop was blocked."""
    role: str | None = None
    """"owner", "member" or "waiting" if several processes share the log."""


class ShownProjection(msgspec.Struct, frozen=True, kw_only=True):
    """How a projection stands."""

    name: str
    version: int | None
    """As it is declared; from beside the engine, the version that serves."""
    serving: int | None
    """The version whose tables serve queries."""
    state: str
    """"live", "catching-up", "building", "paused", "retrying", "stopped", "at-rest" …"""
    position: int
    """The last event that is in the views."""
    lag_events: int | None
    """Durable events that are not."""
    lag_seconds: float | None
    """Age of the oldest of these."""
    slices: int
    """Projectors that share its keys."""
    parked: int
    """Events set aside."""
    retries: int | None = None
    """Failures after which it tried again by itself."""
    failure: ProjectionFailure | None = None
    """Why it stopped, if it has."""
    retrying: ProjectionFailure | None = None
    """What it tries again at present."""
    building: BuildProgress | None = None
    """How far a build beside the one that serves has come."""
    builds: Sequence[Build] = ()
    """All sets of its tables."""
    requests: Sequence[Request] = ()
    """What was asked of it from beside the engine, and is not answered yet."""


class Done(msgspec.Struct, frozen=True):
    """What became of what an operator asked for."""

    state: str
    """"done"; "waiting" if an engine does it later; "unknown": look, and ask again."""
    text: str
    """In words."""


class Retained(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a rule of retention has done, or would do."""

    action: str
    """"archive" of streams, or "erase" of a person."""
    rule: str
    """In words, as it is kept with what was done."""
    subject: str | None = None
    """The person who is erased."""
    streams: int = 0
    """That were archived, or that have data of the person."""
    events: int = 0
    """That were archived."""
    bytes: int = 0
    """Of their payloads and metadata."""
    done: bool = True
    """Whether it was done: not for a dry run, nor for a person who got an open stream meanwhile."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the log."""

    position: int
    recorded: int = 0
    stream: str = ""
    version: int = 0
    name: str = ""
    """The stored name of its type."""
    event_version: int = 0
    key: str | None = None
    """Of its command, on the first event of that."""
    correlation: str | None = None
    causation: str | None = None
    principal: str | None = None
    """The sender of the command."""
    headers: Mapping[str, str] | None = None
    payload: msgspec.Raw | None = None
    """As JSON, as the event is today; personal data of who was erased is masked."""
    payload_bytes: int = 0
    """As it is stored. One above 16 KiB is left out of a page: ask with a limit of 1."""
    damaged: str | None = None
    """Why it cannot be read, if it cannot; then all but the position is missing."""


class LogPage(msgspec.Struct, frozen=True):
    """Events of the log, the newest first."""

    events: Sequence[LogEntry]
    older: int | None
    """Go on with `before` this position; None if nothing is left. There may be more to look through
    even if few events or none were found."""
    end: int
    """The last position of the log."""


class ShownState(msgspec.Struct, frozen=True):
    """An aggregate as it was at a version."""

    stream: str
    version: int
    state: msgspec.Raw
    """Its fields, as JSON."""


class ShownChange(msgspec.Struct, frozen=True):
    """What differs between two versions of an aggregate."""

    path: str
    """Fields, keys and places, as `lines.A@250.quantity`."""
    before: str | None
    """As JSON; None if it was not there."""
    after: str | None
    """As JSON; None if it is not there."""


class ShownTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A command that waits for its time."""

    stream: str
    name: str
    due: int
    command: str
    """The stored name of its class."""
    payload: msgspec.Raw | None = None
    """The command as JSON."""
    position: int
    """Of the event that set it."""
    next: int
    """When it is tried next."""
    attempts: int
    """How often it has failed."""
    parked: bool
    cause: str
    """Why it failed last."""


class Timers(msgspec.Struct, frozen=True):
    """Timers in the order of their streams and names."""

    timers: Sequence[ShownTimer]
    after: tuple[str, str] | None
    """Go on behind this stream and name; None if this is the last page."""


class ShownSaga(msgspec.Struct, frozen=True, kw_only=True):
    """An instance of a process manager."""

    stream: str
    """`kind:id` of the instance."""
    version: int
    position: int
    """Of its last event."""
    event: str
    """The stored name of that."""
    recorded: int
    """When it was written."""
    timers: Sequence[ShownTimer] = ()
    """What it waits for, by name; 50 at most."""
    commands: Sequence[ShownTimer] = ()
    """Commands that it gave and that are not answered yet, timers and these 50 at most."""
    state: msgspec.Raw | None = None
    """Its fields, as JSON."""


class Sagas(msgspec.Struct, frozen=True):
    """Instances of process managers, the one that moved last first."""

    sagas: Sequence[ShownSaga]
    older: int | None
    """Go on with `before` this position; None if nothing is left. There may be more to look through
    even if few or none were found."""
    note: str = ""
    """Why there are none, if that is not because none moved."""


class ShownClaim(msgspec.Struct, frozen=True):
    """A unique value that an aggregate holds."""

    name: str
    value: str
    stream: str
    position: int
    """Of the event that took it."""


class Claims(msgspec.Struct, frozen=True):
    """Claims in the order of their names and values."""

    claims: Sequence[ShownClaim]
    after: tuple[str, str] | None
    """Go on behind this name and value; None if this is the last page."""


class Members(msgspec.Struct, frozen=True):
    """The processes that share a log."""

    members: Sequence[Member]
    note: str = ""
    """Why there are none."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did."""

    at: int
    action: str
    """"pause", "skip", "erase", "archive" and so on."""
    target: str
    """The projection, the person who was erased, or the rule by which streams were archived."""
    principal: str | None
    """The operator, if that was said."""
    reason: str
    position: int | None = None
    """Of the event that is skipped, or the last one that was archived."""
    version: int | None = None
    """Of the projection."""


class Audit(msgspec.Struct, frozen=True):
    """What operators did, the newest first."""

    entries: Sequence[AuditEntry]
    total: int
