"""The fixed floor of the store: the same rows through bare APSW, batch after batch, and no actors.

With batches of one row it is one fsynced insert after the other: the least that a command which
waits for the disk can take. It must stay as it is; change it only with a reason in the commit.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .floor import Row, connect, insert
from .histogram import Histogram
from .scenario import Wrong
from .systems import count_rows
from .workload import commands_of

__all__ = ["measure"]

_encode = msgspec.json.Encoder().encode


def measure(batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Insert batches of so many rows, one by each client; a row's latency is its batch's."""
    path = folder / "rows.db"
    connection = connect(str(path))
    rows = _rows(batch)
    warm = _insert_for(seconds / 4, connection, rows, batch)
    begin = time.perf_counter()
    times = _insert_for(seconds, connection, rows, batch)
    rate = times.count * batch / (time.perf_counter() - begin)
    connection.close()
    inserted, found = (warm.count + times.count) * batch, count_rows(path)
    if inserted != found:
        raise Wrong(f"{inserted:,} rows were inserted; opened again, the file has {found:,}")
    return {"commands": rate, **times.milliseconds(), "events": batch}


def _rows(clients: int) -> Iterator[Row]:
    """Give the rows that so many clients' commands become, the clients in turn."""
    commands = [commands_of(number) for number in range(clients)]
    versions: list[Iterator[int]] = [itertools.cycle(range(1, 11)) for _ in commands]
    position = 0
    while True:
        for mine, version in zip(commands, versions, strict=True):
            position += 1
            command = next(mine)
            row = (position, command.order_id, next(version), "adjusted", _encode(command))
            yield row


def _insert_for(seconds: float, connection: object, rows: Iterator[Row], batch: int) -> Histogram:
    times = Histogram()
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        insert(connection, list(itertools.islice(rows, batch)))
        times.record(time.perf_counter() - begin)
    return times
