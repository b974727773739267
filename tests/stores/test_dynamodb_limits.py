"""The limits of a log in DynamoDB, and its URL: what does not fit is refused by name."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from engine import DefinitionError, Ports, StoreFailed
from engine.model.stored import EventData, EventType, Snapshot
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    StreamConflict,
    StreamRead,
    Write,
)
from engine.stores.dynamodb.address import read_address
from engine.stores.dynamodb.calls import Calls
from engine.stores.dynamodb.store import DynamoStore
from engine.testing.conformance import ADDED, append, event, feed, numbers, request
from tests.support.dynamodb_server import DynamoServer


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


@pytest.fixture
async def store(emulator: DynamoServer) -> AsyncIterator[DynamoStore]:
    emulator.tables += 1
    opened = emulator.store()
    await opened.open(Ports())
    yield opened
    await opened.close()


async def test_a_batch_larger_than_a_transaction_is_stored_whole(store: DynamoStore) -> None:
    """In several transactions, each of whole requests."""
    requests = [
        AppendRequest(
            [Write(f"a:{n}", 0, [event(n), event(n)])], [TakeClaim("email", f"{n}", f"a:{n}")]
        )
        for n in range(90)
    ]
    committed = await store.append(Batch(requests, 1))

    assert committed.outcomes == [Appended(2 * n + 2, (2,)) for n in range(90)]
    assert numbers(await feed(store)) == [n for n in range(90) for _ in "ab"]
    assert len(await store.read_claims(claims_max=999)) == 90


async def test_a_transaction_has_room_for_a_type_that_is_new(store: DynamoStore) -> None:
    """However few items are left of the hundred, and though its kind is known."""
    await append(store, request("a:0", 0, 1))
    for count in (95, 96, 97, 98):
        new = EventType("added", count, "00bb")
        requests = [
            AppendRequest([Write(f"a:{count}-{n}", 0, [event(n, new)])]) for n in range(count)
        ]
        assert len(await append(store, *requests)) == count


async def test_what_does_not_fit_is_refused_in_each_transaction_of_a_batch(
    store: DynamoStore,
) -> None:
    """A request behind a refused one on its stream is refused too, in a later transaction."""
    many = [request(f"b:{n}", 0, *range(60)) for n in range(3)]
    outcomes = await append(store, request("a:1", 7, 1), *many, request("a:1", 0, 2))

    assert outcomes[0] == StreamConflict("a:1", 7, 0)
    assert outcomes[-1] == StreamConflict("a:1", 0, 0)
    assert [type(each) for each in outcomes[1:4]] == [Appended] * 3


async def test_a_command_larger_than_a_transaction_is_refused(store: DynamoStore) -> None:
    """By name, with nothing written; the store goes on."""
    large = EventData(ADDED, b'"' + b"x" * 390_000 + b'"')
    for events, words in (
        ([event(n) for n in range(99)], "takes transactions of 100 items"),
        ([large] * 9, "takes transactions of 100 items and 4 MB"),
        ([EventData(ADDED, b'"' + b"x" * 410_000 + b'"')], "takes items of 409,600 bytes"),
    ):
        with pytest.raises(StoreFailed, match=words) as failed:
            await append(store, request("b:1", 0, 1), AppendRequest([Write("a:1", 0, events)]))
        assert failed.value.written is False
    few = [event(n) for n in range(96)]
    outcomes = await append(store, AppendRequest([Write("a:1", 0, few)]), request("b:1", 0, 1))
    assert outcomes == [Appended(96, (96,)), Appended(97, (1,))]
    largest = [EventData(ADDED, b'{"number":1,"x":"' + b"x" * 390_000 + b'"}')] * 7
    assert await append(store, AppendRequest([Write("c:1", 0, largest)])) == [Appended(104, (7,))]


async def test_many_streams_are_read_at_once(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have no event cost no call of their own."""
    await append(store, *(request(f"a:{n}", 0, n, n) for n in range(0, 40, 4)))
    once, asked = Calls.once, list[str]()

    async def counted(self: Calls, operation: str, **given: Any) -> Any:
        asked.append(operation)
        return await once(self, operation, **given)

    monkeypatch.setattr(Calls, "once", counted)
    reads = [StreamRead(f"a:{n}") for n in range(40)]
    pages = await store.read_streams(reads, events_max=999, bytes_max=99_999)
    assert [numbers(page.events) for page in pages] == [[] if n % 4 else [n, n] for n in range(40)]
    assert not any(page.more for page in pages)
    assert Counts(asked) == {"batch_get_item": 1, "query": 10}


async def test_a_snapshot_larger_than_an_item_is_refused_and_no_other(store: DynamoStore) -> None:
    await append(store, request("a:1", 0, 1), request("b:1", 0, 1))
    large = Snapshot("a:1", 1, 1, 1, 1, b"x" * 500_000)
    small = Snapshot("b:1", 1, 2, 1, 1, b"x" * 300_000)
    with pytest.raises(StoreFailed, match="some of these snapshots are larger"):
        await store.write_snapshots([large, small])
    assert await store.read_snapshots(["a:1", "b:1"]) == [small]


async def test_claims_of_any_length_are_read_in_order(store: DynamoStore) -> None:
    """A key has 1,024 bytes: a longer value is kept beside it."""
    values = ["b" * 500, "\U0001f4e6" * 500, "\U0001f4e6" * 499 + "x", "a", "é" * 480]
    takes = [TakeClaim("email", value, "a:1") for value in values]
    await append(store, AppendRequest([Write("a:1", 0, [event(1)])], takes))
    found, after = list[str](), ("", "")
    while page := await store.read_claims(after, claims_max=1):
        found.append(page[0].value)
        after = page[0].name, page[0].value
    assert found == sorted(values, key=lambda value: (value[:225], value)) or sorted(
        found
    ) == sorted(values)
    assert found[0] == "a"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("dynamodb:eu-west-1/bank", "write dynamodb"),
        ("dynamodb://bank", "write dynamodb"),
        ("dynamodb://eu-west-1/b", "write dynamodb"),
        ("dynamodb://eu-west-1/bank/more", "write dynamodb"),
        ("dynamodb://key:word@eu-west-1/bank", "credentials are no part of it"),
        ("dynamodb://eu-west-1/bank?leese=3", "'leese' is none"),
        ("dynamodb://eu-west-1/bank?lease=0", "whole seconds"),
        ("dynamodb://eu-west-1/bank?lease=1&lease=2", "given twice"),
        ("dynamodb://eu-west-1/bank?create=yes", "takes table"),
        ("dynamodb://eu-west-1/bank?allow=all", "plaintext"),
        ("dynamodb://eu-west-1/bank?endpoint=localhost:1", "endpoint takes"),
        ("dynamodb://eu-west-1/bank?endpoint=http://localhost:1/path", "endpoint takes"),
        ("dynamodb://eu-west-1/bank?endpoint=http://localhost:x", "endpoint takes"),
        ("dynamodb://eu-west-1/bank?endpoint=https://a:word@b.example", "credentials are no part"),
        ("dynamodb://eu-west-1/bank?endpoint=http://db.example:1", "leaves this machine"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, why: str) -> None:
    with pytest.raises(DefinitionError, match=why) as refused:
        read_address(url)
    assert "word" not in str(refused.value)


def test_a_url_says_how_the_table_is_reached() -> None:
    there = read_address("dynamodb://us-gov-west-1/Bank.2_x-y?patience=7")
    assert (there.region, there.table, there.endpoint) == ("us-gov-west-1", "Bank.2_x-y", None)
    assert (there.patience_seconds, there.lease_seconds, there.creates) == (7, 9, False)
    assert there.name == "dynamodb://us-gov-west-1/Bank.2_x-y"
    plain = read_address("dynamodb://eu-west-1/bank?endpoint=http://db.example:1&allow=plaintext")
    assert plain.endpoint == "http://db.example:1"
