"""The fixed floor of `grow`: events inserted by bare APSW, batch by batch, into a log that grows.

The table has the columns and the index of the engine's log, and neither its triggers nor its
streams by name. It must stay as it is; change it only with a reason in the commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import apsw
import msgspec

from .workload import AdjustOrder
from .writers import CLIENTS, clients

__all__ = ["BATCH", "SEED", "connect", "insert", "random_rows", "rows"]

BATCH = CLIENTS
"""Events of one transaction: one of each client."""
SEED = 5
Rows: TypeAlias = Iterator[Sequence[Any]]

_EVENTS = (
    "CREATE TABLE events(position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, version INTEGER "
    "NOT NULL, type INTEGER NOT NULL, recorded INTEGER NOT NULL, encoding INTEGER NOT NULL, "
    "payload BLOB NOT NULL, metadata BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT"
)
_encode = msgspec.json.Encoder().encode


def connect(path: Path) -> Any:
    """Make the file."""
    connection: Any = apsw.Connection(str(path), statementcachesize=512)
    for statement in (
        "PRAGMA page_size=8192",
        "PRAGMA journal_mode=wal",
        "PRAGMA synchronous=full",
        "PRAGMA wal_autocheckpoint=4000",
        _EVENTS,
        "CREATE UNIQUE INDEX events_by_stream ON events(stream, version)",
    ):
        connection.execute(statement).fetchall()
    return connection


def insert(connection: Any, rows: Rows, count: int) -> None:
    """Insert so many rows, a transaction a batch."""
    sql = "INSERT INTO events VALUES" + ",".join(["(?,?,?,?,?,?,?,?,?)"] * BATCH)
    for _ in range(count // BATCH):
        flat = list(itertools.chain.from_iterable(itertools.islice(rows, BATCH)))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(sql, flat)
        connection.execute("COMMIT")


def rows() -> Rows:
    """Give the rows of clients in turn that each open an order and adjust it nine times."""
    commands = clients()
    position = 0
    for step in itertools.count():
        for client, mine in enumerate(commands):
            position += 1
            stream = step // 10 * CLIENTS + client + 1
            payload = _encode(next(mine))
            yield position, stream, step % 10 + 1, 1, 0, 0, payload, b"", position


def random_rows(orders: int) -> Rows:
    """Give rows that open every order, then rows that adjust any of them."""
    numbers = Random(SEED)
    versions = [0] * orders
    for position in itertools.count(1):
        number = position - 1 if position <= orders else numbers.randrange(orders)
        versions[number] += 1
        payload = _encode(AdjustOrder(f"{number:08d}", "mouse", number % 9 + 1))
        yield position, number + 1, versions[number], 1, 0, 0, payload, b"", position
