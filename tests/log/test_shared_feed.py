"""Pages of the log that are read once for several readers: which are, and which never."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from engine.errors import StoreFailed
from engine.log.shared_pages import PAGES, SharedPages
from engine.model.stored import StoredEvent
from tests.support.shelf import Bought, Log


class SlowLog(Log):
    """A log whose pages come when they are let go, in the order in which they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[asyncio.Event] = []
        self.fails = 0

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        gate = asyncio.Event()
        self.held.append(gate)
        await gate.wait()
        if self.fails:
            self.fails -= 1
            raise StoreFailed("it cannot be read now", written=False)
        return await super().read_feed(after, events_max=events_max, bytes_max=bytes_max)


def filled(log: Log, events: int) -> Log:
    for number in range(events):
        log.write(Bought(f"book {number}"))
    return log


async def page(feed: SharedPages, after: int, events_max: int = 2) -> list[int]:
    found = await feed.read_feed(after, events_max=events_max, bytes_max=1 << 20)
    return [stored.position for stored in found]


async def test_a_full_page_is_read_once() -> None:
    log = filled(Log(), 5)
    feed = SharedPages(log)

    assert [await page(feed, 2) for _ in range(3)] == [[3, 4]] * 3
    assert (log.reads, feed.shared) == (1, 2)


async def test_those_who_ask_at_once_share_one_read() -> None:
    log = SlowLog()
    filled(log, 5)
    feed = SharedPages(log)
    readers = [asyncio.ensure_future(page(feed, 0)) for _ in range(4)]
    await asyncio.sleep(0)
    assert len(log.held) == 1
    log.held[0].set()

    assert await asyncio.gather(*readers) == [[1, 2]] * 4


async def test_the_end_of_the_log_is_never_shared() -> None:
    log = SlowLog()
    filled(log, 1)
    feed = SharedPages(log)
    first = asyncio.ensure_future(page(feed, 0))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(page(feed, 0))
    await asyncio.sleep(0)
    log.held[0].set()
    assert await first == [1]
    log.write(Bought("a new one"))
    await asyncio.sleep(0)
    log.held[1].set()

    assert await second == [1, 2]
    third = asyncio.ensure_future(page(feed, 1, 1))
    await asyncio.sleep(0)
    log.held[2].set()
    assert await third == [2]


async def test_who_shares_a_read_that_fails_reads_for_himself() -> None:
    log = SlowLog()
    filled(log, 3)
    feed = SharedPages(log)
    readers = [asyncio.ensure_future(page(feed, 0)) for _ in range(3)]
    await asyncio.sleep(0)
    log.fails = 1
    log.held[0].set()
    with pytest.raises(StoreFailed):
        await readers[0]
    await asyncio.sleep(0)
    for gate in log.held[1:]:
        gate.set()

    assert await asyncio.gather(*readers[1:]) == [[1, 2]] * 2


async def test_who_shares_the_read_of_a_reader_that_leaves_reads_for_himself() -> None:
    log = SlowLog()
    filled(log, 3)
    feed = SharedPages(log)
    readers = [asyncio.ensure_future(page(feed, 0)) for _ in range(3)]
    await asyncio.sleep(0)
    readers[0].cancel()
    readers[1].cancel()
    await asyncio.wait(readers[:2])
    await asyncio.sleep(0)
    for gate in log.held[1:]:
        gate.set()

    assert await readers[2] == [1, 2]


async def test_few_pages_are_kept_and_those_asked_for_last() -> None:
    log = filled(Log(), 4 * PAGES)
    feed = SharedPages(log)
    for number in range(PAGES):
        await page(feed, 2 * number)
    await page(feed, 0)
    await page(feed, 2 * PAGES)
    reads = log.reads
    await page(feed, 0)
    assert log.reads == reads
    await page(feed, 2)
    assert log.reads == reads + 1


async def test_a_single_event_takes_no_pages_place() -> None:
    log = filled(Log(), 3 * PAGES)
    feed = SharedPages(log)
    await page(feed, 0)
    for number in range(2 * PAGES):
        assert await page(feed, number, 1) == [number + 1]
    reads = log.reads

    await page(feed, 0)
    assert log.reads == reads
