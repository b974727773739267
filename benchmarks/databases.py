"""Databases of the run's server, one for each cell, that hold nothing or a full log.

Rules: a log is filled once a run, through the store's own contract, and looked through by the
server once (`VACUUM ANALYZE`), as an autovacuum would do behind whoever wrote it. Each cell has a
copy that the server makes, and which is dropped behind it. Everything is counted by the server's
own client.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import engine
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore

from .filled import Copy, Orders, fill
from .postgres import server
from .scenario import Wrong

__all__ = ["PreparedDatabase", "empty_database"]

SCHEMA: Final = "foldline"
FEW_EVENTS: Final = 50_000
"""Fewer are copied block by block, since a copy of files syncs each of some hundred."""
_numbers = itertools.count(1)


class PreparedDatabase:
    """A log in a database that is filled when it is first needed, and copied for each cell."""

    def __init__(self, *orders: Orders, then: Callable[[str], None] | None = None) -> None:
        """Take what is in the log, and what is done with it by its URL when it is full."""
        self._orders = orders
        self._then = then
        self._name: str | None = None

    @contextmanager
    def copied(self, _: Path) -> Generator[Copy]:
        """Give a copy, which is dropped at the end."""
        if self._name is None:
            self._name = self._made()
        few = sum(orders.total for orders in self._orders) < FEW_EVENTS
        strategy = "wal_log" if few else "file_copy"
        with _database(f"TEMPLATE {self._name} STRATEGY {strategy}") as copy:
            yield copy

    def _made(self) -> str:
        name = _new_name()
        server().sql(f"CREATE DATABASE {name}")
        url = _url(name)
        engine.run(fill, PostgresStore(read_address(url)), self._orders)
        if self._then is not None:
            self._then(url)
        _sql(name, "VACUUM ANALYZE")
        return name


@contextmanager
def empty_database(_: Path) -> Generator[Copy]:
    """Give a database without a log, which is dropped at the end."""
    with _database("") as copy:
        yield copy


@contextmanager
def _database(how: str) -> Generator[Copy]:
    name = _new_name()
    server().sql(f"CREATE DATABASE {name} {how}")
    try:
        yield Copy(_url(name), partial(_check_count, name))
    finally:
        server().sql(f"DROP DATABASE {name} WITH (FORCE)")


def _new_name() -> str:
    return f"benchmark_{next(_numbers)}"


def _url(database: str) -> str:
    return server().url(SCHEMA).replace("/postgres?", f"/{database}?")


def _sql(database: str, statement: str) -> str:
    where = ("-h", "127.0.0.1", "-p", str(server().port), "-U", "postgres", "-d", database)
    return server().run("psql", *where, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement).strip()


def _check_count(database: str, acknowledged: int) -> None:
    query = f"SELECT count(*), coalesce(max(position), 0) FROM {SCHEMA}.events"
    count, last = map(int, _sql(database, query).split("|"))
    if (count, last) != (acknowledged, acknowledged):
        raise Wrong(
            f"{acknowledged:,} events were acknowledged; counted again, the log has {count:,}, the "
            f"last one at position {last:,}"
        )
