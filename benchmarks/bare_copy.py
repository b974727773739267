"""The floors of copying a log between SQLite and PostgreSQL: its rows, by APSW and asyncpg alone.

There is no engine in it but the tables that it makes: no checksum, no digest, no page by bytes, no
mark of how far it is, and nothing is read again. A page is read while another is written, since a
floor that waits for each would be none. It must stay as it is; change it only with a reason in the
commit (a change of the log's tables is one).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

import apsw

import engine
from engine.stores.urls import backend_of_text

__all__ = ["copy_into_postgres", "copy_into_sqlite"]

PAGE_ROWS: Final = 5_000
_COLUMNS: Final = (
    "position", "recorded", "behind", "checksum", "version", "type", "encoding", "stream",
    "payload", "metadata",
)  # fmt: skip
_FROM_SQLITE: Final = (
    "SELECT e.position, e.recorded, 0, e.checksum, e.version, e.type, e.encoding, s.name, "
    "e.payload, e.metadata FROM events e JOIN streams s ON s.number = e.stream "
    "WHERE e.position > ? ORDER BY e.position LIMIT ?"
)
_FROM_POSTGRES: Final = (
    "SELECT position, stream, version, type, recorded, encoding, payload, metadata, checksum "
    "FROM foldline.events WHERE position > $1 ORDER BY position LIMIT $2"
)
_TYPES: Final = "SELECT number, name, version, schema_hash FROM {}event_types ORDER BY number"


def copy_into_postgres(source: str, target: str) -> None:
    """Copy the rows of a file."""
    engine.run(_copy_into_postgres, source, target)


def copy_into_sqlite(source: str, target: str) -> None:
    """Copy the rows of a database."""
    engine.run(_copy_into_sqlite, source, target)


async def _copy_into_postgres(source: str, target: str) -> None:
    await _make_log(target)
    file: Any = apsw.Connection(source.removeprefix("sqlite:"), flags=apsw.SQLITE_OPEN_READONLY)
    server = await _connect(target)
    loop = asyncio.get_running_loop()

    def read(after: int) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = file.execute(_FROM_SQLITE, (after, PAGE_ROWS)).fetchall()
        return rows

    with ThreadPoolExecutor(1) as pool:
        await server.copy_records_to_table(
            "event_types",
            records=file.execute(_TYPES.format("")).fetchall(),
            schema_name="foldline",
        )
        await server.execute("SELECT set_config('foldline.appending', 'foldline', false)")
        await server.execute("SET synchronous_commit = off")
        page = await loop.run_in_executor(pool, read, 0)
        while page:
            ahead = loop.run_in_executor(pool, read, page[-1][0])
            await server.copy_records_to_table(
                "events", records=page, columns=_COLUMNS, schema_name="foldline"
            )
            page = await ahead
    await server.execute("SET synchronous_commit = on")
    await server.execute("UPDATE foldline.about SET log_id = log_id")
    await server.close()
    file.close()


async def _copy_into_sqlite(source: str, target: str) -> None:
    await _make_log(target)
    server = await _connect(source)
    file: Any = apsw.Connection(target.removeprefix("sqlite:"))
    file.execute("PRAGMA synchronous = 1")
    file.execute("PRAGMA wal_autocheckpoint = 8192")
    streams: dict[str, int] = {}
    file.executemany(
        "INSERT INTO event_types VALUES (?, ?, ?, ?)",
        [tuple(row) for row in await server.fetch(_TYPES.format("foldline."))],
    )

    def write(page: Sequence[Any]) -> None:
        with file:
            new = dict.fromkeys(row[1] for row in page if row[1] not in streams)
            rows = list(enumerate(new, len(streams) + 1))
            file.executemany("INSERT INTO streams VALUES (?, ?)", rows)
            streams.update((name, number) for number, name in rows)
            file.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(row[0], streams[row[1]], *row[2:]) for row in page],
            )

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        page = await server.fetch(_FROM_POSTGRES, 0, PAGE_ROWS)
        while page:
            ahead = asyncio.ensure_future(server.fetch(_FROM_POSTGRES, page[-1][0], PAGE_ROWS))
            await loop.run_in_executor(pool, write, page)
            page = await ahead
    file.execute("PRAGMA synchronous = 2")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    await server.close()


async def _make_log(url: str) -> None:
    """Let the engine make its empty tables."""
    store = backend_of_text(url).log()
    await store.open(engine.Ports())
    await store.close()


async def _connect(url: str) -> Any:
    driver: Any = importlib.import_module("asyncpg")
    parts = urlsplit(url)
    return await driver.connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        database=parts.path.removeprefix("/"),
    )
