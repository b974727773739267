"""Guests whose names are personal, and the read models elsewhere that have them, one a database.

Rows are rooms, and a room may have several guests: so a row has more people than the one erased.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sql

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Personal,
    Projection,
    Query,
    Views,
    answers,
    applies,
    handles,
)
from engine.integrations.mongodb import MongoDBReadModel
from engine.integrations.opensearch import OpenSearchReadModel
from engine.integrations.redis import RedisReadModel
from engine.integrations.sqlalchemy import SqlReadModel
from tests.integrations.places import Database, InMongoDB, InOpenSearch, InRedis, InSql


class CheckIn(Command):
    guest: Id
    room: str
    name: str


class CheckOut(Command):
    guest: Id


class CheckedIn(Event, name="checked-in"):
    room: str
    name: Personal[str]


class CheckedOut(Event, name="checked-out"):
    """Nobody's data."""


class Guest(Aggregate, kind="guest"):
    @handles
    def check_in(self, command: CheckIn) -> CheckedIn:
        return CheckedIn(command.room, command.name)

    @handles
    def check_out(self, command: CheckOut) -> CheckedOut:
        return CheckedOut()

    @applies
    def checked_in(self, event: CheckedIn) -> None: ...

    @applies
    def checked_out(self, event: CheckedOut) -> None: ...


class Kept(Query[None]):
    """Waits for the model."""


def _with(names: str | None, event: CheckedIn) -> str:
    return event.name if names is None else f"{names}, {event.name}"


def apply(row: Any, event: CheckedIn, meta: Meta) -> dict[str, object]:
    return {"names": _with(None if row is None else row["names"], event)}


def room_of(event: CheckedIn, meta: Meta) -> str:
    return event.room


TABLES = sql.MetaData()
ROOMS = sql.Table(
    "rooms",
    TABLES,
    sql.Column("room", sql.String(50), primary_key=True),
    sql.Column("names", sql.String(200)),
)


def apply_to_table(connection: Any, event: CheckedIn, meta: Meta) -> None:
    own = ROOMS.c.room == event.room
    had = connection.execute(sql.select(ROOMS.c.names).where(own)).scalar()
    connection.execute(ROOMS.delete().where(own))
    connection.execute(ROOMS.insert().values(room=event.room, names=_with(had, event)))


def model(database: Database, port: int | None = None, **more: Any) -> type[Projection]:
    """Give the model of a database; `port` leads there another way."""
    if isinstance(database, InSql):
        url = database.engine.url if port is None else database.engine.url.set(port=port)
        engine = database.engine if port is None else sql.create_engine(url, poolclass=sql.NullPool)
        return SqlReadModel(
            "guests", engine=engine, tables=TABLES, events=[CheckedIn], apply=apply_to_table
        )
    given: dict[str, Any] = {"events": [CheckedIn], "apply": apply, "key": room_of, **more}
    assert isinstance(database, InRedis | InMongoDB | InOpenSearch)
    given["to"] = database.server.url_of("relay", "a-secret-word", port=port)
    if isinstance(database, InRedis):
        return RedisReadModel("guests", **given)
    if isinstance(database, InMongoDB):
        return MongoDBReadModel("guests", **given)
    return OpenSearchReadModel("guests", **given)


async def found_in(database: Database) -> str:
    """Give all that the server has, as text."""
    if isinstance(database, InSql):
        with database.engine.begin() as connection:
            return str(connection.execute(ROOMS.select().order_by(ROOMS.c.room)).all())
    if isinstance(database, InRedis):
        async with database.server.client() as client:
            keys = sorted([key async for key in client.scan_iter()])
            kinds = [await client.type(key) for key in keys]
            hashes = [
                await client.hgetall(k)
                for k, kind in zip(keys, kinds, strict=True)
                if kind == "hash"
            ]
            return str([keys, hashes])
    if isinstance(database, InMongoDB):
        async with database.server.client() as client:
            shop = client["shop"]
            names = sorted(await shop.list_collection_names())
            return str([[row async for row in shop[name].find().sort("_id")] for name in names])
    assert isinstance(database, InOpenSearch)
    everything = await database.server.ask("POST", "_all/_search", {"size": 1_000})
    hits = sorted(everything["hits"]["hits"], key=lambda hit: (hit["_index"], hit["_id"]))
    return msgspec.json.encode(hits).decode()


def make_engine(store: str, kept: type[Projection], **more: Any) -> Engine:
    @answers(projections=[kept])
    async def answer(query: Kept, views: Views) -> None:
        return None

    return Engine([Guest], projections=[kept], answers=[answer], store=store, **more)
