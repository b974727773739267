"""One server of each kind for all tests of this room that ask for it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
