"""Reads of a log in UmaDB: pages of the feed, of streams and of tags; runs in a thread.

Rules: pages keep both bounds, and hold one event at least. Every event is compared with its
checksum, and each page with its order; the first that does not fit is Damaged. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...errors import Damaged
from ...model.stored import StoredEvent
from ..contract.claims import ClaimKey, HeldClaim
from ..contract.log import StreamPage, StreamRead
from ..contract.tags import Condition, TagPage, TagRead
from ..leased.known import Known
from ..leased.places import Place, Places
from .calls import umadb
from .form import (
    AHEAD,
    CLAIMS_TAG,
    FIRST_TAG,
    claim_tag,
    claims_in,
    declared_in,
    from_uma,
    stream_tag,
)

if TYPE_CHECKING:
    from umadb import Client, Query, SequencedEvent

__all__ = [
    "came",
    "claims_behind",
    "holder_of",
    "known_of",
    "last_of",
    "page_of_feed",
    "pages_of_streams",
    "pages_of_tagged",
]


class _Room:
    """What still fits into one answer."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self.events = events_max
        self._bytes = bytes_max
        self._is_empty = True

    def takes(self, event: StoredEvent) -> bool:
        """Count an event in, or close."""
        self._bytes -= len(event.payload) + len(event.metadata)
        if not self._is_empty and (self.events < 1 or self._bytes < 0):
            self.events = 0
            return False
        self.events -= 1
        self._is_empty = False
        return True

    @property
    def asks(self) -> int:
        """How many events are worth asking for: one more than fit, which tells of more."""
        return max(self.events, 0) + 1


def _query(*tags: str, types: Sequence[str] = ()) -> Query:
    module = umadb()
    query: Query = module.Query([module.QueryItem(types=list(types), tags=list(tags))])
    return query


def _fill(
    found: Iterable[SequencedEvent], room: _Room, check: Callable[[StoredEvent], None]
) -> tuple[list[StoredEvent], bool]:
    """Take events as long as they fit; tell whether there are more."""
    taken: list[StoredEvent] = []
    for each in found:
        event = from_uma(each)
        if not room.takes(event):
            return taken, True
        check(event)
        taken.append(event)
    return taken, False


def page_of_feed(
    client: Client, after: int, events_max: int, bytes_max: int
) -> Sequence[StoredEvent]:
    """Give the events behind a position."""
    expected = after

    def check(event: StoredEvent) -> None:
        nonlocal expected
        expected += 1
        if event.position != expected:
            raise Damaged(expected, f"position {event.position} stands there")

    found = client.read(start=after + AHEAD + 1, limit=max(events_max, 1))
    events, _ = _fill(found, _Room(events_max, bytes_max), check)
    return events


def pages_of_streams(
    client: Client,
    reads: Sequence[StreamRead],
    places: Places,
    found: dict[str, Place],
    events_max: int,
    bytes_max: int,
) -> Sequence[StreamPage]:
    """Give pages of streams, one after the other, and what is found of their ends."""
    room = _Room(events_max, bytes_max)
    pages: list[StreamPage] = []
    for read in reads:
        # An empty stream too is known then: the event that begins it needs no look of its own.
        page, last = _page_of_stream(client, read, places.get(read.stream), room)
        pages.append(page)
        found[read.stream] = last
    return pages


def _page_of_stream(
    client: Client, read: StreamRead, known: Place | None, room: _Room
) -> tuple[StreamPage, Place]:
    if known is None or known.version > read.after:
        known = Place(0, 0, is_last=False)
    version, position = known.version, known.position

    def check(event: StoredEvent) -> None:
        nonlocal version, position
        if event.version != version + 1 or event.stream != read.stream:
            raise Damaged(event.position, f"it does not follow version {version} of its stream")
        version, position = event.version, event.position

    skipped = read.after - version
    start, limit = position + AHEAD + 1, skipped + room.asks
    found = iter(client.read(_query(stream_tag(read.stream)), start, limit=limit))
    for each in islice(found, skipped):
        check(from_uma(each))
    events, more = _fill(found, room, check)
    return StreamPage(read.stream, events, more), Place(version, position, is_last=not more)


def pages_of_tagged(
    client: Client, reads: Sequence[TagRead], events_max: int, bytes_max: int
) -> Sequence[TagPage]:
    """Give pages of what queries by tags select."""
    room = _Room(events_max, bytes_max)
    pages: list[TagPage] = []
    for read in reads:
        query = _query(*read.tags, types=read.names)
        found = client.read(query, read.after + AHEAD + 1, limit=room.asks)
        pages.append(TagPage(*_fill(found, room, lambda _: None)))
    return pages


def came(client: Client, conditions: Sequence[Condition]) -> frozenset[Condition]:
    """Give the conditions behind whose position something has come."""
    return frozenset(
        condition
        for condition in conditions
        if _any(client, _query(*condition[0], types=condition[1]), condition[2])
    )


def _any(client: Client, query: Query, after: int) -> bool:
    return any(True for _ in client.read(query, after + AHEAD + 1, limit=1))


def last_of(client: Client, streams: Iterable[str], found: dict[str, Place]) -> None:
    """Find the last event of each stream; empty ones have none."""
    for stream in streams:
        for each in client.read(_query(stream_tag(stream)), backwards=True, limit=1):
            event = from_uma(each)
            found[stream] = Place(event.version, event.position, is_last=True)


def holder_of(client: Client, key: ClaimKey) -> str | None:
    """Give the stream that holds a claim, by the last event that changes it."""
    query = _query(claim_tag(key))
    for limit in (1, None):  # most often the last event with that tag is about this claim
        for each in client.read(query, backwards=True, limit=limit):
            for name, value, stream, _ in claims_in(each):
                if (name, value) == key:
                    return stream
    return None


def claims_behind(client: Client, held: dict[ClaimKey, HeldClaim], after: int) -> int:
    """Bring the claims that are held from one position to the end; give the last position."""
    for each in client.read(_query(CLAIMS_TAG), after + AHEAD + 1):
        after = each.position - AHEAD
        for name, value, stream, position in claims_in(each):
            held.pop((name, value), None)
            if stream is not None:
                held[name, value] = HeldClaim(name, value, stream, position)
    return after


def known_of(client: Client) -> Known:
    """Give the types and the kinds that the log has, by the first event of each."""
    known = Known({}, set())
    for each in client.read(_query(FIRST_TAG)):
        event = from_uma(each)
        known.kinds.add(event.stream.partition(":")[0])
        declared = declared_in(each)
        if declared is not None:
            known.types[event.name, event.event_version] = declared
    return known
