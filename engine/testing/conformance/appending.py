"""Cases of a log: how it is opened, and what an append does and refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ...errors import StoreFailed, StoreLocked
from ...model.stored import ENCODING_JSON, LATER, EventData, EventType, verify
from ...runtime.ports import Ports
from ...stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    Head,
    Store,
    StreamConflict,
    Write,
)
from .given_log import ADDED, LogCases, append, event, feed, numbers, request, stream

__all__ = ["AppendingCases"]


class AppendingCases(LogCases):
    """Opening and appending."""

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

    async def test_a_later_event_type_stays_where_a_former_one_comes(self, store: Store) -> None:
        """A type of which a later form is stored already is appended, and changes nothing."""
        await append(store, request("a:1", 0, 1))
        known = ("00bb", LATER, ADDED.schema_hash)
        former = EventType(ADDED.name, ADDED.version, "00cc", known)
        await append(store, AppendRequest([Write("a:1", 1, [event(2, former)])]))

        assert list(await store.event_types()) == [ADDED]
        first = EventType("first-former", 1, "00aa", ("00bb", LATER, "ffff"))
        await append(store, AppendRequest([Write("a:1", 2, [event(3, first)])]))
        assert (await store.event_types())[1] == EventType("first-former", 1, "00aa")
        assert numbers(await feed(store)) == [1, 2, 3]

    async def test_the_kinds_of_its_streams_are_known(self, store: Store) -> None:
        """Each kind once, sorted, also where one begins like another."""
        assert list(await store.kinds()) == []
        for name in ("b-c:1", "b:2", "b:1", "a:9", "bc:1", "b:;:"):
            await append(store, request(name, 0, 1))

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
