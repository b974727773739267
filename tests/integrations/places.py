"""The databases of read models, each with a model that counts, for one suite of tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sql

from engine import (
    Aggregate,
    Command,
    Delivery,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Sink,
    Views,
    answers,
    applies,
    handles,
)
from engine.integrations.mongodb import MongoDBReadModel
from engine.integrations.opensearch import OpenSearchReadModel
from engine.integrations.redis import RedisReadModel, read_row
from engine.integrations.sqlalchemy import SqlReadModel
from tests.support.brokers import RedisServer
from tests.support.counters import Added, Emptied
from tests.support.mariadb import MariaServer
from tests.support.mongodb import MongoServer
from tests.support.opensearch import OpenSearchServer

DATABASES = ("redis", "opensearch", "mongodb", "mariadb", "sqlite")
EVENTS: list[type[Event]] = [Added, Emptied]
# pymongo leaves a socket to the garbage collector where its monitor is ended while it connects.
SOCKETS_LEFT = [
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
    pytest.mark.usefixtures("collected"),
]
"""The marks of a file whose tests do so."""


class Counting:
    """What the models of one test do: they count on, which an event that came twice would do twice.

    What is emptied is removed.
    """

    def __init__(self, factor: int = 1, fails_at: int = 0) -> None:
        self.factor = factor
        self.fails_at = fails_at
        """A position at which it raises; 0 for none."""

    def after(self, total: int | None, event: Any, meta: Meta) -> int | None:
        if meta.position == self.fails_at:
            raise ValueError("a secret")
        if isinstance(event, Emptied):
            return None
        return (total or 0) + self.factor * int(event.amount)


class Database:
    """One database, empty at the beginning of a test."""

    takes_other_logs = False
    """Whether another log makes its rows anew, in place of being refused."""
    parks = False
    """Whether what cannot be applied is set aside, in place of stopping the model."""
    stops: ClassVar[dict[str, Any]] = {}
    """Options of a model that is stopped."""

    def model(
        self,
        counting: Counting | None = None,
        version: int = 1,
        port: int | None = None,
        **options: Any,
    ) -> type[Projection]:
        """Give a model; `port` leads to the database another way."""
        raise NotImplementedError

    async def totals(self) -> dict[str, int]:
        raise NotImplementedError

    async def occupy(self) -> None:
        """Take, as somebody else, the place that the model would have."""
        raise NotImplementedError

    async def is_occupied(self) -> bool:
        """Tell whether what is somebody else's is as it was."""
        raise NotImplementedError

    async def left(self, version: int) -> int:
        """Give how many things of a version are left."""
        return 0

    async def empty(self) -> None:
        """Lose everything."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError


class InRedis(Database):
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def model(
        self,
        counting: Counting | None = None,
        version: int = 1,
        port: int | None = None,
        **options: Any,
    ) -> type[Projection]:
        given = counting or Counting()

        def apply(row: Any, event: Any, meta: Meta) -> dict[str, object] | None:
            total = given.after(None if row is None else int(row["total"]), event, meta)
            return None if total is None else {"total": total}

        url = self.server.url_of("relay", "a-secret-word", port=port)
        return RedisReadModel("totals", to=url, events=EVENTS, apply=apply, version=version)

    async def totals(self) -> dict[str, int]:
        found: dict[str, int] = {}
        async with self.server.client() as client:
            for counter in "abc":
                row = await read_row(client, "totals", counter)
                if row is not None:
                    found[counter] = int(row["total"])
        return found

    async def occupy(self) -> None:
        async with self.server.client() as client:
            await client.set("totals", "of somebody else")

    async def is_occupied(self) -> bool:
        async with self.server.client() as client:
            return bool(await client.get("totals") == "of somebody else")

    async def left(self, version: int) -> int:
        async with self.server.client() as client:
            keys = await client.keys(f"totals:{version}:*")
            return len(keys) + len(await client.smembers("totals:old"))

    async def empty(self) -> None:
        async with self.server.client() as client:
            await client.flushall()

    @property
    def port(self) -> int:
        return self.server.port

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


class InOpenSearch(Database):
    """On an emulator, whose documents are gone with its process."""

    parks = True
    stops: ClassVar[dict[str, Any]] = {"on_poison": "stop"}

    def __init__(self, server: OpenSearchServer) -> None:
        self.server = server

    def model(
        self,
        counting: Counting | None = None,
        version: int = 1,
        port: int | None = None,
        **options: Any,
    ) -> type[Projection]:
        given = counting or Counting()

        def apply(row: Any, event: Any, meta: Meta) -> dict[str, object] | None:
            total = given.after(None if row is None else row["total"], event, meta)
            return None if total is None else {"total": total, "tags": sorted(event.tags)}

        options = {"events": EVENTS, "apply": apply, **options}
        url = self.server.url_of("relay", "a-secret-word", port=port)
        return OpenSearchReadModel("totals", version=version, **{"to": url, **options})

    async def totals(self) -> dict[str, int]:
        found = await self.server.ask("POST", "totals/_search", {"size": 1_000})
        if found is None:
            return {}
        return {hit["_id"]: hit["_source"]["total"] for hit in found["hits"]["hits"]}

    async def occupy(self) -> None:
        await self.server.ask("PUT", "totals/_doc/theirs", {"total": 77})

    async def is_occupied(self) -> bool:
        return await self.totals() == {"theirs": 77}

    async def left(self, version: int) -> int:
        found = await self.server.ask("GET", "_cat/indices?format=json")
        return sum(each["index"].startswith(f"totals.v{version}") for each in found)

    async def empty(self) -> None:
        await self.server.empty()

    @property
    def port(self) -> int:
        return self.server.port

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


class InMongoDB(Database):
    """On a server that speaks MongoDB's protocol, and is not MongoDB."""

    parks = True
    stops: ClassVar[dict[str, Any]] = {"on_poison": "stop"}

    def __init__(self, server: MongoServer) -> None:
        self.server = server

    def model(
        self,
        counting: Counting | None = None,
        version: int = 1,
        port: int | None = None,
        **options: Any,
    ) -> type[Projection]:
        given = counting or Counting()

        def apply(row: Any, event: Any, meta: Meta) -> dict[str, object] | None:
            total = given.after(None if row is None else row["total"], event, meta)
            return None if total is None else {"total": total, "tags": sorted(event.tags)}

        url = self.server.url_of("relay", "a-secret-word", port=port)
        options = {"to": url, "events": EVENTS, "apply": apply, **options}
        return MongoDBReadModel("totals", version=version, **options)

    async def totals(self) -> dict[str, int]:
        async with self.server.client() as client:
            found: Any = client["shop"]["totals"].find({"@removed": None})
            return {document["_id"]: document["total"] async for document in found}

    async def occupy(self) -> None:
        async with self.server.client() as client:
            await client["shop"]["totals"].insert_one({"_id": "theirs", "total": 77})

    async def is_occupied(self) -> bool:
        return await self.totals() == {"theirs": 77}

    async def left(self, version: int) -> int:
        async with self.server.client() as client:
            names = await client["shop"].list_collection_names()
            states = await client["shop"]["foldline_read_models"].count_documents(
                {"version": version}
            )
        return names.count(f"totals.v{version}") + states

    async def empty(self) -> None:
        async with self.server.client() as client:
            await client.drop_database("shop")

    @property
    def port(self) -> int:
        return self.server.port

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


TABLES = sql.MetaData()
TOTALS = sql.Table(
    "totals",
    TABLES,
    sql.Column("counter", sql.String(50), primary_key=True),
    sql.Column("total", sql.Integer, nullable=False),
)


class InSql(Database):
    takes_other_logs = True

    def __init__(self, engine: sql.Engine, server: MariaServer | None = None) -> None:
        self.engine = engine
        self.server = server

    def model(
        self,
        counting: Counting | None = None,
        version: int = 1,
        port: int | None = None,
        **options: Any,
    ) -> type[Projection]:
        given = counting or Counting()

        def apply(connection: Any, event: Any, meta: Meta) -> None:
            own = TOTALS.c.counter == meta.id
            had = connection.execute(sql.select(TOTALS.c.total).where(own)).scalar()
            connection.execute(TOTALS.delete().where(own))
            total = given.after(had, event, meta)
            if total is not None:
                connection.execute(TOTALS.insert().values(counter=meta.id, total=total))

        url = self.engine.url if port is None else self.engine.url.set(port=port)
        engine = self.engine if port is None else sql.create_engine(url)
        return SqlReadModel(
            "totals", engine=engine, tables=TABLES, events=EVENTS, apply=apply, version=version
        )

    async def totals(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            if not sql.inspect(connection).has_table("totals"):
                return {}
            return {row.counter: row.total for row in connection.execute(TOTALS.select())}

    async def occupy(self) -> None:
        with self.engine.begin() as connection:
            TABLES.create_all(connection)
            connection.execute(TOTALS.insert().values(counter="theirs", total=7))

    async def is_occupied(self) -> bool:
        return await self.totals() == {"theirs": 7}

    async def empty(self) -> None:
        everything = sql.MetaData()
        everything.reflect(self.engine)
        everything.drop_all(self.engine)

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    def kill(self) -> None:
        assert self.server is not None
        self.server.kill()

    def start(self) -> None:
        assert self.server is not None
        self.server.start()


class Note(Command):
    note: Id


class Noted(Event, name="noted"):
    """Is no model's."""


class Beside(Aggregate, kind="beside"):
    @handles
    def take(self, command: Note) -> Noted:
        return Noted()

    @applies
    def noted(self, event: Noted) -> None: ...


class Deaf(Sink, name="totals", version=1):
    """Stands for a model whose database forgets what it has confirmed, as one of a backup does."""

    async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
        return


class Kept(Query[None]):
    """Waits for the model."""


def keeping(kept: type[Projection], store: str | Path = "memory:", **options: Any) -> Engine:
    from tests.support.counters import Counter

    @answers(projections=[kept])
    async def answer(query: Kept, views: Views) -> None:
        return None

    url = f"sqlite:{store}" if isinstance(store, Path) else store
    return Engine([Counter, Beside], projections=[kept], answers=[answer], store=url, **options)
