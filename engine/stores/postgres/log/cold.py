"""Reading what was moved out of a log in PostgreSQL: contents from the schema of its archive.

Rules: only a page that has an event without contents asks for them, so a log without an archive is
read as before. A page has no more bytes than it may, and ends before an event that is not to be
had: the page that begins with that event raises ArchiveUnread. Whoever reads compares the checksum
in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ....errors import ArchiveUnread
from ...contract.archiving import MOVED, ArchiveRun
from ..driver import Record
from ..line import Line
from .cold_sql import cold_schema

__all__ = ["FEED", "STREAMS", "TAGGED", "Places", "kept_after", "read_archives", "thawed"]

_THERE: Final = "SELECT to_regclass($1::text) IS NOT NULL"
# Missing ones come without contents, and those that do not fit do not come.
_THAW: Final = """
SELECT position, encoding, payload, metadata FROM (
    SELECT a.o, a.position, c.encoding, c.payload, c.metadata, sum(coalesce(
            octet_length(c.payload) + octet_length(c.metadata), 0)) OVER (ORDER BY a.o) AS so_far
    FROM unnest($1::bigint[]) WITH ORDINALITY AS a(position, o)
    LEFT JOIN {c}.contents c ON c.position = a.position
) cut WHERE o = 1 OR so_far <= $2 ORDER BY o
"""
_KEPT: Final = f"""
SELECT position FROM {{s}}.events WHERE position > $1 AND encoding <> {MOVED}
ORDER BY position LIMIT 1
"""  # noqa: S608 - a number of ours
_RUNS: Final = """
SELECT begun, rule, streams, events, bytes, position FROM {s}.archives ORDER BY number
"""


class Places(NamedTuple):
    """Where a row has the position, and the payload between recorded, and metadata and encoding."""

    position: int
    payload: int
    always: int = 0
    """How many columns stay of a row that does not fit; 0 where it does not come at all."""


FEED: Final = Places(0, 5)
STREAMS: Final = Places(2, 6, 2)
TAGGED: Final = Places(1, 6)


async def read_archives(line: Line, schema: str) -> Sequence[ArchiveRun]:
    """Give the runs that moved something, in their order."""
    return [ArchiveRun(*row) for row in await line.fetch(_RUNS.replace("{s}", schema))]


async def kept_after(line: Line, schema: str, position: int) -> int | None:
    """Give the position of the next event whose contents are in the log; None if all were moved."""
    found = await line.fetch(_KEPT.replace("{s}", schema), position)
    return found[0][0] if found else None


async def thawed(
    line: Line, schema: str, rows: Sequence[Record], places: Places, bytes_max: int
) -> Sequence[Record]:
    """Give the rows of a page with the contents of those that were moved; raise ArchiveUnread."""
    encoding = places.payload + 2
    if MOVED not in {row[encoding] for row in rows}:
        return rows
    moved = [row for row in rows if row[encoding] == MOVED]
    wanted = [row[places.position] for row in moved]
    cold = cold_schema(schema)
    why, whole = f"the schema {cold} does not have it", False
    found: dict[int, tuple[Any, ...]] = {}
    if (await line.fetch(_THERE, f"{cold}.contents"))[0][0]:
        asked = await line.fetch(_THAW.replace("{c}", cold), wanted, bytes_max)
        found = {row[0]: tuple(row)[1:] for row in asked}
    else:
        found = {wanted[0]: (None, b"", b"")}
        why, whole = f"the schema {cold} is not there: restore it", True
    recorded = moved[0][places.payload - 1]
    missing = ArchiveUnread(wanted[0], cold, why, whole=whole, recorded=recorded)
    return _filled(rows, places, found, bytes_max, missing)


def _filled(
    rows: Sequence[Record],
    places: Places,
    found: dict[int, tuple[Any, ...]],
    bytes_max: int,
    missing: ArchiveUnread,
) -> Sequence[Record]:
    at, payload_at, always = places
    filled: list[Any] = []
    events = size = 0
    for number, row in enumerate(rows):
        payload, metadata, encoding = row[payload_at : payload_at + 3]
        if encoding == MOVED:
            encoding, payload, metadata = found.get(row[at], (MOVED, b"", b""))
            if encoding is None and not events:
                raise missing
        is_event = row[at] is not None
        size += len(payload) + len(metadata) if payload is not None else 0
        is_unread = encoding == MOVED or (is_event and encoding is None)
        if is_unread or (events and size > bytes_max):
            empty = (None,) * (len(row) - always)
            return filled + [(*tuple(rest)[:always], *empty) for rest in rows[number:] if always]
        events += is_event
        parts = tuple(row)
        filled.append((*parts[:payload_at], payload, metadata, encoding, *parts[payload_at + 3 :]))
    return filled
