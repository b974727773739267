"""The log page by page: in order, read ahead, and never taken to end before it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from engine import Damaged, Limits
from engine.log.reader import LogReader
from engine.model.stored import EventData, EventType, StoredEvent
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.memory import MemoryStore
from tests.support.waiting import settle

TYPE = EventType("happened", 1, "0")


class Store(MemoryStore):
    """Notes what is asked for, and fails at a position when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []
        self.damaged: int | None = None
        self.at_work = 0
        self.held_from: int | None = None
        """Reads from this position on wait until `release`."""
        self.release = asyncio.Event()

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        self.asked.append((after, events_max))
        self.at_work += 1
        try:
            if self.held_from is not None and after >= self.held_from:
                await self.release.wait()
            if self.damaged is not None and after < self.damaged <= after + events_max:
                raise Damaged(self.damaged, "planted")
            return await super().read_feed(after, events_max=events_max, bytes_max=bytes_max)
        finally:
            self.at_work -= 1

    async def add(self, count: int) -> None:
        head = await self.head()
        write = Write("s", head.position, [EventData(TYPE, b"{}") for _ in range(count)])
        await self.append(Batch([AppendRequest([write])], 0))


@pytest_asyncio.fixture
async def store() -> AsyncIterator[Store]:
    store = Store()
    await store.open(Ports())
    yield store
    await store.close()


def reader_of(store: Store) -> LogReader:
    return LogReader(store, Limits(page_events=3))


async def positions(reader: LogReader, after: int) -> list[int]:
    return [event.position for event in await reader.read(after)]


async def test_pages_follow_each_other_to_the_end(store: Store) -> None:
    await store.add(8)
    reader = reader_of(store)

    assert await positions(reader, 0) == [1, 2, 3]
    assert await positions(reader, 3) == [4, 5, 6]
    assert await positions(reader, 6) == [7, 8]
    assert await positions(reader, 8) == []
    reader.close()


async def test_two_pages_are_read_while_a_full_one_is_used_and_no_more(store: Store) -> None:
    await store.add(30)
    reader = reader_of(store)
    await reader.read(0)
    await settle()
    assert [after for after, _ in store.asked] == [0, 3, 6]

    await reader.read(3)
    await settle()
    assert [after for after, _ in store.asked] == [0, 3, 6, 9]
    reader.close()


async def test_nothing_is_read_ahead_of_the_logs_end(store: Store) -> None:
    await store.add(2)
    reader = reader_of(store)
    await reader.read(0)
    await settle()

    assert store.asked == [(0, 3)]


async def test_an_end_that_was_read_ahead_is_looked_at_again(store: Store) -> None:
    await store.add(3)
    reader = reader_of(store)
    assert await positions(reader, 0) == [1, 2, 3]
    await settle()
    assert store.at_work == 0
    await store.add(2)

    assert await positions(reader, 3) == [4, 5]
    reader.close()


async def test_a_reader_may_go_back(store: Store) -> None:
    await store.add(9)
    reader = reader_of(store)
    await reader.read(0)

    assert await positions(reader, 1) == [2, 3, 4]
    assert await positions(reader, 0) == [1, 2, 3]
    reader.close()


async def test_damage_is_met_behind_all_that_stands_before_it(store: Store) -> None:
    await store.add(9)
    store.damaged = 5
    reader = reader_of(store)

    assert await positions(reader, 0) == [1, 2, 3]
    assert await positions(reader, 3) == [4]
    with pytest.raises(Damaged, match="position 5"):
        await reader.read(4)
    reader.close()


async def test_damage_that_nobody_comes_to_is_told_to_nobody(store: Store) -> None:
    await store.add(9)
    store.damaged = 4
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    reader = reader_of(store)
    await reader.read(0)
    await settle()
    reader.close()
    del reader
    await settle()

    assert told == []


async def test_a_reader_that_is_closed_leaves_nothing_at_work(store: Store) -> None:
    await store.add(9)
    store.held_from = 3
    reader = reader_of(store)
    await reader.read(0)
    await settle()
    assert store.at_work == 2

    reader.close()
    await settle()
    assert store.at_work == 0


async def test_a_caller_that_leaves_takes_what_was_read_ahead_with_it(store: Store) -> None:
    await store.add(9)
    store.held_from = 3
    reader = reader_of(store)
    await reader.read(0)
    waiting = asyncio.ensure_future(reader.read(3))
    await settle()
    waiting.cancel()
    await settle()

    assert waiting.cancelled()
    assert store.at_work == 0
    store.release.set()
    assert await positions(reader, 3) == [4, 5, 6]
    reader.close()
