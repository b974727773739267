"""Cases of a log: events that are found by their tags, and conditions that an append checks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from ...errors import StoreRefused
from ...model.stored import EventData, EventType
from ...stores.contract.log import (
    Appended,
    AppendRequest,
    Outcome,
    Store,
    StreamConflict,
    Write,
)
from ...stores.contract.tags import TagForm, TagRead, TagsChanged, Unchanged
from .given_log import ADDED, ALL, LogCases, append, event, needing, numbers, request

__all__ = ["TaggingCases"]

OTHER = EventType("other", 1, "00bb")
_FORMS = [
    TagForm("added", 1, (("a", "a"), ("b", "b"))),
    TagForm("other", 1, (("a", "a"),), ("x:y",)),
]
_NAMES = ("added", "other")


def _tagged(number: int, kind: EventType = ADDED, **tags: str) -> EventData:
    """Give an event with tags, which its payload has too."""
    payload = msgspec.json.encode({"number": number, **tags})
    named = tuple(f"{name}:{value}" for name, value in tags.items())
    return EventData(kind, payload, tags=(*named, "x:y") if kind is OTHER else named)


def _request(
    stream: str, expected: int, *events: EventData, unchanged: Sequence[tuple[str, int]] = ()
) -> AppendRequest:
    """Give a request with conditions, each of one tag and the position that it was read at."""
    extras = [Unchanged((tag,), _NAMES, after, stream) for tag, after in unchanged]
    return AppendRequest([Write(stream, expected, events)], extras)


async def _found(
    store: Store, *tags: str, names: tuple[str, ...] = _NAMES, after: int = 0
) -> list[int]:
    """Give the numbers of the events that a query selects."""
    (page,) = await store.read_tagged([TagRead(tags, names, after)], events_max=100, bytes_max=ALL)
    assert not page.more
    return numbers(page.events)


class TaggingCases(LogCases):
    """Tags, and conditions by tags."""

    async def test_events_are_found_by_their_tags(self, store: Store) -> None:
        """By all of those that are asked for, by name, and behind a position; in order."""
        await store.index_tags(_FORMS)
        await append(
            store,
            _request("s:1", 0, _tagged(1, a="1", b="2"), event(2), _tagged(3, a="1", b="3")),
            _request("s:2", 0, _tagged(4, OTHER, a="1"), _tagged(5, a="2", b="2")),
        )

        assert await _found(store, "a:1") == [1, 3, 4]
        assert await _found(store, "b:2", "a:1") == [1]
        assert await _found(store, "a:1", names=("added",)) == [1, 3]
        assert await _found(store, "a:1", names=("never-stored",)) == []
        assert await _found(store, "a:1", after=3) == [4]
        assert await _found(store, "x:y") == [4]
        assert await _found(store, "a:3") == []

    async def test_pages_of_tagged_events_are_bounded_together(self, store: Store) -> None:
        """By events and by bytes, at least one event; a page that was cut says so."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, *(_tagged(n, a=str(n % 2)) for n in range(6))))
        reads = [TagRead(("a:0",), _NAMES), TagRead(("a:1",), _NAMES), TagRead(("a:9",), _NAMES)]
        pages = await store.read_tagged(reads, events_max=4, bytes_max=ALL)

        assert [(numbers(p.events), p.more) for p in pages] == [
            ([0, 2, 4], False),
            ([1], True),
            ([], False),
        ]
        pages = await store.read_tagged(reads, events_max=9, bytes_max=1)
        assert [(numbers(p.events), p.more) for p in pages[:2]] == [([0], True), ([], True)]
        for expected in ([2], [4]):
            after = pages[0].events[-1].position
            pages = await store.read_tagged(
                [TagRead(("a:0",), _NAMES, after)], events_max=1, bytes_max=ALL
            )
            assert numbers(pages[0].events) == expected
        assert not pages[0].more

    async def test_a_condition_holds_until_an_event_comes(self, store: Store) -> None:
        """One that it selects, behind its position; the request is refused alone."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, _tagged(1, a="1"), _tagged(2, a="2")))
        outcomes = await append(
            store,
            _request("s:2", 0, _tagged(3, b="1"), unchanged=[("a:2", 2), ("a:1", 0)]),
            _request("s:3", 0, _tagged(4, b="1"), unchanged=[("a:1", 1), ("a:2", 2)]),
            _request("s:2", 0, event(5)),
        )

        assert outcomes == [TagsChanged(1), Appended(3, (1,)), StreamConflict("s:2", 0, 0)]
        assert await _found(store, "b:1") == [4]

    async def test_a_condition_selects_by_all_tags_and_by_name(self, store: Store) -> None:
        """An event with some of the tags, or of another name, refuses nothing."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, _tagged(1, a="1", b="1"), _tagged(2, OTHER, a="1")))

        async def judged(tags: tuple[str, ...], names: tuple[str, ...], after: int) -> Outcome:
            extras = [Unchanged(tags, names, after, "s:2")]
            (outcome,) = await append(store, AppendRequest([Write("s:2", 0, [event(3)])], extras))
            return outcome

        assert await judged(("a:1", "b:1"), _NAMES, 0) == TagsChanged(0)
        assert await judged(("a:1",), ("other",), 1) == TagsChanged(0)
        assert await judged(("b:1", "a:1"), ("added",), 0) == TagsChanged(0)
        assert await judged(("a:1", "b:2"), _NAMES, 0) == Appended(3, (1,))

    async def test_an_event_of_another_name_is_not_what_a_condition_selects(
        self, store: Store
    ) -> None:
        """Nor is one that has some of the tags only."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, _tagged(1, a="1", b="1"), _tagged(2, OTHER, a="1")))
        holds = [
            Unchanged(("a:1",), ("added",), 1, "s:2"),
            Unchanged(("a:1", "x:y"), ("added",), 0, "s:2"),
            Unchanged(("a:1", "b:1"), ("other", "never-stored"), 0, "s:2"),
        ]
        (outcome,) = await append(store, AppendRequest([Write("s:2", 0, [event(3)])], holds))

        assert outcome == Appended(3, (1,))

    async def test_an_earlier_request_of_the_batch_counts(self, store: Store) -> None:
        """If it is appended; one that was refused does not."""
        await store.index_tags(_FORMS)
        outcomes = await append(
            store,
            _request("s:1", 7, _tagged(1, a="1")),
            _request("s:2", 0, _tagged(2, a="1"), unchanged=[("a:1", 0)]),
            _request("s:3", 0, _tagged(3, a="1"), unchanged=[("a:1", 0)]),
            _request("s:4", 0, _tagged(4, a="2"), unchanged=[("a:2", 0)]),
        )

        assert outcomes == [
            StreamConflict("s:1", 7, 0),
            Appended(1, (1,)),
            TagsChanged(0),
            Appended(2, (1,)),
        ]
        assert await _found(store, "a:1") == [2]

    async def test_a_refused_request_leaves_nothing_in_the_index(self, store: Store) -> None:
        """Neither the first time nor for an engine that opens the log again."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, _tagged(1, a="1")))
        await append(
            store, _request("s:1", 0, _tagged(2, a="1")), _request("s:2", 0, _tagged(3, a="1"))
        )
        assert await _found(store, "a:1") == [1, 3]
        again = await self.reopened(store)

        assert await again.index_tags(_FORMS) == 0
        assert await _found(again, "a:1") == [1, 3]
        assert await append(
            again, _request("s:3", 0, event(4), unchanged=[("a:1", 1)]), request("s:1", 1, 5)
        ) == [TagsChanged(0), Appended(3, (2,))]
        await again.close()

    @needing("tags of stored events")
    async def test_events_get_the_tags_that_are_declared_later(self, store: Store) -> None:
        """And lose those that are not declared any more."""
        old = [
            EventData(kind, b'{"number":%d,"a":"1","b":7}' % n)
            for n, kind in enumerate([ADDED, OTHER] * 3)
        ]
        await append(store, AppendRequest([Write("s:1", 0, old)]))
        assert await _found(store, "a:1") == []

        assert await store.index_tags(_FORMS) == 6
        assert await _found(store, "a:1") == [0, 1, 2, 3, 4, 5]
        assert await _found(store, "b:7", "a:1") == [0, 2, 4]
        assert await _found(store, "x:y") == [1, 3, 5]
        await append(store, _request("s:1", 6, _tagged(6, a="1")))
        assert await store.index_tags([TagForm("added", 1, (("c", "b"),)), _FORMS[1]]) == 4

        assert await _found(store, "a:1") == [1, 3, 5]
        assert await _found(store, "c:7") == [0, 2, 4]
        assert await append(store, _request("s:2", 0, event(9), unchanged=[("c:7", 4)])) == [
            TagsChanged(0)
        ]

    @needing("tags of stored events")
    async def test_what_has_no_tag_is_said_and_nothing_is_changed(self, store: Store) -> None:
        """An event whose field is no text and no whole number; null is no tag."""
        await store.index_tags(_FORMS)
        await append(store, _request("s:1", 0, _tagged(1, a="1")))
        odd = [EventData(OTHER, b'{"number":2,"a":null}'), EventData(OTHER, b'{"a":[1]}')]
        await append(store, AppendRequest([Write("s:2", 0, odd[:1])]))
        assert await store.index_tags([TagForm("other", 1, (("a", "a"),))]) == 1
        assert await store.index_tags(_FORMS) == 2
        await append(store, AppendRequest([Write("s:2", 1, odd[1:])]))

        with pytest.raises(StoreRefused, match="at position 3 has no text"):
            await store.index_tags([_FORMS[0], TagForm("other", 1, (("b", "a"),))])
        assert await _found(store, "a:1") == [1]
        assert await append(store, request("s:1", 1, 4)) == [Appended(4, (2,))]
