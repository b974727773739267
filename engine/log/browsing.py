"""A log as a person browses it: the newest events first, a page at a time, some of them selected.

Rules: one page looks at `LOOKED_AT_MAX` events at most, and says where to go on if it found too
few: no question takes long. Of what is passed over, and of large payloads, nothing is kept: a page
of many takes no more memory than one read of the log. A time is found by halving, and a stream is
read through its index. An event that is damaged has its place among the others and says so: it
hides none of them. Nothing is decoded but what a selection asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from ..errors import ArchiveUnread, Damaged
from ..model.stored import StoredEvent
from ..stores.contract.log import Head, StreamPage, StreamRead
from .selection import Selection

__all__ = ["LOOKED_AT_MAX", "Broken", "Browsed", "BrowsedPage", "Large", "LogToBrowse", "browse"]

LOOKED_AT_MAX: Final = 20_000
_PAGE_EVENTS: Final = 1_000
_PAGE_BYTES: Final = 8 * 1024 * 1024


class Broken(msgspec.Struct, frozen=True):
    """An event that cannot be read."""

    position: int
    why: str


class Large(msgspec.Struct, frozen=True):
    """An event whose payload is too large to be kept beside others."""

    event: StoredEvent
    """Without its payload."""
    payload_bytes: int

    @property
    def position(self) -> int:
        """Its place in the log."""
        return self.event.position


class _Passed(msgspec.Struct, frozen=True):
    """An event that was not selected."""

    position: int


Browsed: TypeAlias = StoredEvent | Large | Broken
_Looked: TypeAlias = Browsed | _Passed


class BrowsedPage(msgspec.Struct, frozen=True):
    """Events of a log, the newest first."""

    events: Sequence[Browsed]
    older: int | None
    """Go on with the events before this position; None if there are none."""
    end: int
    """Position of the log's last event when the page was read."""


class LogToBrowse(Protocol):
    """What is browsed: a store, or a log that another process writes."""

    async def head(self) -> Head:
        """Give the end of the log."""
        ...

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read as `Store.read_feed` does."""
        ...

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read as `Store.read_streams` does."""
        ...


async def browse(
    log: LogToBrowse,
    selection: Selection,
    *,
    after: int = 0,
    before: int | None = None,
    limit: int = 50,
    kinds: frozenset[str] | None = None,
    payload_max: int | None = None,
) -> BrowsedPage:
    """Give the last `limit` selected events, newest first.

    Only events after the position `after` and before the position `before` are given, and of
    aggregates of `kinds`. One whose payload has more bytes than `payload_max` is given as `Large`.
    Raises what the log's reads raise, but Damaged.
    """
    head = await log.head()
    sequence = _Sequence(log, selection.stream, head.position)
    begin, end = await _bounds(sequence, selection, after, before)

    def look(event: StoredEvent) -> _Looked:
        return _looked_at(event, selection, kinds, payload_max)

    found: list[Browsed] = []
    looked_at, older = 0, None
    # Only what is shown is read, where nothing is passed over.
    passes_over = selection.reads_on or kinds is not None
    step = _PAGE_EVENTS if passes_over else min(limit, _PAGE_EVENTS)
    while end > begin and len(found) < limit and looked_at < LOOKED_AT_MAX:
        start = max(begin, end - step)
        part = await sequence.between(start, end, look)
        for event in reversed(part):
            if not isinstance(event, _Passed):
                found.append(event)
            older, end = event.position, end - 1
            looked_at += 1
            if len(found) == limit:
                break
        if not part:
            break
    return BrowsedPage(found, older if end > begin else None, head.position)


def _looked_at(
    event: StoredEvent,
    selection: Selection,
    kinds: frozenset[str] | None,
    payload_max: int | None,
) -> _Looked:
    """Give what is kept of an event; a broken one if what travelled with it cannot be read."""
    if kinds is not None and event.stream.partition(":")[0] not in kinds:
        return _Passed(event.position)
    try:
        if not selection.takes(event):
            return _Passed(event.position)
    except Damaged as damaged:
        return Broken(event.position, str(damaged))
    size = len(event.payload)
    if payload_max is None or size <= payload_max:
        return event
    return Large(msgspec.structs.replace(event, payload=b""), size)


async def _bounds(
    sequence: _Sequence, selection: Selection, after: int, before: int | None
) -> tuple[int, int]:
    """Give how many events stand before those that are looked at, and up to them."""
    begin, end = 0, await sequence.end()
    if after:
        begin = await sequence.first(
            begin, end, lambda position, _: position > after, at_position=after
        )
    if before is not None:
        end = await sequence.first(
            begin, end, lambda position, _: position >= before, at_position=before - 1
        )
    if (since := selection.since) is not None:
        begin = await sequence.first(begin, end, lambda _, recorded: recorded >= since)
    if (until := selection.until) is not None:
        end = await sequence.first(begin, end, lambda _, recorded: recorded > until)
    return begin, end


class _Sequence:
    """Events that can be counted along: those of the log by position, of a stream by version."""

    def __init__(self, log: LogToBrowse, stream: str | None, end: int) -> None:
        self._log = log
        self._stream = stream
        self._end = end

    async def end(self) -> int:
        """Give how many there are."""
        if self._stream is None:
            return self._end
        # A log does not say how long a stream is: it is found in as many reads as that has digits.
        high = 1
        while await self._is_behind(high):
            high *= 2
        low = high // 2
        while low < high:
            middle = (low + high) // 2
            if await self._is_behind(middle):
                low = middle + 1
            else:
                high = middle
        return low

    async def _is_behind(self, count: int) -> bool:
        """Tell whether there are more than so many."""
        try:
            return bool(await self.read(count, 1))
        except Damaged:
            return True

    async def read(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        """Give those after the first `after`."""
        if self._stream is None:
            wanted = min(events_max, self._end - after)
            if wanted <= 0:
                return ()
            return await self._log.read_feed(after, events_max=wanted, bytes_max=_PAGE_BYTES)
        reads = [StreamRead(self._stream, after)]
        [page] = await self._log.read_streams(reads, events_max=events_max, bytes_max=_PAGE_BYTES)
        return page.events

    async def between(
        self, after: int, end: int, look: Callable[[StoredEvent], _Looked]
    ) -> list[_Looked]:
        """Give what `look` keeps of those after the first `after`, up to the first `end`.

        Damaged ones are given as such.
        """
        found: list[_Looked] = []
        wanted = end - after
        while after < end:
            try:
                events = await self.read(after, min(wanted, end - after))
            except Damaged as damaged:
                if wanted > 1:
                    wanted //= 2
                    continue
                found.append(Broken(damaged.position, str(damaged)))
                after += 1
            else:
                if not events:
                    break
                found += map(look, events)
                after += len(events)
            wanted = min(end - after, wanted * 2) or 1
        return found

    async def first(
        self,
        low: int,
        high: int,
        there: Callable[[int, int], bool],
        *,
        at_position: int | None = None,
    ) -> int:
        """Give how many stand before the first one for which `there` holds, by halving.

        It is asked by position and time. `at_position` is that number itself where the whole log
        is the sequence.
        """
        if self._stream is None and at_position is not None:
            return max(low, min(high, at_position))
        while low < high:
            middle = (low + high) // 2
            found = await self._near(middle, high)
            if found is None:
                high = middle  # nothing from there on can be read: as if it were behind
            elif there(*found[1:]):
                high = middle
            else:
                low = found[0] + 1
        return low

    async def _near(self, place: int, high: int) -> tuple[int, int, int] | None:
        """Give place, position and time of the first event from a place on that has them.

        What was archived has them, also where its contents cannot be read.
        """
        while place < high:
            try:
                events = await self.read(place, 1)
            except Damaged as damaged:
                recorded = damaged.recorded if isinstance(damaged, ArchiveUnread) else None
                if recorded is not None:
                    return place, damaged.position, recorded
                place += 1
                continue
            return (place, events[0].position, events[0].recorded) if events else None
        return None
