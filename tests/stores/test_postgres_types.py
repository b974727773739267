"""Types of events in PostgreSQL: each has its number for ever, whoever reads them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from engine import Ports
from engine.model.stored import EventType
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.stores.postgres.address import read_address
from engine.stores.postgres.line import Line
from engine.stores.postgres.log import writer
from engine.stores.postgres.log.reading import read_types
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, event, feed, request
from tests.support.postgres import Server, asked

YES = EventType("yes", 1, "01")
ZED = EventType("zed", 1, "02")


@pytest.fixture
def schema(postgres: Server) -> str:
    return postgres.new_schema()


@pytest.fixture
async def store(postgres: Server, schema: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(read_address(postgres.url(schema, "lease=3600")))
    await opened.open(Ports())
    await append(opened, request("a:1", 0, 1))
    yield opened
    await opened.close()


def of(kind: EventType, stream: str, expected: int = 0) -> AppendRequest:
    return AppendRequest([Write(stream, expected, [event(2, kind)])])


def opened_writer(store: PostgresStore) -> writer.Writer:
    assert store._writer is not None
    return store._writer


async def test_a_late_answer_about_the_types_takes_no_number_back(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader meets a type that it does not know, and asks, while another batch brings one."""
    has_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def read_late(line: Line, schema: str) -> object:
        rows = await read_types(line, schema)
        has_asked.set()
        await may_answer.wait()
        return rows

    opened_writer(store).names.clear()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "read_types", read_late)
        page = store.read_feed(0, events_max=1, bytes_max=1)
        reading = asyncio.ensure_future(page)
        await has_asked.wait()
        await append(store, of(YES, "y:1"))
        may_answer.set()
        await reading
    assert [kind.name for kind in await store.event_types()] == ["added", "yes"]
    await append(store, of(ZED, "z:1"), of(YES, "y:1", 1))

    names = ["added", "yes", "zed", "yes"]
    assert [each.name for each in await feed(store)] == names
    assert [kind.name for kind in await store.event_types()] == ["added", "yes", "zed"]
    await store.close()
    await store.open(Ports())
    assert [each.name for each in await feed(store)] == names


async def test_a_type_that_the_writer_does_not_know_is_looked_for(store: PostgresStore) -> None:
    await append(store, of(YES, "y:1"))
    del opened_writer(store).types["yes", 1]

    assert await append(store, of(ZED, "z:1")) == [Appended(3, (1,))]
    assert [each.name for each in await feed(store)] == ["added", "yes", "zed"]


async def test_the_database_gives_the_number_of_a_type_to_no_other(
    postgres: Server, schema: str, store: PostgresStore
) -> None:
    def known() -> Sequence[str]:
        return postgres.sql(f"SELECT * FROM {schema}.event_types ORDER BY number").splitlines()

    before, empty = known(), "'{}'::text[], '{}'::integer[]"
    call = (
        f"SELECT state FROM {schema}.append_1($1, $2, $3, 0, '{{}}', '{{}}', '{{}}', '{{}}', "
        f"'{{}}', '{{}}', '{{}}', {empty}, true, true, '{{1}}', '{{zed}}', '{{1}}', '{{02}}')"
    )
    head = await store.head()
    _, session = store.writing()
    with pytest.raises(Exception, match="another type of events has that number"):
        await asked(postgres, call, session, head.position, head.checksum)

    assert known() == before
