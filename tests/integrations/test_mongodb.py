"""What is MongoDB's own: documents that are refused, marks, TLS, and servers that refuse.

On a server that speaks its protocol (SecantusDB), and is not MongoDB.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest

from engine import DefinitionError, Engine, ProjectionLag
from engine.integrations import mongodb
from engine.integrations.mongodb import MongoDBReadModel
from tests.integrations.places import SOCKETS_LEFT, InMongoDB, Kept, keeping
from tests.support.brokers import PASSWORD, USER
from tests.support.certificates import certify
from tests.support.counters import Add, Added, Empty
from tests.support.mongodb import MongoServer

pytestmark = SOCKETS_LEFT


@pytest.fixture
def server(started: Callable[[str], Any]) -> MongoServer:
    made: MongoServer = started("mongodb")
    return made


@pytest.fixture
async def database(server: MongoServer) -> InMongoDB:
    made = InMongoDB(server)
    await made.empty()
    return made


async def add(engine: Engine, counter: str, amount: int = 1, **tags: Any) -> int:
    return (await engine.execute(Add(counter, amount, tags=tags))).position


async def kept(engine: Engine, position: int) -> None:
    await engine.query(Kept(), at=position, timeout=30)


async def cause_of(engine: Engine, position: int) -> str:
    with pytest.raises(ProjectionLag, match="stopped"):
        await kept(engine, position)
    failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    assert PASSWORD not in failure.cause
    return failure.cause


async def collection(server: MongoServer, name: str = "totals") -> list[dict[str, Any]]:
    async with server.client() as client:
        found: Any = client["shop"][name].find().sort("_id")
        return [document async for document in found]


async def test_a_document_that_is_refused_is_parked_with_what_follows_and_no_other(
    database: InMongoDB,
) -> None:
    unique = [pymongo.IndexModel("total", unique=True)]
    async with keeping(database.model(indexes=unique)) as engine:
        await kept(engine, await add(engine, "a", 5))
        await add(engine, "b", 5)  # as a has
        await add(engine, "b")
        await kept(engine, await add(engine, "a", 2))
        assert (await engine.projections.status("totals")).parked == 2
        assert await database.totals() == {"a": 7}
        (parked, _) = await engine.projections.parked("totals")
        assert "does not take the document 'b'" in (parked.cause or "")
        await engine.projections.retry("totals")  # a has another total now
        assert await database.totals() == {"a": 7, "b": 6}


async def test_a_removed_document_leaves_its_position_for_a_day(
    database: InMongoDB, server: MongoServer
) -> None:
    async with keeping(database.model()) as engine:
        await add(engine, "a")
        await kept(engine, (await engine.execute(Empty("a"))).position)
        (left,) = await collection(server)
        assert left.keys() == {"_id", "@position", "@removed"}
        assert left["@removed"].year > 2020  # the server deletes it a day later
        async with server.client() as client:
            found: Any = await client["shop"]["totals"].index_information()
            late = pymongo.ReplaceOne(
                {"_id": "a", "@position": {"$lt": 1}},
                {"_id": "a", "@position": 1, "total": 77},
                upsert=True,
            )
            with pytest.raises(pymongo.errors.BulkWriteError):
                await client["shop"]["totals"].bulk_write([late])
    assert found["foldline v1"]["expireAfterSeconds"] == 86_400


async def test_a_write_that_comes_late_changes_nothing(
    database: InMongoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a former life of the process, which the network has kept for a while."""
    written: list[tuple[Any, Any]] = []
    write = mongodb._Place.write

    async def keep(self: Any, changes: Any) -> None:
        written.append((self, changes))
        await write(self, changes)

    monkeypatch.setattr(mongodb._Place, "write", keep)
    async with keeping(database.model()) as engine:
        await kept(engine, await add(engine, "a"))
        await kept(engine, await add(engine, "b"))
        await kept(engine, await add(engine, "a"))
        await kept(engine, (await engine.execute(Empty("b"))).position)
        for place, changes in reversed([*written]):
            await write(place, changes)
        assert await database.totals() == {"a": 2}
        await kept(engine, await add(engine, "b"))
    assert len(written) == 5
    assert await database.totals() == {"a": 2, "b": 1}


async def test_a_collection_that_is_dropped_is_not_made_by_a_write(
    database: InMongoDB, server: MongoServer
) -> None:
    async with keeping(database.model()) as engine:
        await kept(engine, await add(engine, "a"))
        async with server.client() as client:
            await client["shop"]["totals"].drop()
        assert "has lost rows" in await cause_of(engine, await add(engine, "a"))
    assert await collection(server) == []


async def test_rows_keep_times_and_what_bson_has(database: InMongoDB, server: MongoServer) -> None:
    moment = datetime(2026, 11, 29, 12, tzinfo=UTC)
    seen: list[Any] = []

    def apply(row: Any, event: Any, meta: Any) -> dict[str, object]:
        seen.append(row)
        return {"at": moment, "list": [1, {"x": None}]}

    async with keeping(database.model(apply=apply)) as engine:
        await kept(engine, await add(engine, "a"))
        await kept(engine, await add(engine, "a"))
    assert seen == [None, {"at": moment, "list": [1, {"x": None}]}]


async def test_wrong_credentials_stop_it_without_the_secret(
    database: InMongoDB, server: MongoServer
) -> None:
    wrong = database.model(to=server.url_of(USER, "wr0ng-secret"))
    async with keeping(wrong) as engine:
        cause = await cause_of(engine, await add(engine, "a"))
    assert "refuses the credentials" in cause
    assert "wr0ng" not in f"{cause}{wrong!r}{vars(wrong)}"


async def test_encryption_is_checked(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "mongo", "IP:127.0.0.1")
    server = MongoServer(tmp_path / "tls", tls=(certificate, tmp_path / "mongo.key"))
    server.start()
    try:
        database = InMongoDB(server)
        url = f"mongodb://127.0.0.1:{server.port}/shop?tls=true"
        async with keeping(database.model(to=f"{url}&tlsCAFile={certificate}")) as engine:
            await kept(engine, await add(engine, "a"))
        async with keeping(database.model(to=url)) as engine:  # which the system does not trust
            cause = await cause_of(engine, await add(engine, "a"))
    finally:
        server.kill()
    assert "no encrypted connection" in cause
    assert "certificate verify failed" in cause
    assert "tlsCAFile=" in cause


async def test_a_server_that_is_too_old_stops_it_and_says_so(database: InMongoDB) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say, as MongoDB 3.6 does, which protocols are spoken."""
        hello = {"ismaster": True, "minWireVersion": 0, "maxWireVersion": 6, "ok": 1.0}
        body = bytes(5) + bson.encode(hello)
        with contextlib.suppress(asyncio.CancelledError):
            while head := await reader.read(16):
                length, request, _, kind = struct.unpack("<iiii", head)
                await reader.readexactly(length - 16)
                writer.write(struct.pack("<iiii", 16 + len(body), 1, request, kind) + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as old:
        port = old.sockets[0].getsockname()[1]
        async with keeping(database.model(port=port)) as engine:
            cause = await cause_of(engine, await add(engine, "a"))
    assert "or is too old for the library" in cause


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "nats://localhost"}, "the URL of mongodb"),
        ({"to": "mongodb://rows.example.com/shop"}, r"write \?tls=true"),
        ({"to": "mongodb://localhost"}, "names the database"),
        ({"events": []}, "list of classes of events"),
        ({"apply": None}, "is a function"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": "foldline_read_models"}, "letters, digits"),
    ],
)
def test_a_model_that_cannot_be_kept_is_refused(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "totals", "to": "mongodb://localhost/shop", "events": [Added]}
    given |= {"apply": lambda row, event, meta: None, **options}
    with pytest.raises(DefinitionError, match=said):
        MongoDBReadModel(**given)


def test_several_hosts_and_encryption_off_this_machine_are_taken() -> None:
    for to in (
        "mongodb://ann:word@a.example.com,b.example.com:27018/shop?replicaSet=rs0&tls=true",
        "mongodb+srv://ann:word@rows.example.com/shop",
    ):
        made = MongoDBReadModel("totals", to=to, events=[Added], apply=lambda *_: None)
        assert "word" not in f"{made!r}{vars(made)}"
