"""The engine with its log in PostgreSQL, and the floor of it: the same statement without actors.

Rules: the server is started here, once in a run, on the same machine and disk as everything else,
with the settings that it has by itself, which sync each commit. Each cell has a schema of its own,
and what it acknowledged is counted by the server's own client.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import engine
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.log.writer import APPEND
from tests.support.postgres import Server, postgres_server, wheel_programs

from .histogram import Histogram
from .scenario import Wrong
from .systems import System, Target, commits_of, send_of
from .workload import BenchmarkOrder

__all__ = ["DURABLE", "measure_statement", "postgres_system", "schema_of", "server"]

DURABLE: Final = "PostgreSQL: fsync and synchronous_commit on, as it is by itself; on this machine"
"""What a commit is worth."""


@cache
def server() -> Server:
    """Start the server at its first use; it ends with the process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgres_server(wheel_programs()))


def schema_of(folder: Path) -> str:
    return "b_" + "".join(c if c.isalnum() else "_" for c in folder.name.lower())


def _count(folder: Path) -> int:
    """Count the events that a cell left; raise Wrong where there are holes. Drops them."""
    schema = schema_of(folder)
    counted = server().sql(f"SELECT count(*), coalesce(max(position), 0) FROM {schema}.events")
    count, last = map(int, counted.split("|"))
    server().sql(f"DROP SCHEMA {schema} CASCADE")
    if count != last:
        raise Wrong(f"{schema} has {count:,} events, the last one at position {last:,}")
    return count


def postgres_system(*, keyed: bool) -> System:
    """Give the engine; keyed, each command has a key, a correlation and a principal."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        url = server().url(schema_of(folder))
        async with engine.Engine([BenchmarkOrder], store=url, views="memory:") as running:
            yield Target(send_of(running, keyed=keyed), lambda: commits_of(running))

    return System(f"engine {'keyed' if keyed else 'bare'}", opened, _count)


def measure_statement(batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Append batches of so many rows by the engine's own statement, one after the other."""
    times, begin, end, rows = engine.run(_append_for, batch, seconds, folder)
    found = _count(folder)
    if rows != found:
        raise Wrong(f"{rows:,} rows were inserted; counted again, there are {found:,}")
    return {
        "commands": times.count * batch / (end - begin),
        **times.milliseconds(),
        "events": batch,
    }


async def _append_for(
    batch: int, seconds: float, folder: Path
) -> tuple[Histogram, float, float, int]:
    address = read_address(server().url(schema_of(folder)))
    store = PostgresStore(address)
    await store.open(engine.Ports())
    line, session = store.writing()
    query = address.sql(APPEND)
    streams = [f"order:{number:032x}" for number in range(batch)]
    position = 0
    rounds = itertools.count(1)

    async def append_for(seconds: float) -> Histogram:
        nonlocal position
        times = Histogram()
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            await line.fetch(query, *_values(session, position, next(rounds), streams))
            position += batch
            times.record(time.perf_counter() - begin)
        return times

    await append_for(seconds / 4)
    begin = time.perf_counter()
    times = await append_for(seconds)
    end = time.perf_counter()
    await store.close()
    return times, begin, end, position


def _values(session: int, after: int, version: int, streams: Sequence[str]) -> Sequence[object]:
    """Give a batch as the writer lays it out; checksums are not looked at by the statement."""
    count = len(streams)
    event = b'{"item":"mouse","quantity":1}'
    key = b'{"key":"benchmark/1","correlation":"benchmark","principal":"client"}'
    rows = (streams, [version] * count, [1] * count, [0] * count, [event] * count, [key] * count)
    return (session, after, 0, 1, *rows, [0] * count, [], [], True, True, [], [], [], [])
