"""One server of each kind for all tests of this room that ask for it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from engine.integrations import mongodb
from tests.integrations.places import DATABASES, Database, InMongoDB, InOpenSearch, InRedis, InSql
from tests.support.brokers import RedisServer
from tests.support.mariadb import MariaServer
from tests.support.mongodb import MongoServer
from tests.support.opensearch import OpenSearchServer

SERVERS: dict[str, type[Any]] = {
    "redis": RedisServer,
    "opensearch": OpenSearchServer,
    "mongodb": MongoServer,
    "mariadb": MariaServer,
}


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Give a server; it is started when it is first asked for."""
    running: dict[str, Any] = {}

    def start(name: str) -> Any:
        if name not in running:
            server = SERVERS[name](tmp_path_factory.mktemp(name))
            server.start()
            running[name] = server
        return running[name]

    yield start
    for server in running.values():
        server.kill()


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    """Let what the tests of a file have left be told of in that file, and in none behind it."""
    yield
    gc.collect()


KINDS: dict[str, Callable[[Any], Database]] = {
    "redis": InRedis,
    "opensearch": InOpenSearch,
    "mongodb": InMongoDB,
}


@pytest.fixture(params=DATABASES)
async def database(
    request: pytest.FixtureRequest,
    started: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Database]:
    """Give each database in turn, empty."""
    kind = request.param
    monkeypatch.setattr(mongodb, "FIND_SECONDS", 0.5)
    if kind in ("mariadb", "sqlite"):
        engine = _sqlite(tmp_path) if kind == "sqlite" else _maria(started("mariadb"), tmp_path)
        yield InSql(engine, None if kind == "sqlite" else started("mariadb"))
        engine.dispose()
        return
    made: Database = KINDS[kind](started(kind))
    await made.empty()
    yield made


def _sqlite(folder: Path) -> sql.Engine:
    return sql.create_engine(f"sqlite:///{folder / 'model.db'}")


def _maria(server: MariaServer, folder: Path) -> sql.Engine:
    name = f"d{abs(hash(str(folder)))}"
    with sql.create_engine(server.url).begin() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    return sql.create_engine(server.url + name)
