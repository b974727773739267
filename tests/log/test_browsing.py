"""A log as a person browses it: newest first, by streams and times, past what is damaged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.errors import ArchiveUnread, Damaged
from engine.log.browsing import Broken, Large, browse
from engine.log.selection import Selection
from engine.model.stored import StoredEvent
from engine.stores.contract.log import Head, StreamPage, StreamRead


class Shelf:
    """A log of two streams in turn, of which some events cannot be read."""

    def __init__(
        self, count: int, damaged: Sequence[int] = (), archived: Sequence[int] = ()
    ) -> None:
        self.damaged = set(damaged)
        self.archived = set(archived)
        """Their contents are lost."""
        self.read = self.asked = 0
        self.events = [_event(position) for position in range(1, count + 1)]

    async def head(self) -> Head:
        return Head(len(self.events), 0, 0)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        return self._given(self.events[after : after + events_max])

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        [asked] = reads
        ours = [e for e in self.events if e.stream == asked.stream and e.version > asked.after]
        return [StreamPage(asked.stream, self._given(ours[:events_max]), len(ours) > events_max)]

    def _given(self, events: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        self.read += len(events)
        self.asked += 1
        for event in events:
            if event.position in self.archived:
                raise ArchiveUnread(event.position, "cold", "gone", recorded=event.recorded)
            if event.position in self.damaged:
                raise Damaged(event.position, "a bit has flipped")
        return events


def _event(position: int) -> StoredEvent:
    stream = "odd:o" if position % 2 else "even:e"
    name = f"every-{position % 3}"
    version = (position + 1) // 2
    return StoredEvent(position, stream, version, name, 1, position * 10, b"{}", b"", 0, 0)


def positions(events: Sequence[StoredEvent | Large | Broken]) -> list[int]:
    return [each.position for each in events]


@pytest.mark.parametrize("stream", [None, "odd:o"])
async def test_pages_lead_from_the_end_to_the_beginning(stream: str | None) -> None:
    log = Shelf(25)
    expected = [p for p in range(25, 0, -1) if stream is None or p % 2]
    found: list[int] = []
    before: int | None = None
    while True:
        page = await browse(log, Selection(stream=stream), before=before, limit=4)
        found += positions(page.events)
        assert page.end == 25
        if page.older is None:
            break
        before = page.older

    assert found == expected


async def test_only_what_is_shown_is_read_where_nothing_is_passed_over() -> None:
    log = Shelf(1_000)
    await browse(log, Selection(), limit=10)

    assert log.read == 10


async def test_a_damaged_event_has_its_place_and_hides_no_other() -> None:
    log = Shelf(25, damaged=[3, 12, 13, 25])
    page = await browse(log, Selection(), limit=100)

    assert positions(page.events) == list(range(25, 0, -1))
    broken = [each.position for each in page.events if isinstance(each, Broken)]
    assert broken == [25, 13, 12, 3]


async def test_a_damaged_event_of_a_stream_has_its_place_too() -> None:
    log = Shelf(25, damaged=[3, 13, 25])
    page = await browse(log, Selection(stream="odd:o"), limit=100)

    assert positions(page.events) == list(range(25, 0, -2))
    assert [each.position for each in page.events if isinstance(each, Broken)] == [25, 13, 3]


async def test_a_damaged_event_is_shown_whatever_is_selected() -> None:
    log = Shelf(25, damaged=[12])
    page = await browse(log, Selection(names=("every-1",)), kinds=frozenset({"odd"}))

    assert positions(page.events) == [25, 19, 13, 12, 7, 1]


@pytest.mark.parametrize("stream", [None, "even:e"])
async def test_times_and_positions_bound_what_is_given(stream: str | None) -> None:
    selection = Selection(stream=stream, since=60, until=200)
    page = await browse(Shelf(25), selection, after=7, before=19)

    assert positions(page.events) == [p for p in range(18, 7, -1) if stream is None or p % 2 == 0]


@pytest.mark.parametrize("stream", [None, "even:e"])
async def test_a_time_is_found_in_few_reads_where_the_contents_of_years_are_lost(
    stream: str | None,
) -> None:
    """Each event that was archived was passed over by itself: a page took minutes."""
    log = Shelf(4_000, archived=range(1, 3_901))
    page = await browse(log, Selection(stream=stream, since=39_500), limit=2)

    assert positions(page.events) == ([4_000, 3_999] if stream is None else [4_000, 3_998])
    assert log.asked < 50


async def test_one_page_looks_at_so_many_events_and_says_where_to_go_on() -> None:
    log = Shelf(45_000)
    found: list[int] = []
    before: int | None = None
    pages = 0
    while True:
        page = await browse(log, Selection(names=("nothing",)), before=before)
        found += positions(page.events)
        pages += 1
        if page.older is None:
            break
        before = page.older

    assert (found, pages) == ([], 3)


async def test_an_empty_log_and_a_stream_that_is_not_there_have_no_events() -> None:
    assert (await browse(Shelf(0), Selection())).events == []
    assert (await browse(Shelf(5), Selection(stream="no:n"))).events == []
