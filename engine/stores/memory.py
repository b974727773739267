"""A log in memory: for tests, for trying things out, and as the smallest example of the contract.

Rules: everything is kept in the object, so that closing and opening it again finds the same log;
nothing survives the process, and `durable` says so. It never copies an event: they are frozen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from ..errors import StoreFailed, StoreLocked
from ..model.stored import EventType, Snapshot, StoredEvent, verify
from ..runtime.ports import Ports
from .contract.claims import ClaimKey, HeldClaim
from .contract.log import (
    Appended,
    Batch,
    Committed,
    Head,
    StreamPage,
    StreamRead,
    claim_keys,
    conditions_of,
    fired_keys,
    plan,
)
from .contract.tags import Condition, TagForm, TagPage, TagRead, rows_of
from .contract.timers import (
    BEGINNING,
    DuePlace,
    SettledTimer,
    TimerKey,
    WaitingTimer,
    settled_as,
)

__all__ = ["MemoryStore"]

_STALE_MAX = 1_000
"""Places of timers that are there no more, beside as many as there are timers."""


class MemoryStore:
    """A store that keeps its log in this object."""

    durable = False

    def __init__(self) -> None:
        self._log_id = ""
        self._open = False
        self._log: list[StoredEvent] = []
        self._streams: dict[str, list[StoredEvent]] = {}
        self._types: dict[tuple[str, int], EventType] = {}
        self._claims: dict[ClaimKey, HeldClaim] = {}
        self._timers = _Timers()
        self._tags: dict[str, list[int]] = {}
        """Positions by tag, in order."""
        self._forms: dict[tuple[str, int], TagForm] = {}
        self._snapshots: dict[str, Snapshot] = {}

    @property
    def log_id(self) -> str:
        """The log's random id."""
        return self._log_id

    async def open(self, ports: Ports) -> None:
        """Take the log for one engine."""
        if self._open:
            raise StoreLocked("this MemoryStore is open in another engine: close that one first")
        self._open = True
        self._log_id = self._log_id or ports.ids.new_id()

    async def close(self) -> None:
        """Give the log back."""
        self._open = False

    async def head(self) -> Head:
        """Give the end of the log."""
        if not self._log:
            return Head()
        last = self._log[-1]
        return Head(last.position, last.checksum, last.recorded)

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return tuple(self._types.values())

    async def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams."""
        return sorted({stream.partition(":")[0] for stream in self._streams})

    async def append(self, batch: Batch) -> Committed:
        """Append what fits."""
        streams = {write.stream for request in batch.requests for write in request.writes}
        versions = {stream: len(self._streams.get(stream, ())) for stream in streams}
        claims = self._claims
        holders = {key: claims[key].stream for key in claim_keys(batch) if key in claims}
        timers = self._timers
        there = timers.by_key
        standing = {key: there[key].position for key in fired_keys(batch) if key in there}
        came = frozenset(c for c in conditions_of(batch) if self._has_come(c))
        planned = plan(batch, versions, await self.head(), holders, standing, came)
        types = [
            data.type
            for request, outcome in zip(batch.requests, planned.outcomes, strict=True)
            if isinstance(outcome, Appended)
            for write in request.writes
            for data in write.events
        ]
        new: list[EventType] = []
        for kind in types:
            known = self._types.get((kind.name, kind.version))
            renews = True if known is None else kind.renews(known.schema_hash)
            if known is not None and renews is None:
                raise StoreFailed(
                    f"{kind.name} version {kind.version} is stored with schema "
                    f"{known.schema_hash} and comes with {kind.schema_hash}: nothing was written",
                    written=False,
                )
            if renews:
                new.append(kind)
        for kind in new:
            self._types[kind.name, kind.version] = EventType(
                kind.name, kind.version, kind.schema_hash
            )
        for event in planned.events:
            self._log.append(event)
            self._streams.setdefault(event.stream, []).append(event)
        for key, change in planned.claims.items():
            claims.pop(key, None)
            if change.after is not None:
                claims[key] = HeldClaim(*key, change.after, change.position)
        for tag, position, _, _ in planned.tags:
            self._tags.setdefault(tag, []).append(position)
        before = len(there)
        for timer_key, timer in planned.timers.items():
            timers.put(timer_key, timer)
        return Committed(planned.outcomes, planned.events, len(there) - before)

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once, as `Store.read_streams` says."""
        page = _Page(events_max, bytes_max)
        pages: list[StreamPage] = []
        for read in reads:
            rest = self._streams.get(read.stream, [])[read.after :]
            events = page.take(rest)
            pages.append(StreamPage(read.stream, events, len(events) < len(rest)))
        return pages

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order, as `Store.read_feed` says."""
        return _Page(events_max, bytes_max).take(self._log[after : after + events_max])

    def _selected(self, tags: Sequence[str], names: Sequence[str], after: int) -> Iterator[int]:
        """Give the positions behind one that a query selects, in order."""
        rows = [self._tags.get(tag, []) for tag in tags]
        first, *further = rows
        for place in range(bisect_right(first, after), len(first)):
            position = first[place]
            if self._log[position - 1].name in names and all(_has(r, position) for r in further):
                yield position

    def _has_come(self, condition: Condition) -> bool:
        return next(self._selected(*condition), None) is not None

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select, as `Store.read_tagged` says."""
        page = _Page(events_max, bytes_max)
        pages: list[TagPage] = []
        for read in reads:
            selected = [self._log[p - 1] for p in self._selected(read.tags, read.names, read.after)]
            events = page.take(selected)
            pages.append(TagPage(events, len(events) < len(selected)))
        return pages

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Make the index again where its forms are others."""
        wanted = {(form.name, form.version): form for form in forms}
        if wanted == self._forms:
            return 0
        tags: dict[str, list[int]] = {}
        rows = rows_of(self._log, wanted)
        for tag, position, _, _ in rows:
            tags.setdefault(tag, []).append(position)
        before, self._forms, self._tags = self._forms, wanted, tags
        other = {key for key in wanted if before.get(key) != wanted[key]}
        return sum((event.name, event.event_version) in other for event in self._log)

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, at most `claims_max`, in order."""
        keys = sorted(key for key in self._claims if key > after)
        return [self._claims[key] for key in keys[:claims_max]]

    async def read_due(
        self, after: DuePlace = BEGINNING, *, until: int, timers_max: int
    ) -> list[WaitingTimer]:
        """Give at most `timers_max` timers that are to be tried up to `until`, behind `after`."""
        return self._timers.due(after, until, timers_max)

    async def read_timers(
        self, after: TimerKey = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers behind `after`, at most `timers_max`, in order."""
        keys = sorted(key for key in self._timers.by_key if key > after)
        return [self._timers.by_key[key] for key in keys[:timers_max]]

    async def count_timers(self) -> tuple[int, int, int]:
        """Give how many timers there are, how many have failed, and how many are cancelled."""
        all_there = self._timers.by_key.values()
        there = [timer for timer in all_there if not timer.cancelled]
        return len(there), sum(timer.parked for timer in there), len(all_there) - len(there)

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Take timers away, or let them wait."""
        there = self._timers.by_key
        before = len(there)
        for each in settled:
            key = each.stream, each.name
            timer = there.get(key)
            if timer is not None and timer.position == each.position:
                self._timers.put(key, settled_as(timer, each))
        return before - len(there)

    async def read_snapshots(self, streams: Sequence[str]) -> Sequence[Snapshot]:
        """Give the snapshots that there are."""
        return [self._snapshots[stream] for stream in streams if stream in self._snapshots]

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these in place of what was kept of their streams."""
        for snapshot in snapshots:
            self._snapshots[snapshot.stream] = snapshot


def _has(positions: Sequence[int], position: int) -> bool:
    place = bisect_left(positions, position)
    return place < len(positions) and positions[place] == position


class _Page:
    """What still fits into one read: so many events and bytes, but one event at least."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self._events_left = events_max
        self._bytes_left = bytes_max
        self._empty = True

    def take(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        """Give the events that fit, each compared with its checksum."""
        taken: list[StoredEvent] = []
        for event in events:
            self._bytes_left -= len(event.payload) + len(event.metadata)
            if not self._empty and (self._events_left < 1 or self._bytes_left < 0):
                # What does not fit closes the page: nothing smaller may come after it.
                self._events_left = 0
                break
            verify(event)
            taken.append(event)
            self._events_left -= 1
            self._empty = False
        return taken


class _Timers:
    """The timers of a log, and which are due first."""

    def __init__(self) -> None:
        self.by_key: dict[TimerKey, WaitingTimer] = {}
        self._heap: list[DuePlace] = []
        """Places of those that are not parked, and of some that are there no more."""

    def put(self, key: TimerKey, timer: WaitingTimer | None) -> None:
        """Let a timer stand by a name in place of another one; None for none."""
        if timer is None:
            self.by_key.pop(key, None)
            return
        self.by_key[key] = timer
        if not timer.parked:
            heappush(self._heap, timer.place)
        if len(self._heap) > 2 * len(self.by_key) + _STALE_MAX:
            self._heap = [each.place for each in self.by_key.values() if not each.parked]
            heapify(self._heap)

    def due(self, after: DuePlace, until: int, timers_max: int) -> list[WaitingTimer]:
        """Give those up to a time and behind a place, in order."""
        seen: list[DuePlace] = []
        found: list[WaitingTimer] = []
        while self._heap and self._heap[0][0] <= until and len(found) < timers_max:
            place = heappop(self._heap)
            timer = self.by_key.get(place[2:])
            if timer is None or timer.parked or (timer.next, timer.position) != place[:2]:
                continue
            if seen and seen[-1] == place:
                continue  # it was set twice for the same time
            seen.append(place)
            if place > after:
                found.append(timer)
        for place in seen:
            heappush(self._heap, place)
        return found
