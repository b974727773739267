"""Reads of a log in DynamoDB: pages of the feed, of streams and of tags, claims, and what is known.

Rules: all reads are strongly consistent. The feed ends at the last position that this engine knows
to be whole: a transaction shows its items one by one. Pages keep both bounds, and hold one event at
least. Every event is compared with its checksum, and each page with its order; the first that does
not fit is Damaged. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from ...errors import Damaged, StoreFailed
from ...model.stored import Snapshot, StoredEvent
from ..contract.claims import ClaimKey, HeldClaim
from ..contract.log import StreamPage, StreamRead
from ..contract.tags import Condition, TagPage, TagRead
from ..leased.known import Known
from ..leased.places import Place, Places
from .calls import Calls, Cancelled, Item, Missing, Pauses
from .form import (
    GROUP,
    KNOWN,
    claim_key,
    claim_of,
    declared_of,
    digits,
    event_key,
    event_of,
    fitted,
    key,
    number_of,
    page_pk,
    places_in,
    snapshot_key,
    snapshot_of,
    stream_pk,
    tag_pk,
    tags_in,
    text_of,
)
from .session import read_sequencer

__all__ = ["Reader"]

_AT_ONCE: Final = 16
"""Streams that are asked for at a time."""
_PAGES: Final = 64
"""Pages that are asked for at a time."""
_RESTORED: Final = "as in a table restored with a part of its last transactions: restore another"
_FETCHED: Final = 400
"""Events that are fetched by their places at a time."""


class _Room:
    """What still fits into one answer."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self._events = events_max
        self._bytes = bytes_max
        self._is_empty = True

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits."""
        return not self._is_empty and (self._events < 1 or self._bytes < 0)

    @property
    def asks(self) -> int:
        """How many events are worth asking for: one more than fit, which tells of more."""
        return max(self._events, 0) + 1

    def takes(self, event: StoredEvent) -> bool:
        """Count an event in, or close."""
        self._bytes -= len(event.payload) + len(event.metadata)
        if self.is_full:
            self._events = 0
            return False
        self._events -= 1
        self._is_empty = False
        return True


class Reader:
    """What is read of one table."""

    def __init__(self, calls: Calls, places: Places) -> None:
        self._calls = calls
        self._places = places
        self.claims: set[str] = set()
        """Names of claims that the log has or had."""
        self.end = 0
        """Up to where there may be events: what is being appended is counted in."""

    async def begin(self, position: int) -> Known:
        """Give what the log has of types and kinds, when its last transaction is whole."""
        self.end = position
        await self._settle(position)
        for number in (position + 1, position + GROUP):  # where the page of the next one would be
            if await self._calls.query(page_pk(number), after=digits(position), most=1):
                raise Damaged(position + 1, f"the log ends before it, {_RESTORED}")
        known = Known({}, set())
        self.claims = set()
        types: list[tuple[int, tuple[str, int], Item]] = []
        for item in await self._calls.query(KNOWN):
            what = text_of(item, "sk").partition("=")[0]
            if what == "type":
                type_ = text_of(item, "name"), number_of(item, "event_version")
                types.append((number_of(item, "position"), type_, item))
            else:
                (known.kinds if what == "kind" else self.claims).add(text_of(item, "name"))
        for _, type_, item in sorted(types, key=lambda each: each[:2]):
            known.types[type_] = declared_of(item)
        return known

    async def _settle(self, position: int) -> None:
        """Wait until the last transaction of a former engine shows all its items."""
        if not position:
            return
        page = await self._calls.get(key(page_pk(position), digits(position)))
        if page is None:
            raise Damaged(position, "its page is missing")
        places = places_in(page)
        keys = [event_key(stream, version) for _, stream, version in places]
        table = self._calls.address.table
        pauses = Pauses(self._calls.address.patience_seconds)
        while True:
            try:
                gets = [{"Get": {"TableName": table, "Key": each}} for each in keys]
                answer = await self._calls.asked("transact_get_items", TransactItems=gets)
            except Cancelled as cancelled:
                if not await pauses.took():
                    raise Damaged(position, f"its transaction does not end: {cancelled}") from None
            except Missing:
                raise self._calls.no_table() from None
            else:
                break
        for (at, stream, version), found in zip(places, answer["Responses"], strict=True):
            if found.get("Item", {}).get("position") != {"N": str(at)}:
                raise Damaged(at, f"{stream} version {version} is not there, {_RESTORED}")

    async def _refuse_beyond(self, items: Iterable[Item]) -> None:
        """Raise where something stands behind the end of the log, which no append of now brings."""
        # What has no position is found where it is read.
        last = max((int(item.get("position", {}).get("N", "0")) for item in items), default=0)
        if last <= self.end:
            return
        found = await read_sequencer(self._calls)
        if found is not None and found.position >= last:
            raise StoreFailed(
                f"{self._calls.address.name}: another engine has taken the log, and has appended",
                written=False,
                stopped=True,
            )
        raise Damaged(last, f"the log ends at position {self.end}, {_RESTORED}")

    # -- the global order -----------------------------------------------------------------------

    async def feed(
        self, after: int, until: int, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Give the events behind a position, up to another one."""
        room, found = _Room(events_max, bytes_max), list[StoredEvent]()
        last = min(until, after + max(events_max, 1))
        if after >= last:
            await asyncio.sleep(0)  # whoever asks without an end lets others have their turn
        while after < last and not room.is_full:
            places = await self._page_places(after, min(last, after + _FETCHED))
            for event in await self._fetched(places, room):
                found.append(event)
                after = event.position
            if not places:
                raise Damaged(after + 1, "its page is missing")
        return found

    async def _page_places(self, after: int, last: int) -> list[tuple[int, str, int]]:
        """Give the places of events behind a position, in order and without a hole."""
        found: list[tuple[int, str, int]] = []
        group = (after + 1) // GROUP
        while len(found) < last - after:
            most = min(last - after - len(found), _PAGES)
            pages = await self._calls.query(
                page_pk(group * GROUP), after=digits(after + len(found)), most=most
            )
            for page in pages:
                for position, stream, version in places_in(page):
                    if after + len(found) < position <= last:
                        if position != after + len(found) + 1:
                            raise Damaged(after + len(found) + 1, f"{position} stands there")
                        found.append((position, stream, version))
            if len(pages) < most:
                group += 1
                if group * GROUP > last + GROUP:
                    break
        return found

    async def _fetched(
        self, places: Sequence[tuple[int, str, int]], room: _Room
    ) -> list[StoredEvent]:
        """Give the events of these places, as far as they fit."""
        keys = [event_key(stream, version) for _, stream, version in places]
        items = {
            (text_of(item, "pk"), text_of(item, "sk")): item
            for item in await self._calls.get_many(keys)
        }
        found: list[StoredEvent] = []
        for position, stream, version in places:
            item = items.get((stream_pk(stream), digits(version)))
            damage = Damaged(position, f"{stream} version {version} is not there")
            if item is None:
                if found:
                    break  # what stands before it can be read
                raise damage
            try:
                event = event_of(item, position)
                if event.position != position:
                    raise damage
            except Damaged:
                if found:
                    break
                raise
            if not room.takes(event):
                break
            found.append(event)
        return found

    # -- streams --------------------------------------------------------------------------------

    async def streams(
        self, reads: Sequence[StreamRead], events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Give pages of streams, several at a time."""
        room, pages = _Room(events_max, bytes_max), list[StreamPage]()
        with self._places.reading() as ends:
            empty = await self._empty(reads)
            ends.update((stream, Place(0, 0, is_last=True)) for stream in empty)
            for begin in range(0, len(reads), _AT_ONCE):
                part = reads[begin : begin + _AT_ONCE]
                if room.is_full:
                    pages += [StreamPage(read.stream, [], more=True) for read in part]
                    continue
                most = room.asks
                asked = [read for read in part if read.stream not in empty]
                found = await self._calls.each(partial(self._stream, most=most), asked)
                items_of = dict(zip(asked, found, strict=True))
                for read in part:
                    page, end = _page_of_stream(read, items_of.get(read, ()), room)
                    pages.append(page)
                    if end is not None:
                        ends[read.stream] = end
        return pages

    async def _empty(self, reads: Sequence[StreamRead]) -> set[str]:
        """Give those of many streams that have no event: a hundred are looked at in one call."""
        begun = {read.stream for read in reads if not read.after}
        if len(begun) < _AT_ONCE:
            return set()
        keys = [event_key(stream, 1) for stream in sorted(begun)]
        prefix = stream_pk("")
        found = await self._calls.get_many(keys)
        return begun - {text_of(item, "pk").removeprefix(prefix) for item in found}

    async def _stream(self, read: StreamRead, *, most: int) -> list[Item]:
        pk = stream_pk(read.stream)
        items = await self._calls.query(pk, after=digits(read.after), most=most)
        await self._refuse_beyond(items)
        return items

    async def last_of(self, streams: Iterable[str]) -> dict[str, Place]:
        """Find the last event of each stream; empty ones have version 0."""
        given = list(streams)

        async def last(stream: str) -> Place:
            items = await self._calls.query(stream_pk(stream), most=1, last=True)
            await self._refuse_beyond(items)
            for item in items:
                event = event_of(item)
                return Place(event.version, event.position, is_last=True)
            return Place(0, 0, is_last=True)

        with self._places.reading() as found:
            found.update(zip(given, await self._calls.each(last, given), strict=True))
        return dict(found)

    # -- tags -----------------------------------------------------------------------------------

    async def tagged(
        self, reads: Sequence[TagRead], until: int, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give pages of what queries by tags select."""
        room, pages = _Room(events_max, bytes_max), list[TagPage]()
        for read in reads:
            wanted = (read.tags, read.names, read.after)
            places = await self._selected(wanted, until, most=1 if room.is_full else room.asks)
            events: list[StoredEvent] = []
            while len(events) < len(places) and not room.is_full:
                part = places[len(events) : len(events) + _FETCHED]
                events += await self._fetched(part, room)
            pages.append(TagPage(events, more=len(events) < len(places)))
        return pages

    async def came(self, conditions: Iterable[Condition], until: int) -> frozenset[Condition]:
        """Give the conditions behind whose position something has come."""
        return frozenset([each for each in conditions if await self._selected(each, until, most=1)])

    async def _selected(
        self, wanted: Condition, until: int, most: int
    ) -> list[tuple[int, str, int]]:
        """Give places of events that have all tags and one of the names."""
        tags, names, after = wanted
        found: list[tuple[int, str, int]] = []
        while len(found) < most:
            items = await self._calls.query(tag_pk(tags[0]), after=digits(after), most=_FETCHED)
            for item in items:
                after = int(text_of(item, "sk"))
                fits = text_of(item, "name") in names and tags_in(item).issuperset(tags)
                if fits and after <= until and len(found) < most:
                    found.append((after, text_of(item, "stream"), number_of(item, "version")))
            if len(items) < _FETCHED:
                break
        return found

    # -- claims and snapshots -------------------------------------------------------------------

    async def holders(self, claims: Sequence[ClaimKey]) -> dict[ClaimKey, str]:
        """Give who holds each of these claims."""
        items = await self._calls.get_many([claim_key(each) for each in claims])
        await self._refuse_beyond(items)
        found = map(claim_of, items)
        return {(claim.name, claim.value): claim.stream for claim in found}

    async def held(self, after: ClaimKey, most: int) -> list[HeldClaim]:
        """Give the claims behind one, in order."""
        found: list[HeldClaim] = []
        for name in sorted(name for name in self.claims if name >= after[0]):
            value = fitted(after[1]) if name == after[0] and after[1] else None
            left = most - len(found)
            if left < 1:
                break
            pk = text_of(claim_key((name, "")), "pk")
            found += map(claim_of, await self._calls.query(pk, after=value, most=left))
        return found

    async def snapshots(self, streams: Sequence[str]) -> list[Snapshot]:
        """Give the snapshots that there are."""
        keys = [snapshot_key(stream) for stream in dict.fromkeys(streams)]
        return [snapshot_of(item) for item in await self._calls.get_many(keys)]


def _page_of_stream(
    read: StreamRead, items: Sequence[Item], room: _Room
) -> tuple[StreamPage, Place | None]:
    """Give a page of a stream, and where that ends if it is known."""
    version, position = read.after, 0
    events: list[StoredEvent] = []
    if room.is_full:
        return StreamPage(read.stream, events, more=True), None
    for item in items:
        event = event_of(item)
        if not room.takes(event):
            return StreamPage(read.stream, events, more=True), None
        if event.version != version + 1 or event.stream != read.stream:
            raise Damaged(event.position, f"it does not follow version {version} of its stream")
        version, position = event.version, event.position
        events.append(event)
    if not events and read.after:
        return StreamPage(read.stream, events, more=False), None
    return StreamPage(read.stream, events, more=False), Place(version, position, is_last=True)
