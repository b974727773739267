"""A way to DynamoDB that is dead, and credentials that it refuses while an engine runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from engine import Ports, StoreFailed
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.testing.conformance import append, event, feed, numbers, request
from tests.support.dynamodb_server import CREDENTIALS, DynamoServer
from tests.support.moody import moody


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _another_table(server: DynamoServer) -> None:
    server.tables += 1


async def test_connections_that_say_nothing_more_are_made_again(
    server: DynamoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is waited for, and for none of the others."""
    async with moody(server.port) as way:
        store = server.store("lease=250", port=way.port)
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        await asyncio.gather(*(feed(store) for _ in range(8)))
        assert len(way.lines) > 4
        way.seen.clear()
        way.forgotten |= way.lines
        monkeypatch.setattr("engine.stores.dynamodb.calls._ANSWER_SECONDS", 1)

        assert await append(store, request("a:1", 1, 2)) == [Appended(2, (2,))]
        assert way.seen.count("forgotten") == 1
        assert numbers(await feed(store)) == [1, 2]
        await store.close()


async def test_credentials_that_took_the_place_of_expired_ones_are_found(
    server: DynamoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written meanwhile, and the engine need not be started again."""
    async with moody(server.port) as way:
        store = server.store("lease=250", port=way.port)
        await store.open(Ports())
        await append(store, request("a:1", 0, 0))
        way.expired = CREDENTIALS["AWS_ACCESS_KEY_ID"]
        with pytest.raises(StoreFailed, match="ExpiredTokenException") as failed:
            await append(store, request("a:1", 1, 1))
        assert failed.value.written is False
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
        with pytest.raises(StoreFailed, match="ExpiredTokenException"):
            await append(store, request("a:1", 1, 1))  # with those that it found a moment ago

        assert await append(store, request("a:1", 1, 1)) == [Appended(2, (2,))]
        await store.close()


async def test_a_read_that_is_refused_before_an_append_has_written_nothing(
    server: DynamoServer,
) -> None:
    """An engine has its commands voided, and goes on."""
    async with moody(server.port) as way:
        store = server.store("lease=250", port=way.port)
        await store.open(Ports())
        way.operation, way.moods = "BatchGetItem", ["400 ExpiredTokenException"]
        with pytest.raises(StoreFailed, match="Nothing was written") as failed:
            await append(store, claiming(1))
        assert (failed.value.written, failed.value.stopped) == (False, False)
        assert await append(store, claiming(1)) == [Appended(1, (1,))]
        await store.close()


async def test_a_read_that_is_refused_within_a_batch_leaves_the_outcome_unknown(
    server: DynamoServer,
) -> None:
    """The first transaction is made, and what the second one needs cannot be read."""
    async with moody(server.port) as way:
        store = server.store("lease=250", port=way.port)
        await store.open(Ports())
        # For the batch, and for each of its transactions.
        way.operation, way.moods = "BatchGetItem", ["", "", "400 ExpiredTokenException"]
        with pytest.raises(StoreFailed, match="A part of the batch was written") as failed:
            await append(store, *map(claiming, range(60)))
        assert failed.value.written is None
        await store.close()


def claiming(number: int) -> AppendRequest:
    stream = f"a:{number}"
    return AppendRequest([Write(stream, 0, [event(number)])], [TakeClaim("n", stream, stream)])
