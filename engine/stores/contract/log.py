"""What every store keeps and promises, and the one function that decides what a batch may append.

A store keeps a log: events as bytes and numbers, in streams, in one global order. Rules:

- Positions are 1, 2, 3 … without holes; a reader at n has seen all before n, and nothing appears
  there later. A failed batch burns none. The store gives positions; nobody else does.
- (stream, version) is unique, and versions of a stream are 1, 2, 3 …, by the store's own schema.
- One request is appended whole or not at all, its events next to each other, and its extras with
  them: the claims that it takes and releases (`claims`), the timers that it sets, drops and has
  fired (`timers`). Events are found by their tags (`tags`), from their append on.
- A request that does not fit its streams is answered `Conflict`, and so is every later request of
  the batch that touches one of its streams: they were decided on events that do not exist. The
  other requests lose nothing. Likewise `ClaimTaken`, for a value that another stream holds,
  `TimerGone`, for the command of a timer that does not stand any more, and `TagsChanged`, for a
  condition by tags that does not hold.
- `append` returns when the events are durable, as far as the store promises durability at all.
- Every event that is read is compared with its checksum, and each page with its order.

A store never decodes a payload, never reads a clock, and never answers a request twice. All stores
pass `foldline.testing.conformance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from ...model.stored import EventData, EventType, Snapshot, StoredEvent, checksum_of
from .claims import (
    NO_CLAIMS,
    ClaimBook,
    ClaimChange,
    ClaimKey,
    ClaimTaken,
    HeldClaim,
    ReleaseClaim,
    TakeClaim,
)
from .membership import LedBy
from .tags import (
    NOTHING_CAME,
    Came,
    Condition,
    TagBook,
    TagForm,
    TagPage,
    TagRead,
    TagRow,
    TagsChanged,
    Unchanged,
)
from .timers import (
    BEGINNING,
    NO_TIMERS,
    DropTimer,
    DuePlace,
    FiredTimer,
    SetTimer,
    SettledTimer,
    TimerBook,
    TimerGone,
    TimerKey,
    WaitingTimer,
)

if TYPE_CHECKING:
    from ...runtime.ports import Ports

__all__ = [
    "AppendRequest",
    "Appended",
    "Batch",
    "Committed",
    "Extra",
    "Head",
    "LogSource",
    "Outcome",
    "Plan",
    "Store",
    "StreamConflict",
    "StreamPage",
    "StreamRead",
    "Write",
    "claim_keys",
    "conditions_of",
    "fired_keys",
    "firsts_of",
    "plan",
]


class Write(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Events for one stream, decided at version `expected` of it; 0 is the empty stream."""

    stream: str
    """Printable text: a store need not take a NUL in it, nor half a surrogate pair."""
    expected: int
    events: Sequence[EventData]
    """None where it is only asked whether the stream is there; for a log with several owners."""


_OF_CLAIMS: Final = frozenset({TakeClaim, ReleaseClaim})
_OF_TIMERS: Final = frozenset({SetTimer, DropTimer, FiredTimer})
_NO_KINDS: Final = frozenset[type]()
Extra: TypeAlias = TakeClaim | ReleaseClaim | SetTimer | DropTimer | FiredTimer | Unchanged | LedBy
"""What is stored with the events of a request, or checked, in the same transaction."""


class AppendRequest(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is stored all or none: events for one stream or several, each stream named once."""

    writes: Sequence[Write]
    extras: Sequence[Extra] = ()
    """Claims, each named once; then who must lead; then the timer that was fired; then those set
    and dropped; then conditions by tags."""


class Batch(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The requests of one commit, in order."""

    requests: Sequence[AppendRequest]
    recorded: int
    """The engine's clock in µs; stored as it is, or as the last event's where it went back."""


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The request is durable. `position` is that of its last event; `versions` one per write."""

    position: int
    versions: tuple[int, ...]


class StreamConflict(msgspec.Struct, frozen=True, gc=False):
    """The request was not written: `stream` is at `actual`, or an earlier request of it failed."""

    stream: str
    expected: int
    actual: int


Outcome: TypeAlias = Appended | StreamConflict | ClaimTaken | TimerGone | TagsChanged


class Committed(msgspec.Struct, frozen=True, gc=False):
    """What an append did: one outcome per request, and the events it added, in order."""

    outcomes: Sequence[Outcome]
    events: Sequence[StoredEvent]
    timers: int = 0
    """How many timers more there are behind it; below 0 for fewer."""


class Head(msgspec.Struct, frozen=True):
    """The end of the log: its last event, or all zero where the log is empty."""

    position: int = 0
    checksum: int = 0
    recorded: int = 0


class StreamRead(msgspec.Struct, frozen=True):
    """Ask for the events of a stream after version `after`."""

    stream: str
    after: int = 0


class StreamPage(msgspec.Struct, frozen=True):
    """Events of one stream, in order; `more` when the page ended before the stream did."""

    stream: str
    events: Sequence[StoredEvent]
    more: bool


class LogSource(Protocol):
    """What the whole log is read from: a store, or a file that another process writes."""

    @property
    def log_id(self) -> str:
        """The log's random id."""
        ...

    async def head(self) -> Head:
        """Give the end of the log."""
        ...

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read as `Store.read_feed` does."""
        ...


class Store(Protocol):
    """The contract. One engine has a store open at a time.

    Reads raise Damaged for an event that does not match its checksum or is out of place, and
    StoreFailed where the store cannot be read.
    """

    @property
    def log_id(self) -> str:
        """The log's random id, made once when the log was; known after `open`."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what is acknowledged survives kill -9 and power loss."""
        ...

    async def open(self, ports: Ports) -> None:
        """Open or make the log.

        Raises StoreLocked when another engine has it, StoreRefused when it cannot be trusted.
        """
        ...

    async def close(self) -> None:
        """Close; a second call does nothing."""
        ...

    async def head(self) -> Head:
        """Give the end of the log."""
        ...

    async def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored, each written at its first use."""
        ...

    async def kinds(self) -> Sequence[str]:
        """Give the kinds of aggregates that the log has streams of, sorted; in little time."""
        ...

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, in one transaction, and return when it is durable.

        It may take long: a store whose server has gone waits for it. Before it answers, it finds
        out whether the batch is in the log. A caller that is cancelled leaves the batch whole in
        the log or out of it.

        Raises StoreFailed: with `written=False` nothing of the batch is in the log, and the store
        continues unless it has `stopped`; with `written=None` nobody knows. In both of the latter
        cases the store appends nothing more until it is opened again.
        """
        ...

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once: one page each, in the order of `reads`.

        All pages together hold at most `events_max` events and about `bytes_max` bytes, but at
        least one event if there is one. A page that was cut, or not begun, says `more`.
        """
        ...

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order after position `after`; empty at the end of the log.

        A page holds at most `events_max` events and about `bytes_max` bytes, but at least one
        event.
        """
        ...

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select: one page each, in the order of `reads`.

        All pages together hold at most `events_max` events and about `bytes_max` bytes, but at
        least one event if there is one. A page that was cut, or not begun, says `more`.
        """
        ...

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Let the index be of these forms; give how many events were indexed for that.

        It is asked after `open`, before anything is appended. Events of types whose form is another
        one now are read and indexed again, all in one transaction. Raises StoreRefused where one
        does not have what its form says, and StoreFailed; then the index is as it was.
        """
        ...

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, at most `claims_max`.

        They are in the order of their names, and of their values within a name, by code points.
        """
        ...

    async def read_due(
        self, after: DuePlace = BEGINNING, *, until: int, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers that are to be tried up to the time `until`, at most `timers_max`.

        Those behind `after`, in the order of their places; parked ones are left out. It takes no
        longer if many timers wait.
        """
        ...

    async def read_timers(
        self, after: TimerKey = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers behind `after`, parked ones too, at most `timers_max`.

        They are in the order of their streams, and of their names within a stream, by code points.
        """
        ...

    async def count_timers(self) -> tuple[int, int, int]:
        """Give how many timers there are, how many of them have failed, and how many are cancelled.

        Those that have failed are parked. Those that an operator has cancelled are in the last
        number alone.
        """
        ...

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Remove timers, or let them wait, in one transaction; give how many were removed.

        Each is named once, and left alone if another one stands by its name now. Raises
        StoreFailed, as `append` does.
        """
        ...

    async def read_snapshots(self, streams: Sequence[str]) -> Sequence[Snapshot]:
        """Give the snapshots that there are, at most one per stream, in any order."""
        ...

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these in place of what was kept of their streams, at most one given per stream.

        Also an older one takes the place: the one kept may be of a history that is no more.
        Raises StoreFailed.
        """
        ...


def claim_keys(batch: Batch) -> Sequence[ClaimKey]:
    """Give the claims that a batch names, each once; most often none."""
    claims = [
        e for r in batch.requests for e in r.extras if isinstance(e, TakeClaim | ReleaseClaim)
    ]
    return tuple(dict.fromkeys((claim.name, claim.value) for claim in claims))


def fired_keys(batch: Batch) -> Sequence[TimerKey]:
    """Give the timers whose commands a batch has, each once; most often none."""
    fired = [extra for r in batch.requests for extra in r.extras if isinstance(extra, FiredTimer)]
    return tuple(dict.fromkeys((timer.stream, timer.name) for timer in fired))


def conditions_of(batch: Batch) -> Sequence[Condition]:
    """Give the conditions of a batch, each once; most often none."""
    found = [e for r in batch.requests for e in r.extras if type(e) is Unchanged]
    return tuple(dict.fromkeys((e.tags, e.names, e.after) for e in found))


class Plan(msgspec.Struct, frozen=True):
    """What a batch does to a log: its outcomes, the events to insert, and the versions after."""

    outcomes: list[Outcome]
    events: list[StoredEvent]
    versions: dict[str, int]
    """The new version of each stream that gets events."""
    claims: Mapping[ClaimKey, ClaimChange]
    """The claims that have another holder after it."""
    timers: Mapping[TimerKey, WaitingTimer | None]
    """The timers that it sets or removes; None for those that do not stand after it."""
    refused: int
    """How many of the outcomes are none that was appended."""
    tags: Sequence[TagRow] = ()
    """What the index of tags gets."""


def plan(
    batch: Batch,
    versions: Mapping[str, int],
    head: Head,
    holders: Mapping[ClaimKey, str] = NO_CLAIMS,
    standing: Mapping[TimerKey, int] = NO_TIMERS,
    came: Came = NOTHING_CAME,
) -> Plan:
    """Decide what of a batch fits a log that ends at `head`; pure, and the same for every store.

    `versions` gives the version of every stream that the batch names; 0 or absent means empty.
    `holders` gives the streams that hold the claims that it names, and `standing` the positions of
    the timers whose commands it has. `came` has those of its conditions by tags that do not hold.
    All are as in the transaction that will insert the events.
    """
    recorded = max(batch.recorded, head.recorded)
    now: dict[str, int] = {}
    failed: set[str] = set()
    outcomes: list[Outcome] = []
    events: list[StoredEvent] = []
    book, timers, tagged = ClaimBook(holders), TimerBook(standing), TagBook(came)
    tags: list[TagRow] = []
    refused = 0
    position = head.position
    for request in batch.requests:
        assert request.writes, "a request without a write has nothing to answer"
        refusal: Outcome | None = _conflict(request, now, versions, failed)
        extras, kinds = request.extras, _NO_KINDS
        if extras:  # seldom, and this loop is a large part of a commit
            kinds = frozenset(map(type, extras))
            if refusal is None and TakeClaim in kinds:
                refusal = book.refusal(extras)
            if refusal is None and FiredTimer in kinds:
                refusal = timers.refusal(extras)
            if refusal is None and Unchanged in kinds:
                refusal = tagged.refusal(extras)
        if refusal is not None:
            # Everything later on these streams was decided on what is not stored now.
            failed.update(write.stream for write in request.writes)
            outcomes.append(refusal)
            refused += 1
            continue
        if extras and not kinds.isdisjoint(_OF_TIMERS):
            timers.apply(extras, firsts_of(request, position))
        after: tuple[int, ...] = ()
        for write in request.writes:
            stream, version, datas = write.stream, write.expected, write.events
            if extras and not kinds.isdisjoint(_OF_CLAIMS):
                book.apply([e for e in extras if e.stream == stream], position + 1)
            for data in datas:
                version += 1
                position += 1
                events.append(_stored(data, stream, version, position, recorded))
                if data.tags:
                    kind = data.type
                    tagged.add(kind.name, data.tags)
                    tags += [(tag, position, kind.name, kind.version) for tag in data.tags]
            if datas:
                now[stream] = version
            after = (*after, version) if after else (version,)
        outcomes.append(Appended(position, after))
    assert position == head.position + len(events)
    return Plan(outcomes, events, now, book.changes, timers.changes, refused, tags)


def firsts_of(request: AppendRequest, position: int) -> Mapping[str, tuple[int, int]]:
    """Give position and version of the first event of each stream of a request."""
    firsts: dict[str, tuple[int, int]] = {}
    for write in request.writes:
        firsts[write.stream] = position + 1, write.expected + 1
        position += len(write.events)
    return firsts


def _conflict(
    request: AppendRequest,
    now: Mapping[str, int],
    versions: Mapping[str, int],
    failed: set[str],
) -> StreamConflict | None:
    writes = request.writes
    assert len(writes) == 1 or len({w.stream for w in writes}) == len(writes), (
        f"a request names each stream once, this one {writes}"
    )
    for write in writes:
        stream = write.stream
        actual = now.get(stream)
        if actual is None:
            actual = versions.get(stream, 0)
        if actual != write.expected or stream in failed:
            return StreamConflict(stream, write.expected, actual)
    return None


def _stored(
    data: EventData, stream: str, version: int, position: int, recorded: int
) -> StoredEvent:
    kind, payload, metadata, encoding = data.type, data.payload, data.metadata, data.encoding
    name, of = kind.name, kind.version
    checksum = checksum_of(stream, version, name, of, recorded, encoding, payload, metadata)
    return StoredEvent(
        position, stream, version, name, of, recorded, payload, metadata, encoding, checksum
    )
