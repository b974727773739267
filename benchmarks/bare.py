"""The fixed floors of reading and of views: the engine's own rows by bare APSW and msgspec.

There is no engine in it: no actor, no page limit by bytes, no order to compare, no metadata to hand
on. What it decodes and folds is what the engine decodes and folds, with the same classes and the
same functions. It must stay as it is; change it only with a reason in the commit (a change of the
log's tables is one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import apsw
import msgspec

from .scenario import Wrong
from .workload import BenchmarkOrder, OrderAdjusted, OrderOpened

__all__ = ["BareLog", "BareStream", "BareView", "Row", "catch_up", "checked", "fold"]

Row: TypeAlias = tuple[int, str, int, str, int, int, int, bytes, bytes, int]
"""Position, stream, version, name, event version, recorded, encoding, payload, metadata, CRC."""
BareStream: TypeAlias = Sequence[tuple[str, bytes]]
"""Names and payloads."""

PAGE_ROWS = 1_000

_DECODE: dict[str, Callable[[bytes], Any]] = {
    "order-opened": msgspec.json.Decoder(OrderOpened).decode,
    "order-adjusted": msgspec.json.Decoder(OrderAdjusted).decode,
}
_APPLY: dict[str, Callable[[BenchmarkOrder, Any], None]] = {
    "order-opened": BenchmarkOrder.opened,
    "order-adjusted": BenchmarkOrder.adjusted,
}
_STREAM = (
    "SELECT t.name, e.payload FROM streams s JOIN events e ON e.stream = s.number "
    "JOIN event_types t ON t.number = e.type WHERE s.name = ? ORDER BY e.version"
)
_PAGE = (
    "SELECT e.position, s.name, e.version, t.name, t.version, e.recorded, e.encoding, e.payload, "
    "e.metadata, e.checksum FROM events e JOIN streams s ON s.number = e.stream "
    "JOIN event_types t ON t.number = e.type WHERE e.position > ? ORDER BY e.position LIMIT ?"
)
_SUMMARIES = (
    "CREATE TABLE summaries(order_id TEXT PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER "
    "NOT NULL, changes INTEGER NOT NULL, opened INTEGER NOT NULL) STRICT, WITHOUT ROWID"
)
_PUT = (
    "INSERT INTO summaries VALUES (?, ?, ?, ?, ?) ON CONFLICT (order_id) DO UPDATE SET "
    "item=excluded.item, quantity=excluded.quantity, changes=excluded.changes, "
    "opened=excluded.opened"
)


class BareLog:
    """One connection that reads a log, in the thread that asks."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)

    def stream(self, name: str) -> BareStream:
        """Give the names and payloads of one stream, in order."""
        found: BareStream = self._connection.execute(_STREAM, (name,)).fetchall()
        return found

    def pages(self) -> Iterator[list[Row]]:
        """Give the whole log, page by page."""
        after = 0
        while page := self._connection.execute(_PAGE, (after, PAGE_ROWS)).fetchall():
            yield page
            after = page[-1][0]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def fold(order_id: str, rows: BareStream) -> BenchmarkOrder:
    """Give the order that these events make."""
    order = BenchmarkOrder(id=order_id)
    for name, payload in rows:
        _APPLY[name](order, _DECODE[name](payload))
        order.version += 1
    return order


def checked(row: Row) -> Any:
    """Give the event of a row whose checksum is right; raise Wrong where it is not."""
    position, stream, version, name, event_version, recorded, encoding, payload, metadata, crc = row
    head = (
        f"{version} {event_version} {recorded} {encoding} {len(payload)} {len(metadata)} "
        f"{name} {stream}\0"
    )
    if crc32(b"".join((head.encode(), payload, metadata))) != crc:
        raise Wrong(f"the checksum of the event at position {position} is not that of its row")
    return _DECODE[name](payload)


class BareView:
    """One table of order summaries and its checkpoint, in a file of its own."""

    def __init__(self, path: Path) -> None:
        """Make the file; its commits are not synced, as those of the engine's views are not."""
        self._connection: Any = apsw.Connection(str(path))
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            "PRAGMA cache_size=-65536",
            _SUMMARIES,
            "CREATE TABLE checkpoint(position INTEGER NOT NULL)",
            "INSERT INTO checkpoint VALUES (0)",
        ):
            self._connection.execute(statement).fetchall()

    def put(self, rows: Sequence[Sequence[Any]], checkpoint: int) -> None:
        """Put rows and checkpoint, in one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_PUT, rows)
        self._connection.execute("UPDATE checkpoint SET position = ?", (checkpoint,))
        self._connection.execute("COMMIT")

    def totals(self) -> tuple[int, int]:
        """Give the number of rows and the sum of their changes."""
        sql = "SELECT count(*), coalesce(sum(changes), 0) FROM summaries"
        found: tuple[int, int] = self._connection.execute(sql).fetchall()[0]
        return found

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def catch_up(log: BareLog, view: BareView) -> int:
    """Fold a whole log into a view, a transaction a page; give the number of pages."""
    rows: dict[str, tuple[str, str, int, int, int]] = {}
    pages = 0
    for page in log.pages():
        changed: set[str] = set()
        for row in page:
            event = checked(row)
            order_id = event.order_id
            if type(event) is OrderOpened:
                rows[order_id] = (order_id, event.item, event.quantity, 1, row[5])
            else:
                _, item, _, changes, opened = rows[order_id]
                rows[order_id] = (order_id, item, event.quantity, changes + 1, opened)
            changed.add(order_id)
        view.put([rows[order_id] for order_id in sorted(changed)], page[-1][0])
        pages += 1
    return pages
