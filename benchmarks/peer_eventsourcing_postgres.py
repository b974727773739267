"""The peer `eventsourcing` on PostgreSQL, in the fastest configuration that is as safe.

As in `peer_eventsourcing`: aggregates stay in its cache, and events are MessagePack. An insert of
its runs as a function in the database, which is its own faster way. Each save is a transaction that
locks the table, so what threads win is that one decides while another's commit is synced: more of
them than it has connections win nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from .peer_eventsourcing import CACHED, Shop, driven
from .postgres import schema_of, server
from .scenario import Wrong
from .systems import System, Target

__all__ = ["CONFIGURATION", "systems"]

CONFIGURATION: Final = (
    "PostgreSQL: as it is by itself, synchronous_commit=on; psycopg; functions in the database; "
    "aggregate cache without fast-forward or deep copies; msgspec MessagePack; one transaction a "
    "command; clients on a pool of threads, each with a connection"
)
THREADS: Final = (8, 32)


def systems(name: str) -> Sequence[System]:
    """Give the peer under this name, with few threads and with many."""
    importlib.import_module("psycopg")  # which nobody has who has installed the peer alone
    return [System(f"{name}, {n} threads", partial(_opened, n), _count) for n in THREADS]


@contextlib.asynccontextmanager
async def _opened(threads: int, folder: Path) -> AsyncGenerator[Target]:
    schema = schema_of(folder)
    server().sql(f"CREATE SCHEMA {schema}")
    app = Shop(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(server().port),
            "POSTGRES_DBNAME": "postgres",
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "none",
            "POSTGRES_SCHEMA": schema,
            "POSTGRES_POOL_SIZE": str(threads),
            "POSTGRES_MAX_OVERFLOW": "0",
            "POSTGRES_MAX_WAITING": "0",  # without a bound
            "POSTGRES_PRE_PING": "n",
            "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
            **CACHED,
        }
    )
    _check_durability()
    with contextlib.closing(app):
        async with driven(app, threads) as target:
            yield target


def _check_durability() -> None:
    found = [server().sql(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    if found != ["on", "on"]:
        raise Wrong(f"the peer writes with fsync and synchronous_commit {found}, not on and on")


def _count(folder: Path) -> int:
    schema = schema_of(folder)
    count = int(server().sql(f"SELECT count(*) FROM {schema}.shop_events"))
    server().sql(f"DROP SCHEMA {schema} CASCADE")
    return count
