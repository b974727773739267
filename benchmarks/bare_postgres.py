"""The floors of reading and of views in PostgreSQL: the engine's own rows by bare asyncpg.

There is no engine in it, as there is none in `bare`: no page limit by bytes, no order to compare,
no metadata to hand on. A page is read while the one before it is worked on, since a floor that
waits for each answer would be none. It must stay as it is; change it only with a reason in the
commit (a change of the log's tables is one).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from .bare import BareStream, Row, checked, fold
from .workload import BenchmarkOrder, OrderOpened

__all__ = ["BarePostgres", "catch_up"]

PAGE_ROWS: Final = 1_000
_PAGE: Final = (
    "SELECT e.position, e.stream, e.version, t.name, t.version, e.recorded - e.behind, e.encoding, "
    "e.payload, e.metadata, e.checksum FROM foldline.events e "
    "JOIN foldline.event_types t ON t.number = e.type "
    "WHERE e.position > $1 ORDER BY e.position LIMIT $2"
)
_STREAM: Final = (
    "SELECT t.name, e.payload FROM foldline.events e "
    "JOIN foldline.event_types t ON t.number = e.type WHERE e.stream = $1 ORDER BY e.version"
)
_VIEW: Final = (
    'CREATE TABLE summaries(order_id text COLLATE "C" PRIMARY KEY, item text COLLATE "C" NOT NULL, '
    "quantity bigint NOT NULL, changes bigint NOT NULL, opened bigint NOT NULL); "
    "CREATE TABLE checkpoint(position bigint NOT NULL); INSERT INTO checkpoint VALUES (0)"
)
_PUT: Final = (
    "INSERT INTO summaries SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], "
    "$4::bigint[], $5::bigint[]) ON CONFLICT (order_id) DO UPDATE SET item = excluded.item, "
    "quantity = excluded.quantity, changes = excluded.changes, opened = excluded.opened"
)


class BarePostgres:
    """Two connections to a database with a log: one that reads it, and one that writes a view."""

    def __init__(self, reading: Any, writing: Any) -> None:
        self._reading = reading
        self._writing = writing

    @classmethod
    async def open(cls, url: str) -> BarePostgres:
        """Connect."""
        driver: Any = importlib.import_module("asyncpg")
        parts = urlsplit(url)
        where = {"host": parts.hostname, "port": parts.port, "user": parts.username}
        database = parts.path.removeprefix("/")
        reading = await driver.connect(**where, database=database)
        return cls(reading, await driver.connect(**where, database=database))

    async def stream(self, name: str) -> BareStream:
        """Give the names and payloads of one stream, in order."""
        found: BareStream = await self._reading.fetch(_STREAM, name)
        return found

    async def pages(self) -> AsyncIterator[Sequence[Row]]:
        """Give the whole log, page by page."""
        page: Sequence[Row] = await self._reading.fetch(_PAGE, 0, PAGE_ROWS)
        while page:
            ahead = asyncio.ensure_future(self._reading.fetch(_PAGE, page[-1][0], PAGE_ROWS))
            yield page
            page = await ahead

    async def make_view(self) -> None:
        """Make a table and a checkpoint; their commits are not synced, as the engine's are not."""
        await self._writing.execute("SET synchronous_commit = off")
        await self._writing.execute(_VIEW)

    async def put(self, rows: Sequence[Sequence[Any]], checkpoint: int) -> None:
        """Put rows and checkpoint, in one transaction."""
        async with self._writing.transaction():
            await self._writing.execute(_PUT, *zip(*rows, strict=True))
            await self._writing.execute("UPDATE checkpoint SET position = $1", checkpoint)

    async def totals(self) -> tuple[int, int]:
        """Give the number of rows and the sum of their changes."""
        sql = "SELECT count(*), coalesce(sum(changes), 0)::bigint FROM summaries"
        count, changes = await self._writing.fetchrow(sql)
        return count, changes

    async def close(self) -> None:
        """Close both."""
        await self._reading.close()
        await self._writing.close()

    async def folded(self, order_id: str) -> BenchmarkOrder:
        """Give the order that the events of its stream make."""
        return fold(order_id, await self.stream(f"benchmark-order:{order_id}"))


async def catch_up(bare: BarePostgres) -> int:
    """Fold a whole log into a view, a transaction a page; give the number of pages."""
    rows: dict[str, tuple[str, str, int, int, int]] = {}
    pages = 0
    async for page in bare.pages():
        changed: Mapping[str, None] = dict.fromkeys(_folded(page, rows))
        await bare.put([rows[order_id] for order_id in sorted(changed)], page[-1][0])
        pages += 1
    return pages


def _folded(page: Sequence[Row], rows: dict[str, tuple[str, str, int, int, int]]) -> list[str]:
    found: list[str] = []
    for row in page:
        event = checked(row)
        order_id = event.order_id
        if type(event) is OrderOpened:
            rows[order_id] = (order_id, event.item, event.quantity, 1, row[5])
        else:
            _, item, _, changes, opened = rows[order_id]
            rows[order_id] = (order_id, item, event.quantity, changes + 1, opened)
        found.append(order_id)
    return found
