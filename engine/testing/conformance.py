"""One suite that every store passes: the contract of `foldline.stores.contract`, case by case.

Subclass `StoreConformance` in a test file, as `class TestMyStore(StoreConformance)`, and say how a
store is made, how the same log is opened again, and how an event in it is damaged. The cases run
under pytest with pytest-asyncio in auto mode. Nothing here knows how a store keeps what it keeps.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from ..errors import Damaged, StoreFailed, StoreLocked
from ..model.stored import ENCODING_JSON, EventData, EventType, Snapshot, StoredEvent, verify
from ..runtime.ports import Ports
from ..stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    Head,
    Outcome,
    Store,
    StreamConflict,
    StreamRead,
    Write,
)

__all__ = ["StoreConformance"]

ADDED = EventType("added", 1, "00aa")
ALL = 1 << 40


def event(number: int, kind: EventType = ADDED, metadata: bytes = b"") -> EventData:
    """Give an event that can be told from others."""
    return EventData(kind, b'{"number":%d}' % number, metadata)


def request(stream: str, expected: int, *numbers: int) -> AppendRequest:
    """Give a request for one stream, one event per number."""
    return AppendRequest([Write(stream, expected, [event(number) for number in numbers])])


def numbers(events: Sequence[StoredEvent]) -> list[int]:
    """Give the numbers of the events."""
    return [msgspec.json.decode(e.payload)["number"] for e in events]


async def append(store: Store, *requests: AppendRequest, recorded: int = 1) -> Sequence[Outcome]:
    """Append a batch and give its outcomes."""
    return (await store.append(Batch(requests, recorded))).outcomes


async def feed(store: Store, after: int = 0) -> Sequence[StoredEvent]:
    """Read the whole log after a position, in pages of seven."""
    found: list[StoredEvent] = []
    while page := await store.read_feed(after, events_max=7, bytes_max=ALL):
        found += page
        after = page[-1].position
    return found


async def stream(store: Store, name: str) -> Sequence[StoredEvent]:
    """Read a whole stream at once."""
    pages = await store.read_streams([StreamRead(name)], events_max=1_000_000, bytes_max=ALL)
    assert not pages[0].more
    return pages[0].events


class StoreConformance(ABC):
    """The cases; abstract in how a store is made."""

    @abstractmethod
    def new_store(self, folder: Path) -> Store:
        """Give a store with a log of its own, not opened yet; `folder` is for its files."""

    @abstractmethod
    def same_log(self, store: Store) -> Store:
        """Give a store for the log of this one, as a next process would."""

    @abstractmethod
    async def damage(self, store: Store, position: int, field: str) -> None:
        """Change a field of a stored event a little, behind the back of the open store.

        The fields are those of StoredEvent that a checksum covers.
        """

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """Give an open store with an empty log."""
        store = self.new_store(tmp_path)
        await store.open(Ports())
        yield store
        await store.close()

    async def reopened(self, store: Store) -> Store:
        """Close a store and open its log again."""
        await store.close()
        again = self.same_log(store)
        await again.open(Ports())
        return again

    # -- opening ----------------------------------------------------------------------------

    async def test_a_new_log_is_empty(self, store: Store) -> None:
        """Nothing is in a new log, and asking is no error."""
        assert await store.head() == Head()
        assert list(await store.event_types()) == []
        assert list(await feed(store)) == []
        assert list(await stream(store, "a:1")) == []
        assert list(await store.read_snapshots(["a:1"])) == []

    async def test_the_log_id_is_made_once(self, store: Store) -> None:
        """A log keeps its id when it is opened again."""
        first = store.log_id
        again = await self.reopened(store)

        assert first
        assert again.log_id == first
        await again.close()

    async def test_two_logs_have_two_ids(self, store: Store, tmp_path: Path) -> None:
        """Another log is told by its id, though its content may be the same."""
        folder = tmp_path / "other"
        folder.mkdir()
        other = self.new_store(folder)
        await other.open(Ports())

        assert other.log_id != store.log_id
        await other.close()

    async def test_a_log_is_open_in_one_engine_at_a_time(self, store: Store) -> None:
        """A second opening is refused, and possible again after the first is closed."""
        second = self.same_log(store)
        with pytest.raises(StoreLocked):
            await second.open(Ports())
        await append(store, request("a:1", 0, 1))
        await store.close()
        await second.open(Ports())

        assert numbers(await feed(second)) == [1]
        await second.close()

    async def test_closing_twice_does_nothing(self, store: Store) -> None:
        """A second close is no error."""
        await store.close()
        await store.close()

    async def test_what_was_appended_is_there_after_reopening(self, store: Store) -> None:
        """Head, types, streams, and the refusal of what does not fit survive."""
        await append(store, request("a:1", 0, 1, 2), request("b:1", 0, 3), recorded=5)
        head, types, events = await store.head(), await store.event_types(), await feed(store)
        again = await self.reopened(store)

        assert await again.head() == head
        assert list(await again.event_types()) == list(types)
        assert list(await feed(again)) == list(events)
        outcomes = await append(again, request("a:1", 0, 9), request("b:1", 1, 4))
        assert outcomes == [StreamConflict("a:1", 0, 2), Appended(4, (2,))]
        await again.close()

    # -- appending --------------------------------------------------------------------------

    async def test_an_event_comes_back_as_it_was(self, store: Store) -> None:
        """Every field is kept, and the position, version and checksum are given."""
        data = EventData(EventType("moved", 7, "beef"), b'{"to": "x"}', b'{"key":"k"}')
        committed = await store.append(Batch([AppendRequest([Write("a:1", 0, [data])])], 42))
        found = (await feed(store))[0]

        assert list(committed.events) == [found]
        assert (found.position, found.stream, found.version) == (1, "a:1", 1)
        assert (found.name, found.event_version, found.recorded) == ("moved", 7, 42)
        assert (found.payload, found.metadata) == (b'{"to": "x"}', b'{"key":"k"}')
        assert found.encoding == ENCODING_JSON
        verify(found)

    async def test_positions_count_from_one_over_all_streams(self, store: Store) -> None:
        """Batches continue each other without a hole."""
        for number in range(5):
            await append(store, request(f"a:{number}", 0, number, 10 + number))

        assert [e.position for e in await feed(store)] == list(range(1, 11))

    async def test_a_request_is_answered_with_its_last_position_and_its_versions(
        self, store: Store
    ) -> None:
        """Each request has its own answer, in the order of the batch."""
        outcomes = await append(store, request("a:1", 0, 1, 2), request("b:1", 0, 3))

        assert outcomes == [Appended(2, (2,)), Appended(3, (1,))]

    async def test_a_pipelined_run_of_one_stream_fits_in_one_batch(self, store: Store) -> None:
        """Each request stands on the version that the one before leads to."""
        outcomes = await append(store, *(request("a:1", n, n) for n in range(50)))

        assert outcomes == [Appended(n + 1, (n + 1,)) for n in range(50)]

    async def test_the_head_is_the_last_event(self, store: Store) -> None:
        """Position, checksum and recorded of the last event stand in the head."""
        await append(store, request("a:1", 0, 1, 2), recorded=9)
        last = (await feed(store))[-1]

        assert await store.head() == Head(last.position, last.checksum, last.recorded)

    @pytest.mark.parametrize("expected", [0, 1, 3, 100])
    async def test_a_request_at_another_version_conflicts(
        self, store: Store, expected: int
    ) -> None:
        """The answer names stream, expected and actual version; nothing of it is written."""
        await append(store, request("a:1", 0, 1, 2))
        outcomes = await append(store, request("a:1", expected, 3), request("b:1", 0, 4))

        assert outcomes == [StreamConflict("a:1", expected, 2), Appended(3, (1,))]
        assert numbers(await feed(store)) == [1, 2, 4]

    async def test_an_empty_stream_is_at_version_zero(self, store: Store) -> None:
        """A stream that does not exist conflicts with any other version."""
        assert await append(store, request("a:1", 1, 1)) == [StreamConflict("a:1", 1, 0)]

    async def test_a_conflict_in_a_pipelined_run_fails_the_rest_of_the_run(
        self, store: Store
    ) -> None:
        """What was decided on an event that does not exist is not tried."""
        outcomes = await append(
            store,
            request("a:1", 0, 1),
            request("a:1", 5, 2),
            request("a:1", 6, 3),
            request("b:1", 0, 4),
            request("a:1", 7, 5),
        )

        assert outcomes == [
            Appended(1, (1,)),
            StreamConflict("a:1", 5, 1),
            StreamConflict("a:1", 6, 1),
            Appended(2, (1,)),
            StreamConflict("a:1", 7, 1),
        ]
        assert numbers(await feed(store)) == [1, 4]

    async def test_the_rest_of_a_run_fails_also_where_it_would_fit_by_luck(
        self, store: Store
    ) -> None:
        """A version that matches is no proof that the state was the same."""
        await append(store, request("a:1", 0, 1, 2))
        outcomes = await append(store, request("a:1", 1, 3), request("a:1", 2, 4))

        assert outcomes == [StreamConflict("a:1", 1, 2), StreamConflict("a:1", 2, 2)]
        assert numbers(await stream(store, "a:1")) == [1, 2]

    async def test_a_conflict_is_over_with_its_batch(self, store: Store) -> None:
        """The next batch is judged by the stream alone."""
        await append(store, request("a:1", 3, 1), request("a:1", 0, 2))

        assert await append(store, request("a:1", 0, 3)) == [Appended(1, (1,))]

    async def test_a_request_over_several_streams_is_appended_whole(self, store: Store) -> None:
        """Its events stand next to each other, one version per stream is answered."""
        writes = [Write("a:1", 0, [event(1), event(2)]), Write("b:1", 0, [event(3)])]
        outcomes = await append(store, request("c:1", 0, 0), AppendRequest(writes))

        assert outcomes[1] == Appended(4, (2, 1))
        assert numbers(await feed(store)) == [0, 1, 2, 3]
        assert [e.stream for e in await feed(store)] == ["c:1", "a:1", "a:1", "b:1"]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_a_request_over_several_streams_is_refused_whole(
        self, store: Store, order: tuple[int, int]
    ) -> None:
        """One stream that does not fit keeps the others from being written."""
        await append(store, request("b:1", 0, 1))
        writes = [Write("a:1", 0, [event(2)]), Write("b:1", 0, [event(3)])]
        outcomes = await append(store, AppendRequest([writes[i] for i in order]))

        assert outcomes == [StreamConflict("b:1", 0, 1)]
        assert numbers(await feed(store)) == [1]

    async def test_a_refused_request_fails_the_rest_of_all_its_streams(self, store: Store) -> None:
        """A later request of any of its streams was decided on what is not stored."""
        writes = [Write("a:1", 0, [event(1)]), Write("b:1", 5, [event(2)])]
        outcomes = await append(
            store, AppendRequest(writes), request("a:1", 0, 3), request("c:1", 0, 4)
        )

        assert outcomes[1] == StreamConflict("a:1", 0, 0)
        assert outcomes[2] == Appended(1, (1,))
        assert numbers(await feed(store)) == [4]

    async def test_a_batch_of_conflicts_leaves_the_log_as_it_is(self, store: Store) -> None:
        """No position is taken, and the head stays."""
        await append(store, request("a:1", 0, 1))
        head = await store.head()
        await append(store, request("a:1", 0, 2), request("b:1", 1, 3))

        assert await store.head() == head
        assert await append(store, request("a:1", 1, 4)) == [Appended(2, (2,))]

    async def test_a_batch_that_fails_burns_no_position(self, store: Store) -> None:
        """Nothing of it is in the log, and the next batch goes on where the last one ended."""
        await append(store, request("a:1", 0, 1))
        changed = EventType(ADDED.name, ADDED.version, "ffff")
        bad = AppendRequest([Write("b:1", 0, [event(2), event(3, changed)])])
        with pytest.raises(StoreFailed) as failed:
            await append(store, request("a:1", 1, 9), bad)

        assert failed.value.written is False
        assert numbers(await feed(store)) == [1]
        assert await append(store, request("a:1", 1, 4), request("b:1", 0, 5)) == [
            Appended(2, (2,)),
            Appended(3, (1,)),
        ]
        assert [e.position for e in await feed(store)] == [1, 2, 3]

    async def test_a_changed_event_type_is_refused_by_name(self, store: Store) -> None:
        """The same version with another schema is told with both, and the stored one stays."""
        await append(store, request("a:1", 0, 1))
        changed = EventType(ADDED.name, ADDED.version, "ffff")
        with pytest.raises(StoreFailed, match=f"{ADDED.schema_hash}.*ffff") as failed:
            await append(store, AppendRequest([Write("b:1", 0, [event(2, changed)])]))

        assert failed.value.written is False
        assert list(await store.event_types()) == [ADDED]

    async def test_an_event_type_goes_on_from_a_former_one(self, store: Store) -> None:
        """A schema that goes on from the stored one takes its place; the former comes no more."""
        await append(store, request("a:1", 0, 1))
        renewed = EventType(ADDED.name, ADDED.version, "ffff", ("00bb", ADDED.schema_hash))
        await append(store, AppendRequest([Write("a:1", 1, [event(2, renewed)])]))

        assert list(await store.event_types()) == [EventType(ADDED.name, ADDED.version, "ffff")]
        assert numbers(await feed(store)) == [1, 2]
        with pytest.raises(StoreFailed, match=f"ffff.*{ADDED.schema_hash}"):
            await append(store, AppendRequest([Write("a:1", 2, [event(3)])]))

    async def test_the_kinds_of_its_streams_are_known(self, store: Store) -> None:
        """Each kind once, sorted, also where one begins like another."""
        assert list(await store.kinds()) == []
        for stream in ("b-c:1", "b:2", "b:1", "a:9", "bc:1", "b:;:"):
            await append(store, request(stream, 0, 1))

        assert list(await store.kinds()) == ["a", "b", "b-c", "bc"]

    async def test_what_is_not_stored_leaves_no_event_type(self, store: Store) -> None:
        """A type is in the log from its first event on, not from the first attempt."""
        never = EventType("never", 1, "01")
        await append(store, request("a:1", 0, 1))
        await append(store, AppendRequest([Write("a:1", 7, [event(2, never)])]))
        changed = EventType(ADDED.name, ADDED.version, "ffff")
        with pytest.raises(StoreFailed):
            await append(
                store, AppendRequest([Write("a:1", 1, [event(2, never), event(3, changed)])])
            )

        assert list(await store.event_types()) == [ADDED]

    async def test_a_caller_that_is_cancelled_leaves_a_whole_batch_or_none(
        self, store: Store
    ) -> None:
        """The store goes on, and knows what it did."""
        waiting = asyncio.ensure_future(
            append(store, request("a:1", 0, 1, 2), request("b:1", 0, 3))
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        outcomes = await append(store, request("c:1", 0, 4))
        read = numbers(await feed(store))

        assert read in ([4], [1, 2, 3, 4])
        assert outcomes == [Appended(len(read), (1,))]

    async def test_appends_at_once_are_one_after_the_other(self, store: Store) -> None:
        """Whoever sends them, positions have no holes and each batch is together."""
        await asyncio.gather(
            *(append(store, request(f"a:{n}", 0, n, n), request(f"b:{n}", 0, n)) for n in range(20))
        )
        found = await feed(store)

        assert [e.position for e in found] == list(range(1, 61))
        read = numbers(found)
        assert all(len(set(read[i : i + 3])) == 1 for i in range(0, 60, 3))

    @pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 33, 127, 129, 511, 513, 700, 1_500])
    async def test_a_batch_of_any_size_is_stored_whole(self, store: Store, count: int) -> None:
        """No size falls between the statements that a store may have prepared."""
        await append(store, *(request(f"a:{n % 13}", n // 13, n) for n in range(count)))

        assert numbers(await feed(store)) == list(range(count))

    # -- what is in an event ----------------------------------------------------------------

    async def test_a_batch_has_one_recorded_time(self, store: Store) -> None:
        """It is the batch's, for all its events."""
        await append(store, request("a:1", 0, 1, 2), request("b:1", 0, 3), recorded=77)

        assert {e.recorded for e in await feed(store)} == {77}

    async def test_recorded_never_decreases(self, store: Store) -> None:
        """A clock that goes back does not take the log with it, nor over a restart."""
        for recorded in (100, 50, 120):
            await append(store, request(f"a:{recorded}", 0, 1), recorded=recorded)
        again = await self.reopened(store)
        await append(again, request("b:1", 0, 1), recorded=3)

        assert [e.recorded for e in await feed(again)] == [100, 100, 120, 120]
        await again.close()

    @pytest.mark.parametrize(
        "payload",
        [
            b"{}",
            b' { "a" : 1e400 } ',
            '{"ü":"日本\\u0000"}'.encode(),
            b'{"a":"' + b"x" * 300_000 + b'"}',
        ],
        ids=["empty", "spaces", "unicode", "large"],
    )
    @pytest.mark.parametrize("metadata", [b"", b'{"key":"\xc3\xa4"}'], ids=["bare", "traced"])
    async def test_bytes_come_back_exactly(
        self, store: Store, payload: bytes, metadata: bytes
    ) -> None:
        """A store never rewrites what it is given."""
        data = EventData(ADDED, payload, metadata)
        await append(store, AppendRequest([Write("a:1", 0, [data, event(2), data])]))

        for read in (await feed(store), await stream(store, "a:1")):
            assert [(e.payload, e.metadata) for e in read][::2] == [(payload, metadata)] * 2

    async def test_other_encodings_may_hold_any_bytes(self, store: Store) -> None:
        """What is encrypted or binary comes back as it was, beside JSON."""
        blob = bytes(range(256)) * 3
        binary = EventData(ADDED, blob, b"\x00\xff", encoding=7)
        await append(store, AppendRequest([Write("a:1", 0, [event(1), binary, event(2)])]))

        for read in (await feed(store), await stream(store, "a:1")):
            assert [e.encoding for e in read] == [0, 7, 0]
            assert (read[1].payload, read[1].metadata) == (blob, b"\x00\xff")

    @pytest.mark.parametrize(
        "name", ["a:1:2", "a:ü", "a:'; drop table events", 'a:"', "a:" + "x" * 255]
    )
    async def test_a_stream_may_have_any_id(self, store: Store, name: str) -> None:
        """Names are values, and those that begin alike are not mixed up."""
        await append(store, request(name, 0, 1), request(name + "0", 0, 2))

        assert numbers(await stream(store, name)) == [1]
        assert [e.stream for e in await feed(store)] == [name, name + "0"]

    async def test_streams_whose_names_look_alike_are_apart(self, store: Store) -> None:
        """Names are compared by their characters, not by case, accents or width, nor cut."""
        names = [
            "a:x",
            "a:X",
            "a:x ",
            "a: x",
            "a:\u00e9",
            "a:e\u0301",
            "a:x\0",
            "a:x\0y",
            "a:\uff11",
            "a:1",
        ]
        await append(store, *(request(name, 0, number) for number, name in enumerate(names)))
        again = await self.reopened(store)
        pages = await again.read_streams(
            [StreamRead(n) for n in names], events_max=99, bytes_max=ALL
        )

        assert [numbers(page.events) for page in pages] == [[n] for n in range(len(names))]
        assert await append(again, request("a:X", 1, 9)) == [Appended(len(names) + 1, (2,))]
        await again.close()

    async def test_event_types_are_kept_in_the_order_of_their_first_use(self, store: Store) -> None:
        """Each is there once, versions apart."""
        types = [EventType("b", 1, "01"), EventType("a", 1, "02"), EventType("b", 2, "03")]
        for number, kind in enumerate([*types, *types]):
            await append(store, AppendRequest([Write("a:1", number, [event(number, kind)])]))

        assert list(await store.event_types()) == types
        assert [(e.name, e.event_version) for e in await feed(store)][:3] == [
            ("b", 1),
            ("a", 1),
            ("b", 2),
        ]

    # -- reading ----------------------------------------------------------------------------

    async def test_many_streams_are_read_at_once_in_the_order_asked(self, store: Store) -> None:
        """A page per read, also for streams that do not exist."""
        await append(store, *(request(f"a:{n}", 0, n, n) for n in range(30)))
        reads = [StreamRead(f"a:{n}") for n in (29, 3, 99, 0)]
        pages = await store.read_streams(reads, events_max=1_000, bytes_max=ALL)

        assert [(page.stream, numbers(page.events), page.more) for page in pages] == [
            ("a:29", [29, 29], False),
            ("a:3", [3, 3], False),
            ("a:99", [], False),
            ("a:0", [0, 0], False),
        ]

    async def test_a_stream_is_read_after_a_version(self, store: Store) -> None:
        """Only later events come, and none after the last."""
        await append(store, request("a:1", 0, 1, 2, 3))
        reads = [StreamRead("a:1", after) for after in (1, 3, 9)]
        for read, left in zip(reads, ([2, 3], [], []), strict=True):
            page = (await store.read_streams([read], events_max=9, bytes_max=ALL))[0]
            assert (numbers(page.events), page.more) == (left, False)

    @pytest.mark.parametrize("events_max", [1, 2, 3, 5, 11, 12, 13])
    async def test_streams_are_read_page_by_page(self, store: Store, events_max: int) -> None:
        """All pages together hold at most so many; what is cut or not begun says more."""
        await append(
            store, *(request(f"a:{n}", 0, *range(n * 10, n * 10 + n)) for n in range(1, 5))
        )
        found: dict[str, list[int]] = {f"a:{n}": [] for n in range(1, 6)}
        todo = [StreamRead(name) for name in found]
        while todo:
            pages = await store.read_streams(todo, events_max=events_max, bytes_max=ALL)
            assert 1 <= sum(len(page.events) for page in pages) <= events_max or len(todo) == 1
            for page in pages:
                found[page.stream] += numbers(page.events)
            todo = [StreamRead(p.stream, len(found[p.stream])) for p in pages if p.more]

        assert found == {f"a:{n}": list(range(n * 10, n * 10 + n)) for n in range(1, 5)} | {
            "a:5": []
        }

    async def test_streams_are_read_within_bytes(self, store: Store) -> None:
        """A page is cut before it is too large; one event alone always comes."""
        data = EventData(ADDED, b'"' + b"x" * 998 + b'"')
        await append(store, AppendRequest([Write("a:1", 0, [data] * 10)]), request("b:1", 0, 1))
        reads = [StreamRead("a:1"), StreamRead("b:1")]
        for bytes_max, count in ((1, 1), (999, 1), (2_000, 2), (3_999, 3)):
            pages = await store.read_streams(reads, events_max=100, bytes_max=bytes_max)
            assert [(len(page.events), page.more) for page in pages] == [(count, True), (0, True)]

    async def test_the_feed_is_read_after_a_position(self, store: Store) -> None:
        """At most so many events come, and nothing after the end."""
        await append(store, request("a:1", 0, *range(10)))
        page = await store.read_feed(4, events_max=3, bytes_max=ALL)

        assert [e.position for e in page] == [5, 6, 7]
        assert list(await store.read_feed(10, events_max=3, bytes_max=ALL)) == []
        assert list(await store.read_feed(99, events_max=3, bytes_max=ALL)) == []

    async def test_the_feed_is_read_within_bytes(self, store: Store) -> None:
        """A page is cut before it is too large; one event alone always comes."""
        data = EventData(ADDED, b'"' + b"x" * 498 + b'"', b"y" * 500)
        await append(store, AppendRequest([Write("a:1", 0, [data] * 10)]))
        for bytes_max, count in ((1, 1), (1_999, 1), (2_000, 2), (ALL, 10)):
            page = await store.read_feed(0, events_max=100, bytes_max=bytes_max)
            assert len(page) == count

    async def test_a_reader_beside_a_writer_sees_whole_requests_in_order(
        self, store: Store
    ) -> None:
        """No hole, no half of a request, and nothing that appears later before what was read."""
        seen: list[StoredEvent] = []
        done = asyncio.Event()

        async def write() -> None:
            for batch in range(60):
                requests: list[AppendRequest] = []
                for size in (1, 3, 2):
                    # The number tells how many events of its request follow.
                    left = [event(n) for n in reversed(range(size))]
                    requests.append(AppendRequest([Write(f"a:{batch}-{size}", 0, left)]))
                await store.append(Batch(requests, batch))
            done.set()

        async def read() -> None:
            while True:
                last = done.is_set()
                after = seen[-1].position if seen else 0
                page = await store.read_feed(after, events_max=1_000, bytes_max=ALL)
                seen.extend(page)
                if page:
                    assert numbers(page[-1:]) == [0], "a request was seen by half"
                elif last:
                    return

        await asyncio.gather(write(), read(), read_again(store, done))

        assert [e.position for e in seen] == list(range(1, 361))
        assert list(await feed(store)) == seen

    # -- damage and history -----------------------------------------------------------------

    @pytest.mark.parametrize(
        "field",
        ["payload", "metadata", "recorded", "encoding", "checksum", "version", "event_version"],
    )
    async def test_a_damaged_event_stops_its_readers_and_no_others(
        self, store: Store, field: str
    ) -> None:
        """It is named by position; what stands before it, and other streams, can be read."""
        kinds = [EventType("added", version, f"0{version}") for version in (1, 2)]
        data = [event(n, kinds[0], b'{"key":"k"}') for n in range(3)]
        await append(
            store,
            AppendRequest([Write("a:1", 0, data)]),
            AppendRequest([Write("b:1", 0, [event(9, kinds[1])])]),
        )
        await self.damage(store, 3, field)

        with pytest.raises(Damaged) as damaged:
            await store.read_feed(0, events_max=10, bytes_max=ALL)
        assert damaged.value.position == 3
        with pytest.raises(Damaged) as damaged:
            await store.read_streams([StreamRead("a:1")], events_max=10, bytes_max=ALL)
        assert damaged.value.position == 3
        assert numbers(await store.read_feed(0, events_max=2, bytes_max=ALL)) == [0, 1]
        assert numbers(await stream(store, "b:1")) == [9]

    async def test_two_histories_with_the_same_content_can_be_told_apart(
        self, tmp_path: Path
    ) -> None:
        """By the log's id always, and by the checksums if they were written at other times."""
        logs: list[Sequence[StoredEvent]] = []
        for number, recorded in enumerate((5, 6)):
            folder = tmp_path / str(number)
            folder.mkdir()
            other = self.new_store(folder)
            await other.open(Ports())
            await append(other, request("a:1", 0, 1), recorded=recorded)
            logs.append(await feed(other))
            await other.close()

        assert logs[0][0].payload == logs[1][0].payload
        assert logs[0][0].checksum != logs[1][0].checksum

    # -- snapshots --------------------------------------------------------------------------

    async def test_snapshots_are_kept_and_found_by_stream(self, store: Store) -> None:
        """Those asked for come, also after reopening."""
        kept = [Snapshot(f"a:{n}", n, n, n, 1, b"\x00state%d" % n) for n in range(1, 4)]
        await store.write_snapshots(kept)
        again = await self.reopened(store)
        found = await again.read_snapshots(["a:3", "a:9", "a:1"])

        assert sorted(found, key=lambda s: s.version) == [kept[0], kept[2]]
        await again.close()

    async def test_the_snapshot_given_last_is_kept_also_an_older_one(self, store: Store) -> None:
        """What was kept may be of a history that is no more."""
        for version, state in ((5, b"5"), (7, b"7"), (6, b"6")):
            await store.write_snapshots([Snapshot("a:1", version, version, 1, 1, state)])

        assert [s.state for s in await store.read_snapshots(["a:1"])] == [b"6"]

    async def test_many_snapshots_go_in_and_come_out_byte_for_byte(self, store: Store) -> None:
        """Any stream name, any bytes, large and empty."""
        names = [*(f"a:{n}" for n in range(300)), "a:é 'quoted' \"x\"", "a:\U0001f4e6"]
        kept = [
            Snapshot(name, n + 1, 2**40 + n, 2**32 - 1, 3, bytes(range(256)) * (n % 7))
            for n, name in enumerate(names)
        ]
        await store.write_snapshots(kept)

        found = await store.read_snapshots([*names, "a:none"])
        assert sorted(found, key=lambda s: s.version) == kept


async def read_again(store: Store, done: asyncio.Event) -> None:
    """Read the first page over and over: what was there stays as it was."""
    before: Sequence[StoredEvent] = []
    while not done.is_set():
        page = await store.read_feed(0, events_max=5, bytes_max=ALL)
        assert list(page)[: len(before)] == list(before)
        before = page
