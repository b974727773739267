"""`feed`: from asking for all events of a log to the last of them, decoded, its checksum compared.

`engine.feed()` gives each event to an `async for` that counts it. The floor reads the same rows by
bare APSW in pages of 1,000, compares the same checksum, and decodes the payload by msgspec; it
hands out no metadata, which the engine decodes for every event that has any. The floor of the
memory store has the rows in a list. `--store postgresql` reads a log in PostgreSQL, whose floor is
bare asyncpg, beside the one in SQLite.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import cached_property, partial
from pathlib import Path

import engine
from engine.stores.memory import MemoryStore

from .bare import BareLog, Row, checked
from .bare_postgres import BarePostgres
from .databases import PreparedDatabase
from .filled import CLIENTS, LOG, Orders, Prepared, fill_memory, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder

__all__ = ["add_options", "scenario"]

EVENTS, QUICK_EVENTS = 300_000, 5_120


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size, and the store."""
    parser.add_argument("--events", type=int, help=f"in the log, default {EVENTS:,}")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    logs = [_Log(options.folder, events, keyed) for keyed in (False, True)]
    on_postgres = options.store == "postgresql"
    stores = ("postgresql",) if on_postgres else ("sqlite", "memory")
    return Scenario(
        name="feed",
        title="from asking for all events to the last one, decoded, its checksum compared",
        conditions={
            "log": "in PostgreSQL, on this machine, in its caches"
            if on_postgres
            else "SQLite: WAL, 8 KiB pages, in the operating system's cache; memory: none",
            "events": f"{logs[0].orders.total:,}, of {CLIENTS} clients in turn",
            "keyed": "each event has a key, a correlation and a principal",
            "pages": "1,000 events",
            "floor": f"bare {'asyncpg' if on_postgres else 'APSW'}, the same checksums, msgspec "
            "for payloads; no metadata decoded",
        },
        columns=(Column("events", "/s", "more"),),
        headline="events",
        cells=[cell for store in stores for log in logs for cell in _cells(log, store)],
    )


class _Log:
    """The same events in a file and in memory."""

    def __init__(self, folder: Path, events: int, keyed: bool) -> None:
        self.orders = Orders(max(1, events // 10), 10, keyed=keyed)
        self.file = Prepared(folder, lambda made: fill_sqlite(made, self.orders))
        self.database = PreparedDatabase(self.orders)

    @cached_property
    def memory(self) -> MemoryStore:
        """The store."""
        return fill_memory(self.orders)

    @contextmanager
    def opened(self, store: str, folder: Path) -> Generator[str | MemoryStore]:
        """Give a copy, which has all events afterwards too."""
        if store == "memory":
            yield self.memory
            return
        with (self.file if store == "sqlite" else self.database).copied(folder) as copy:
            yield copy.url
            copy.check(self.orders.total)

    @cached_property
    def rows(self) -> Sequence[Row]:
        """What the floor of the memory store goes through: the rows of the file, read before."""
        bare = BareLog(self.file.folder() / LOG)
        rows = [row for page in bare.pages() for row in page]
        bare.close()
        return rows


def _cells(log: _Log, store: str) -> Sequence[Cell]:
    group = f"{store}, {'keyed' if log.orders.keyed else 'bare'}"
    against, cells = ["floor"], [Cell(group, "floor", partial(_measure_floor, log, store))]
    if store == "postgresql":
        against.append("engine, SQLite")
        cells.append(Cell(group, "engine, SQLite", partial(_measure_engine, log, "sqlite")))
    return [*cells, Cell(group, "engine", partial(_measure_engine, log, store), against)]


def _measure_floor(log: _Log, store: str, folder: Path) -> Mapping[str, float]:
    if store == "memory":
        return _check_all(log, [log.rows])
    with log.opened(store, folder) as url:
        if store == "postgresql":
            return _figures(log, *engine.run(_read_bare, url))
        bare = BareLog(folder / LOG)
        figures = _check_all(log, bare.pages())
        bare.close()
    return figures


async def _read_bare(url: str) -> tuple[int, float]:
    bare = await BarePostgres.open(url)
    count, begin = 0, time.perf_counter()
    async for page in bare.pages():
        for row in page:
            checked(row)
            count += 1
    seconds = time.perf_counter() - begin
    await bare.close()
    return count, seconds


def _check_all(log: _Log, pages: Iterable[Sequence[Row]]) -> Mapping[str, float]:
    count, begin = 0, time.perf_counter()
    for page in pages:
        for row in page:
            checked(row)
            count += 1
    return _figures(log, count, time.perf_counter() - begin)


def _measure_engine(log: _Log, store: str, folder: Path) -> Mapping[str, float]:
    with log.opened(store, folder) as at:
        count, seconds = engine.run(_read, at)
    return _figures(log, count, seconds)


async def _read(store: str | MemoryStore) -> tuple[int, float]:
    async with engine.Engine([BenchmarkOrder], store=store) as shop:
        count, begin = 0, time.perf_counter()
        async with aclosing(shop.feed()) as feed:
            async for logged in feed:
                count += 1
                if logged.event is None or logged.meta.position != count:
                    raise Wrong(f"event {count:,} of the feed is {logged.name}")
        return count, time.perf_counter() - begin


def _figures(log: _Log, count: int, seconds: float) -> Mapping[str, float]:
    if count != log.orders.total:
        raise Wrong(f"the log has {log.orders.total:,} events, and {count:,} came")
    return {"events": count / seconds}
