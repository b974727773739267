"""What a log in DynamoDB is made of: one that was written before is read, and written so today."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest

from engine import Damaged, Ports
from engine.model.stored import EventData, EventType, Snapshot
from engine.stores.contract.claims import ClaimTaken, HeldClaim, ReleaseClaim, TakeClaim
from engine.stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    StreamConflict,
    StreamRead,
    Write,
)
from engine.stores.contract.tags import TagForm, TagRead
from engine.stores.dynamodb.store import DynamoStore
from engine.testing.conformance import ALL, append, feed, request
from tests.support.dynamodb_server import DynamoServer

ADDED, MOVED = EventType("added", 1, "00aa"), EventType("moved", 2, "0b0b")
FORM = TagForm("added", 1, (("course", "course"),), ("x:y",))
FIRST, SECOND = 1_700_000_000_000_000, 1_700_000_000_000_001
OF_THEIR_TIME: Final = ("log_id", "last", "owner")
"""Attributes of the log's item that are others each time."""
WRITTEN: Final[list[dict[str, Any]]] = [
    {
        "pk": {"S": "claim=email"},
        "sk": {"S": "ann"},
        "name": {"S": "email"},
        "position": {"N": "1"},
        "stream": {"S": "a:1"},
        "value": {"S": "ann"},
    },
    {"pk": {"S": "known"}, "sk": {"S": "claim=email"}, "name": {"S": "email"}},
    {"pk": {"S": "known"}, "sk": {"S": "kind=a"}, "name": {"S": "a"}},
    {"pk": {"S": "known"}, "sk": {"S": "kind=b"}, "name": {"S": "b"}},
    {
        "pk": {"S": "known"},
        "sk": {"S": "type=added 1"},
        "event_version": {"N": "1"},
        "name": {"S": "added"},
        "position": {"N": "1"},
        "schema_hash": {"S": "00aa"},
        "tags": {"S": '[[["course","course"]],["x:y"]]'},
    },
    {
        "pk": {"S": "known"},
        "sk": {"S": "type=moved 2"},
        "event_version": {"N": "2"},
        "name": {"S": "moved"},
        "position": {"N": "2"},
        "schema_hash": {"S": "0b0b"},
        "tags": {"S": "null"},
    },
    {
        "pk": {"S": "log"},
        "sk": {"S": "log"},
        "checksum": {"N": "2966541035"},
        "count": {"N": "0"},
        "form": {"S": "1"},
        "last": {"S": "18154fbc72eb42e38a073d2bd0ff66cd"},
        "lease": {"N": "0"},
        "log_id": {"S": "3c84b884d0a54763a5786fda2bc8a0ee"},
        "owner": {"S": "693b97817b914698911d943b3487e7cb"},
        "position": {"N": "4"},
        "recorded": {"N": "1700000000000001"},
    },
    {
        "pk": {"S": "page=0"},
        "sk": {"S": "00000000000000000002"},
        "events": {"L": [{"S": "1 a:1"}, {"S": "2 a:1"}]},
        "first": {"N": "1"},
    },
    {
        "pk": {"S": "page=0"},
        "sk": {"S": "00000000000000000004"},
        "events": {"L": [{"S": "1 b:é"}, {"S": "3 a:1"}]},
        "first": {"N": "3"},
    },
    {
        "pk": {"S": "snapshot=a:1"},
        "sk": {"S": "0"},
        "checksum": {"N": "2966541035"},
        "position": {"N": "4"},
        "snapshot_version": {"N": "1"},
        "state": {"B": b"state\xff"},
        "version": {"N": "3"},
    },
    {
        "pk": {"S": "stream=a:1"},
        "sk": {"S": "00000000000000000001"},
        "checksum": {"N": "1716331670"},
        "encoding": {"N": "0"},
        "event_version": {"N": "1"},
        "metadata": {"S": '{"key":"k-1"}'},
        "name": {"S": "added"},
        "payload": {"S": '{"number":1,"course":"c-1"}'},
        "position": {"N": "1"},
        "recorded": {"N": "1700000000000000"},
        "version": {"N": "1"},
    },
    {
        "pk": {"S": "stream=a:1"},
        "sk": {"S": "00000000000000000002"},
        "checksum": {"N": "2715238031"},
        "encoding": {"N": "7"},
        "event_version": {"N": "2"},
        "name": {"S": "moved"},
        "payload": {"B": b"\xff\x00\xfe"},
        "position": {"N": "2"},
        "recorded": {"N": "1700000000000000"},
        "version": {"N": "2"},
    },
    {
        "pk": {"S": "stream=a:1"},
        "sk": {"S": "00000000000000000003"},
        "checksum": {"N": "2966541035"},
        "encoding": {"N": "0"},
        "event_version": {"N": "1"},
        "name": {"S": "added"},
        "payload": {"S": '{"number":3}'},
        "position": {"N": "4"},
        "recorded": {"N": "1700000000000001"},
        "version": {"N": "3"},
    },
    {
        "pk": {"S": "stream=b:é"},
        "sk": {"S": "00000000000000000001"},
        "checksum": {"N": "3898946858"},
        "encoding": {"N": "0"},
        "event_version": {"N": "1"},
        "name": {"S": "added"},
        "payload": {"S": '{"number":2}'},
        "position": {"N": "3"},
        "recorded": {"N": "1700000000000001"},
        "version": {"N": "1"},
    },
    {
        "pk": {"S": "tag=course:c-1"},
        "sk": {"S": "00000000000000000001"},
        "name": {"S": "added"},
        "stream": {"S": "a:1"},
        "tags": {"L": [{"S": "course:c-1"}, {"S": "x:y"}]},
        "version": {"N": "1"},
    },
    {
        "pk": {"S": "tag=x:y"},
        "sk": {"S": "00000000000000000001"},
        "name": {"S": "added"},
        "stream": {"S": "a:1"},
        "tags": {"L": [{"S": "course:c-1"}, {"S": "x:y"}]},
        "version": {"N": "1"},
    },
]


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


async def written(store: DynamoStore) -> None:
    """Write what stands above."""
    await store.index_tags([FORM])
    tagged = EventData(
        ADDED, b'{"number":1,"course":"c-1"}', b'{"key":"k-1"}', tags=("course:c-1", "x:y")
    )
    events = [tagged, EventData(MOVED, b"\xff\x00\xfe", b"", 7)]
    takes = [TakeClaim("email", name, "a:1") for name in ("ann", "bob")]
    await store.append(Batch([AppendRequest([Write("a:1", 0, events)], takes)], FIRST))
    two, three = (EventData(ADDED, b'{"number":%d}' % number) for number in (2, 3))
    release = ReleaseClaim("email", "bob", "a:1")
    requests = [
        AppendRequest([Write("b:\u00e9", 0, [two])]),
        AppendRequest([Write("a:1", 2, [three])], [release]),
    ]
    await store.append(Batch(requests, SECOND))
    last = (await feed(store))[-1]
    await store.write_snapshots([Snapshot("a:1", 3, 4, last.checksum, 1, b"state\xff")])


def at_any_time(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what is other each time."""
    return [
        {name: value for name, value in item.items() if name not in OF_THEIR_TIME}
        for item in sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
    ]


async def test_a_log_is_written_as_it_was(server: DynamoServer) -> None:
    store = server.store()
    await store.open(Ports())
    await written(store)
    await store.close()
    client = await server.client()
    items = (await client.asked("scan", ConsistentRead=True))["Items"]
    await client.close()

    assert at_any_time(items) == at_any_time(WRITTEN)


async def kept(server: DynamoServer, items: Iterable[dict[str, Any]]) -> DynamoStore:
    """Give the store of a table that has these items; it is not open."""
    store = server.store()
    await store.open(Ports())  # makes the table
    await store.close()
    client = await server.client()
    for item in items:
        await client.once("put_item", Item=item)
    await client.close()
    return store


async def test_a_log_that_was_written_before_is_read(server: DynamoServer) -> None:
    """Events, types, kinds, tags, claims and snapshots; and it continues where it ended."""
    store = await kept(server, WRITTEN)
    await store.open(Ports())

    assert store.log_id == "3c84b884d0a54763a5786fda2bc8a0ee"
    events = await feed(store)
    assert [(e.position, e.stream, e.version) for e in events] == [
        (1, "a:1", 1),
        (2, "a:1", 2),
        (3, "b:\u00e9", 1),
        (4, "a:1", 3),
    ]
    assert (events[1].payload, events[1].encoding, events[0].metadata) == (
        *(b"\xff\x00\xfe", 7),
        b'{"key":"k-1"}',
    )
    assert await store.event_types() == [ADDED, MOVED]
    assert await store.kinds() == ["a", "b"]
    assert await store.index_tags([FORM]) == 0
    (page,) = await store.read_tagged(
        [TagRead(("course:c-1", "x:y"), ("added",))], events_max=9, bytes_max=ALL
    )
    assert page.events == [events[0]]
    assert await store.read_claims(claims_max=9) == [HeldClaim("email", "ann", "a:1", 1)]
    (snapshot,) = await store.read_snapshots(["a:1"])
    assert (snapshot.version, snapshot.state) == (3, b"state\xff")
    taken = AppendRequest(
        [Write("c:1", 0, [EventData(ADDED, b"{}")])], [TakeClaim("email", "ann", "c:1")]
    )
    assert await append(store, taken, request("a:1", 2, 9), request("b:\u00e9", 1, 9)) == [
        ClaimTaken(0),
        StreamConflict("a:1", 2, 3),
        Appended(5, (2,)),
    ]
    await store.close()


def without(pk: str, sk: str) -> list[dict[str, Any]]:
    """Leave an item out."""
    return [item for item in WRITTEN if (item["pk"]["S"], item["sk"]["S"]) != (pk, sk)]


def set_back(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let the log end where its first transaction did."""
    end = {"position": {"N": "2"}, "checksum": {"N": "2715238031"}}
    return [{**item, **end} if item["pk"]["S"] == "log" else item for item in items]


@pytest.mark.parametrize(
    "items",
    [
        without("stream=b:\u00e9", "00000000000000000001"),
        without("page=0", "00000000000000000004"),
        set_back(WRITTEN),
    ],
    ids=["without an event", "without its page", "behind the end of the log"],
)
async def test_no_engine_starts_on_a_part_of_the_last_transaction(
    server: DynamoServer, items: list[dict[str, Any]]
) -> None:
    """AWS says that a table which was restored may have some of the changes of a transaction."""
    store = await kept(server, items)
    with pytest.raises(Damaged, match=r"position [34]"):
        await store.open(Ports())


async def test_what_stands_behind_the_end_of_the_log_is_in_no_stream(server: DynamoServer) -> None:
    """Whose page was not restored: the engine finds it where it reads."""
    items = set_back(without("page=0", "00000000000000000004"))
    items += [
        {**item, "position": {"N": "3"}} for item in WRITTEN if item["pk"]["S"] == "claim=email"
    ]
    store = await kept(server, items)
    await store.open(Ports())
    with pytest.raises(Damaged, match="ends at position 2"):
        await store.read_streams([StreamRead("a:1", 0)], events_max=9, bytes_max=ALL)
    with pytest.raises(Damaged, match="ends at position 2"):
        await append(store, request("b:\u00e9", 0, 9))
    taken = AppendRequest(
        [Write("c:1", 0, [EventData(ADDED, b"{}")])], [TakeClaim("email", "ann", "c:1")]
    )
    with pytest.raises(Damaged, match="ends at position 2"):
        await append(store, taken)
    assert [event.position for event in await feed(store)] == [1, 2]
    await store.close()
