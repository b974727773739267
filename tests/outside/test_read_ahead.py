"""A log in PostgreSQL read from end to end: pages come before they are asked for."""

from __future__ import annotations

from engine import Ports
from engine.model.stored import EventData, StoredEvent
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.postgres.address import read_address
from engine.stores.postgres.outside.log import PostgresLogReader
from engine.stores.postgres.views.link import Place
from engine.stores.urls import open_backend
from engine.testing.conformance import ADDED
from tests.outside.copied import NewStore, raw

_BYTES: int = 1_000_000


def walked(store: str) -> PostgresLogReader:
    return PostgresLogReader(Place(read_address(store), Ports()), walked=True)


def positions(page: list[StoredEvent]) -> list[int]:
    return [event.position for event in page]


async def more(store: str, count: int) -> None:
    log = open_backend(store).log()
    await log.open(Ports())
    for n in range(count):
        write = Write(f"more:{n}", 0, [EventData(ADDED, b"{}")])
        await log.append(Batch([AppendRequest([write])], 2_000))
    await log.close()


def read(log: PostgresLogReader, after: int, most: int, bytes_max: int = _BYTES) -> list[int]:
    page = log.read_feed(after, events_max=most, bytes_max=bytes_max)
    log.head()  # behind what is read ahead, which has come by now
    return positions(list(page))


async def test_pages_that_are_read_ahead_are_those_that_are_asked_for(new: NewStore) -> None:
    store = new("postgresql")
    await raw(store, 20)
    with walked(store) as log:
        assert read(log, 0, 6) == [1, 2, 3, 4, 5, 6]
        assert read(log, 6, 6) == [7, 8, 9, 10, 11, 12]
        assert read(log, 12, 3) == [13, 14, 15], "fewer of what has come"
        assert read(log, 15, 8) == [16, 17, 18, 19, 20], "more than have come"
        assert read(log, 3, 2) == [4, 5], "another place"
        assert read(log, 5, 2, bytes_max=1) == [6], "no more bytes than were asked for"
        assert read(log, 20, 2) == []


async def test_the_end_of_what_was_read_ahead_is_not_the_end_of_the_log(new: NewStore) -> None:
    store = new("postgresql")
    await raw(store, 7)
    with walked(store) as log:
        assert read(log, 0, 5) == [1, 2, 3, 4, 5]
        await more(store, 3)
        assert read(log, 5, 5) == [6, 7, 8, 9, 10]
