"""Reading a log in PostgreSQL: its end, its types, pages of streams and of the feed, snapshots.

Rules: one statement a page, so that a page is of one moment. A page is cut by events and bytes in
the database, without what is cut being sent. Each event that is read is compared with its checksum,
and each page with its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias
from zlib import crc32

from ....errors import Damaged
from ....model.stored import Snapshot, StoredEvent, verify
from ...contract.log import Head, StreamPage, StreamRead
from ..driver import Record
from ..line import Line
from .cold import FEED, STREAMS, thawed

__all__ = [
    "EventReader",
    "TypeNames",
    "Types",
    "events_of_feed",
    "pages_of_streams",
    "read_feed",
    "read_head",
    "read_kinds",
    "read_snapshots",
    "read_streams",
    "read_types",
    "read_versions",
]

Types: TypeAlias = Sequence[tuple[int, str, int, str]]
"""Number, name, version and schema hash of each."""
TypeNames: TypeAlias = Callable[[int], tuple[str, int] | None]
"""Gives name and version of an event type by its number; None for an unknown one."""

HEAD: Final = "SELECT position, checksum, recorded FROM {s}.events ORDER BY position DESC LIMIT 1"
_TYPES: Final = "SELECT number, name, version, schema_hash FROM {s}.event_types ORDER BY number"
_FEED: Final = """
SELECT position, stream, version, type, recorded, payload, metadata, encoding, checksum, behind
FROM (
    SELECT *,
        sum(octet_length(payload) + octet_length(metadata)) OVER (ORDER BY position) AS so_far,
        row_number() OVER (ORDER BY position) AS n
    FROM (SELECT * FROM {s}.events WHERE position > $1 ORDER BY position LIMIT $2) page
) cut WHERE n = 1 OR so_far <= $3 ORDER BY position
"""
_STREAMS: Final = """
WITH asked AS (
    SELECT o, stream, after, coalesce((
        SELECT e.version FROM {s}.events e
        WHERE e.stream = q.stream ORDER BY e.version DESC LIMIT 1), 0) AS tail
    FROM unnest($1::text[], $2::integer[]) WITH ORDINALITY AS q(stream, after, o)
), counted AS (
    SELECT *, greatest(tail - after, 0) AS left_over,
        sum(greatest(tail - after, 0)) OVER (ORDER BY o) - greatest(tail - after, 0) AS earlier
    FROM asked
), found AS (
    SELECT c.o, e.*,
        row_number() OVER (ORDER BY c.o, e.version) AS n,
        sum(octet_length(payload) + octet_length(metadata)) OVER (ORDER BY c.o, e.version) AS so_far
    FROM counted c CROSS JOIN LATERAL (
        SELECT * FROM {s}.events
        WHERE events.stream = c.stream AND events.version > c.after
        ORDER BY events.version LIMIT least(c.left_over, $3::bigint - c.earlier)
    ) e WHERE c.left_over > 0 AND c.earlier < $3::bigint
)
SELECT a.o, a.tail, f.position, f.version, f.type, f.recorded, f.payload, f.metadata, f.encoding,
    f.checksum, f.behind
FROM asked a LEFT JOIN found f ON f.o = a.o AND (f.n = 1 OR f.so_far <= $4)
ORDER BY a.o, f.version
"""
_VERSIONS: Final = """
SELECT q.stream, coalesce((
    SELECT e.version FROM {s}.events e
    WHERE e.stream = q.stream ORDER BY e.version DESC LIMIT 1), 0)
FROM unnest($1::text[]) AS q(stream)
"""
# The streams of a kind stand together; a semicolon comes next after the colon that ends it.
_KINDS: Final = """
WITH RECURSIVE found(name) AS (
    SELECT min(stream) FROM {s}.events
    UNION ALL
    SELECT (SELECT min(stream) FROM {s}.events
        WHERE stream >= split_part(found.name, ':', 1) || ';')
    FROM found WHERE found.name IS NOT NULL
) SELECT split_part(name, ':', 1) FROM found WHERE name IS NOT NULL
"""
_SNAPSHOTS: Final = """
SELECT stream, version, position, checksum, snapshot_version, state FROM {s}.snapshots
WHERE stream = ANY ($1::text[])
"""


def _in(sql: str, schema: str) -> str:
    return sql.replace("{s}", schema)


async def read_head(line: Line, schema: str) -> Head:
    """Give the end of a log."""
    rows = await line.fetch(_in(HEAD, schema))
    return Head(*rows[0]) if rows else Head()


async def read_types(line: Line, schema: str) -> Types:
    """Give the types in the order of their first use."""
    return [(row[0], row[1], row[2], row[3]) for row in await line.fetch(_in(_TYPES, schema))]


async def read_versions(line: Line, schema: str, streams: Sequence[str]) -> dict[str, int]:
    """Give the versions of streams, 0 for an empty one."""
    return {row[0]: row[1] for row in await line.fetch(_in(_VERSIONS, schema), streams)}


async def read_kinds(line: Line, schema: str) -> Sequence[str]:
    """Give the kinds of its streams, by one look into the index for each."""
    return sorted(row[0] for row in await line.fetch(_in(_KINDS, schema)))


async def read_snapshots(line: Line, schema: str, streams: Sequence[str]) -> Sequence[Snapshot]:
    """Give the snapshots that there are."""
    return [Snapshot(*row) for row in await line.fetch(_in(_SNAPSHOTS, schema), list(streams))]


async def read_feed(
    line: Line, schema: str, after: int, events_max: int, bytes_max: int
) -> Sequence[Record]:
    """Give the rows of a page of the feed; `events_of_feed` makes events of them."""
    rows = await line.fetch(_in(_FEED, schema), after, events_max, bytes_max)
    return await thawed(line, schema, rows, FEED, bytes_max)


async def read_streams(
    line: Line, schema: str, reads: Sequence[StreamRead], events_max: int, bytes_max: int
) -> Sequence[Record]:
    """Give the rows of pages of streams; `pages_of_streams` makes pages of them."""
    names = [read.stream for read in reads]
    after = [read.after for read in reads]
    rows = await line.fetch(_in(_STREAMS, schema), names, after, events_max, bytes_max)
    return await thawed(line, schema, rows, STREAMS, bytes_max)


def events_of_feed(
    rows: Sequence[Record], after: int, type_names: TypeNames
) -> Sequence[StoredEvent]:
    """Give the events of a page. Raises Damaged."""
    event_of = EventReader(type_names).event
    events: list[StoredEvent] = []
    for row in rows:
        after += 1
        if row[0] != after:
            raise Damaged(after, f"it is missing: the next one is at position {row[0]}")
        events.append(event_of(*row))
    return events


def pages_of_streams(
    rows: Sequence[Record], reads: Sequence[StreamRead], type_names: TypeNames
) -> Sequence[StreamPage]:
    """Give the pages of streams, in the order of `reads`. Raises Damaged."""
    event_of = EventReader(type_names).event
    found: list[list[StoredEvent]] = [[] for _ in reads]
    tails = [0] * len(reads)
    for row in rows:
        # By name: to gather the rest of a row in a list takes a fifth of the time.
        number, tail, position, version, kind, at, payload, metadata, encoding, checksum, late = row
        place: int = number - 1
        tails[place] = tail
        if position is None:
            continue
        read, events = reads[place], found[place]
        stream, expected = read.stream, read.after + len(events) + 1
        if version != expected:
            raise Damaged(position, f"{stream} has version {version} in place of {expected}")
        events.append(
            event_of(
                position,
                stream,
                version,
                kind,
                at,
                payload,
                metadata,
                encoding,
                checksum,
                late,
            )
        )
    return [
        StreamPage(read.stream, events, tail > read.after + len(events))
        for read, events, tail in zip(reads, found, tails, strict=True)
    ]


class EventReader:
    """Makes the events of one page."""

    def __init__(self, type_names: TypeNames) -> None:
        self._type_names = type_names
        self._known: dict[int, tuple[str, int]] = {}

    def event(  # a call for each event: all by place, and the checksum in one piece
        self,
        position: int,
        stream: str,
        version: int,
        kind: int,
        recorded: int,
        payload: bytes,
        metadata: bytes,
        encoding: int,
        checksum: int,
        behind: int,
    ) -> StoredEvent:
        """Give an event out of the columns of its row. Raises Damaged."""
        known = self._known.get(kind) or self._named(position, stream, kind)
        name, event_version = known
        event = StoredEvent(
            position,
            stream,
            version,
            name,
            event_version,
            recorded,
            payload,
            metadata,
            encoding,
            checksum,
            behind,
        )
        head = (
            f"{version} {event_version} {recorded - behind} {encoding} {len(payload)} "
            f"{len(metadata)} {name} {stream}\0"
        )
        if crc32(b"".join((head.encode(), payload, metadata))) != checksum:
            verify(event)  # which says what is wrong
        return event

    def _named(self, position: int, stream: str, kind: int) -> tuple[str, int]:
        known = self._type_names(kind)
        if known is None:
            raise Damaged(position, f"{stream} has the unknown event type number {kind}")
        self._known[kind] = known
        return known
