"""What is a log's own in DynamoDB: who has it, lost answers, a busy service, its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from engine import Damaged, Ports, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import EventData
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, StreamRead, Write
from engine.stores.contract.tags import TagRead
from engine.stores.dynamodb.address import read_address
from engine.stores.dynamodb.calls import Calls, Missing
from engine.stores.dynamodb.form import SEQUENCER, event_key, key
from engine.stores.dynamodb.store import DynamoStore
from engine.stores.leased.holder import Away
from engine.testing.conformance import ADDED, append, feed, numbers, request
from tests.support.dynamodb_server import CREDENTIALS, DynamoServer
from tests.support.moody import moody

SECONDS = 30


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


@pytest.fixture
def server(emulator: DynamoServer) -> DynamoServer:
    """Give the emulator with another table."""
    emulator.tables += 1
    return emulator


@pytest.fixture
async def store(server: DynamoServer) -> AsyncIterator[DynamoStore]:
    opened = server.store()
    await opened.open(Ports())
    yield opened
    await opened.close()


def no_renewals(store: DynamoStore) -> None:
    """Let the lease run out, as if the process stood still."""
    assert store._keeper is not None
    store._keeper.cancel()


# -- whose log it is


async def test_an_engine_that_does_not_renew_its_lease_loses_the_log(
    server: DynamoServer, store: DynamoStore
) -> None:
    """Its transaction is refused by the service, though nobody has written in between."""
    await append(store, request("a:1", 0, 1))
    no_renewals(store)
    second = server.store()
    await second.open(Ports())

    assert not store.is_held()
    with pytest.raises(StoreFailed, match="another engine has taken the log") as failed:
        await append(store, request("a:1", 1, 2))
    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert store.is_succeeded
    with pytest.raises(StoreFailed, match="another engine has taken the log"):
        await store.held()  # at once, whatever its patience is
    assert (await store.ended()) is failed.value
    assert await append(second, request("a:1", 1, 3)) == [Appended(2, (2,))]
    assert numbers(await feed(second)) == [1, 3]
    await store.close()  # which does not give the other's log away
    with pytest.raises(StoreLocked):
        await server.store().open(Ports())
    await second.close()


async def test_a_renewal_keeps_the_log_and_tells_a_former_engine(
    server: DynamoServer, store: DynamoStore
) -> None:
    """A rested engine has its log after its lease; one that was succeeded hears of it at rest."""
    with pytest.raises(StoreLocked):
        await server.store().open(Ports())
    assert store.is_held()
    await server.change(SEQUENCER, "owner", {"S": "another"})

    async with asyncio.timeout(SECONDS):
        failure = await store.ended()
    assert failure.stopped
    assert store.is_succeeded


async def test_one_of_those_that_open_at_once_has_the_log(server: DynamoServer) -> None:
    """A table and a log that are new are made once, too."""
    stores = [server.store() for _ in range(4)]
    opened = await asyncio.gather(*(s.open(Ports()) for s in stores), return_exceptions=True)

    assert [type(each) for each in opened if each is not None] == [StoreLocked] * 3
    for each in stores:
        await each.close()


async def test_a_log_of_a_newer_form_is_refused(server: DynamoServer, store: DynamoStore) -> None:
    await store.close()
    await server.change(SEQUENCER, "form", {"S": "2"})
    with pytest.raises(StoreRefused, match="form '2', which this release does not know"):
        await server.store().open(Ports())


# -- tables


async def test_a_table_that_is_missing_is_made_only_if_the_url_says_so(
    server: DynamoServer,
) -> None:
    """A slip in its name makes no new and empty log."""
    url = server.store_url().replace("&create=table", "")
    with pytest.raises(StoreRefused, match="there is no table bank-"):
        await DynamoStore(read_address(url)).open(Ports())
    client = await server.client()
    with pytest.raises(Missing):
        await client.once("describe_table")
    await client.close()


async def test_a_table_of_another_program_is_left_alone(
    server: DynamoServer, store: DynamoStore
) -> None:
    """Whatever keys it has."""
    await store.close()
    client = await server.client()
    await client.once("delete_item", Key=SEQUENCER)
    await client.once("put_item", Item=key("theirs", "1"))
    with pytest.raises(StoreRefused, match="items of another program"):
        await server.store().open(Ports())
    assert await client.get(SEQUENCER) is None
    server.tables += 1
    other = await server.client()
    await other.once(
        "create_table",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(StoreRefused, match="partition key pk"):
        await server.store().open(Ports())
    await client.close()
    await other.close()


async def test_a_global_table_is_refused(
    server: DynamoServer, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator has one region: that there are others is put into what it says."""
    await store.close()
    once = Calls.once

    async def in_regions(self: Calls, operation: str, **given: Any) -> Any:
        answer = await once(self, operation, **given)
        if operation == "describe_table":
            answer["Table"]["Replicas"] = [{"RegionName": "us-east-1"}]
        return answer

    monkeypatch.setattr(Calls, "once", in_regions)
    with pytest.raises(StoreRefused, match="global table"):
        await server.store().open(Ports())


async def test_a_program_that_moves_the_log_ends_its_engine(
    server: DynamoServer, store: DynamoStore
) -> None:
    """Nothing is appended behind what this engine has not seen."""
    await append(store, request("a:1", 0, 1))
    await server.change(SEQUENCER, "position", {"N": "2"})
    with pytest.raises(StoreFailed, match="another program has written") as failed:
        await append(store, request("a:1", 1, 2))

    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert numbers(await feed(store)) == [1]


async def test_a_version_is_there_once_whoever_wrote_it(
    server: DynamoServer, store: DynamoStore
) -> None:
    """An event that another program put there is not written over."""
    await append(store, request("a:1", 0, 1))
    await server.change(event_key("a:1", 2), "name", {"S": "theirs"})
    with pytest.raises(StoreFailed, match="another program has written"):
        await append(store, request("a:1", 1, 2))
    client = await server.client()
    found = await client.get(event_key("a:1", 2))
    assert found is not None
    assert found["name"] == {"S": "theirs"}
    await client.close()


async def test_a_table_that_lost_events_is_appended_to_no_more(
    server: DynamoServer, store: DynamoStore
) -> None:
    """What was acknowledged is gone: nothing is built on that."""
    await append(store, request("a:1", 0, 1))
    await server.change(SEQUENCER, "position", {"N": "0"})
    with pytest.raises(StoreFailed, match="the log went back") as failed:
        await append(store, request("a:1", 1, 2))
    assert failed.value.stopped


async def test_a_log_whose_last_events_are_missing_is_not_opened(
    server: DynamoServer, store: DynamoStore
) -> None:
    await append(store, request("a:1", 0, 1))
    await store.close()
    client = await server.client()
    await client.once("delete_item", Key=key("page=0", f"{1:020d}"))
    await client.close()
    with pytest.raises(Damaged, match="its page is missing"):
        await server.store().open(Ports())
    await server.change(SEQUENCER, "position", {"N": "0"})
    again = server.store()
    await again.open(Ports())  # nobody has it: it was given back
    await again.close()


async def test_what_is_behind_the_known_end_is_not_in_the_feed(
    server: DynamoServer, store: DynamoStore
) -> None:
    """A transaction shows its items one by one: a page may be there before its events."""
    await append(store, request("a:1", 0, 1))
    await server.change(key("page=0", f"{2:020d}"), "first", {"N": "2"})
    await server.change(key("page=0", f"{2:020d}"), "events", {"L": [{"S": "2 a:1"}]})
    assert numbers(await feed(store)) == [1]


async def test_every_read_is_strongly_consistent(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator is always: what it is asked for is looked at."""
    once, reads = Calls.once, dict[str, list[bool]]()

    async def looked_at(self: Calls, operation: str, **given: Any) -> Any:
        if operation in ("get_item", "query", "scan"):
            reads.setdefault(operation, []).append(given.get("ConsistentRead", False))
        for asked in given.get("RequestItems", {}).values():
            reads.setdefault(operation, []).append(asked.get("ConsistentRead", False))
        return await once(self, operation, **given)

    monkeypatch.setattr(Calls, "once", looked_at)
    data = EventData(ADDED, b'{"number":1}', tags=("a:x",))
    write = Write("a:1", 0, [data])
    await append(store, AppendRequest([write], [TakeClaim("email", "ann", "a:1")]))
    await feed(store)
    await store.read_tagged([TagRead(("a:x",), ("added",))], events_max=9, bytes_max=999)
    await store.read_claims(claims_max=9)
    await store.read_snapshots(["a:1"])
    await store.read_streams([StreamRead("a:1")], events_max=9, bytes_max=999)
    await store.close()
    await store.open(Ports())

    assert set(reads) == {"get_item", "query", "batch_get_item"}
    assert all(consistent for asked in reads.values() for consistent in asked)


# -- answers that are lost, and a service that says no


BUSY = [
    "400 ProvisionedThroughputExceededException",
    "400 ThrottlingException",
    "400 RequestLimitExceeded",
    "400 TransactionInProgressException",
    "400 TransactionCanceledException,TransactionConflict",
    "400 TransactionCanceledException,ThrottlingError",
    "400 TransactionCanceledException,ProvisionedThroughputExceeded",
    "500 InternalServerError",
    "503 ServiceUnavailable",
]


async def test_a_busy_service_is_waited_for(server: DynamoServer) -> None:
    """Each answer by which nothing was done is asked again, with the same token."""
    async with moody(server.inner) as line:
        store = server.store("lease=250", port=line.port)
        await store.open(Ports())
        for number, mood in enumerate(BUSY):
            line.moods, line.seen = [mood, mood], []
            outcomes = await append(store, request("a:1", number, number))
            assert outcomes == [Appended(number + 1, (number + 1,))]
            assert len(line.seen) == 3
            assert len(set(line.seen)) == 1
        assert numbers(await feed(store)) == list(range(len(BUSY)))
        await store.close()


@pytest.mark.parametrize("operation", ["Query", "BatchGetItem", "GetItem"])
async def test_a_read_is_asked_again(server: DynamoServer, operation: str) -> None:
    async with moody(server.inner) as line:
        store = server.store("lease=250", port=line.port)
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        line.operation, line.moods = operation, ["400 ThrottlingException", "500 Oh", "cut"]
        if operation == "GetItem":
            await store.close()
            await store.open(Ports())
        assert numbers(await feed(store)) == [1]
        assert line.seen
        await store.close()


@pytest.mark.parametrize("fault", ["lost", "cut"])
async def test_a_lost_answer_is_found_out(server: DynamoServer, fault: str) -> None:
    """Each batch is in the log once, whether it had arrived or not."""
    async with moody(server.inner) as line:
        store = server.store("lease=250", port=line.port)
        await store.open(Ports())
        for number in range(6):
            line.moods = [fault] * (1 + number % 2)
            outcomes = await append(store, request("a:1", 2 * number, number, number))
            assert outcomes == [Appended(2 * number + 2, (2 * number + 2,))]
        statistics = store.server_statistics()
        assert statistics is not None
        assert statistics.batches_sent_again > 0
        assert statistics.reconnects == 9
        assert numbers(await feed(store)) == [number for number in range(6) for _ in "ab"]
        await store.close()


def loses_an_answer(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """Have the next transaction made and not answered, by a service that forgets its token."""
    calls, lost = store.calls, ["first"]
    assert calls is not None
    once = calls.once

    async def forgetful(operation: str, **given: Any) -> Any:
        given.pop("ClientRequestToken", None)
        answer = await once(operation, **given)
        if operation == "transact_write_items" and lost:
            lost.clear()
            await asyncio.wait([asyncio.ensure_future(meanwhile())])
            raise Away("the answer was lost")
        return answer

    monkeypatch.setattr(calls, "once", forgetful)


async def test_a_lost_answer_is_found_without_its_token(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service forgets tokens after ten minutes: then the item of the log tells."""
    loses_an_answer(store, monkeypatch, partial(asyncio.sleep, 0))
    assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]
    statistics = store.server_statistics()
    assert statistics is not None
    assert statistics.batches_found == 1
    assert await append(store, request("a:1", 1, 2)) == [Appended(2, (2,))]


async def test_a_lost_answer_is_found_behind_another_engine(
    server: DynamoServer, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the log by then, and has written: what was written before is told as that."""
    second = server.store()

    async def succeeded() -> None:
        await second.open(Ports())
        await append(second, request("b:1", 0, 2))

    loses_an_answer(store, monkeypatch, succeeded)
    assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]
    with pytest.raises(StoreFailed, match="another engine has taken the log"):
        await append(store, request("a:1", 1, 3))
    assert numbers(await feed(second)) == [1, 2]
    await second.close()


async def test_a_batch_whose_answer_never_comes_is_told_as_unknown(server: DynamoServer) -> None:
    """A service that has gone is waited for as long as the URL says, and then nothing is told."""
    async with moody(server.inner) as line:
        store = server.store("patience=1", "lease=9", port=line.port)
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        line.moods = ["cut"] * 1_000
        with pytest.raises(StoreFailed, match="nobody knows") as failed:
            await append(store, request("a:1", 1, 2))

        assert failed.value.written is None
        line.moods = []
        with pytest.raises(StoreFailed, match="nobody knows"):
            await append(store, request("a:1", 1, 3))
        await store.close()
    again = server.store()
    await again.open(Ports())
    assert numbers(await feed(again)) == [1]
    await again.close()


async def test_a_service_that_is_busy_for_too_long_has_written_nothing(
    server: DynamoServer,
) -> None:
    """That is known, so the engine goes on."""
    async with moody(server.inner) as line:
        store = server.store("patience=1", "lease=9", port=line.port)
        await store.open(Ports())
        line.moods = ["400 ThrottlingException"] * 1_000
        with pytest.raises(StoreFailed, match="more capacity") as failed:
            await append(store, request("a:1", 0, 1))
        assert (failed.value.written, failed.value.passes) == (False, True)
        line.moods = []
        assert await append(store, request("a:1", 0, 2)) == [Appended(1, (1,))]
        await store.close()


async def test_credentials_that_are_refused_are_told_and_not_shown(
    server: DynamoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moody(server.inner) as line:
        line.operation = "DescribeTable"
        for code, words in (
            ("UnrecognizedClientException", "refuses the credentials"),
            ("AccessDeniedException", "does not allow a call"),
        ):
            line.moods = [f"400 {code}"]
            with pytest.raises(StoreRefused, match=words) as refused:
                await server.store(port=line.port).open(Ports())
            assert not [word for word in CREDENTIALS.values() if word in str(refused.value)]
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreRefused, match="needs credentials, and none were found"):
        await server.store().open(Ports())
