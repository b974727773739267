"""Cases of a log: what is in an event, how streams and the feed are read, damage, snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from ...errors import Damaged
from ...model.stored import EventData, EventType, Snapshot, StoredEvent
from ...runtime.ports import Ports
from ...stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    Store,
    StreamRead,
    Write,
)
from .given_log import (
    ADDED,
    ALL,
    LogCases,
    append,
    event,
    feed,
    needing,
    numbers,
    request,
    stream,
)

__all__ = ["ReadingCases"]


class ReadingCases(LogCases):
    """What comes back."""

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

    @needing("snapshots")
    async def test_snapshots_are_kept_and_found_by_stream(self, store: Store) -> None:
        """Those asked for come, also after reopening."""
        kept = [Snapshot(f"a:{n}", n, n, n, 1, b"\x00state%d" % n) for n in range(1, 4)]
        await store.write_snapshots(kept)
        again = await self.reopened(store)
        found = await again.read_snapshots(["a:3", "a:9", "a:1"])

        assert sorted(found, key=lambda s: s.version) == [kept[0], kept[2]]
        await again.close()

    @needing("snapshots")
    async def test_the_snapshot_given_last_is_kept_also_an_older_one(self, store: Store) -> None:
        """What was kept may be of a history that is no more."""
        for version, state in ((5, b"5"), (7, b"7"), (6, b"6")):
            await store.write_snapshots([Snapshot("a:1", version, version, 1, 1, state)])

        assert [s.state for s in await store.read_snapshots(["a:1"])] == [b"6"]

    @needing("snapshots")
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
