"""Reading pages of a SQLite log: a whole page in one row, since a row costs more than its bytes.

Each row that a statement gives hands the interpreter's lock over and back, and beside a busy event
loop that costs up to 5 ms. So a page comes as one row: its numbers as one JSON array, its payloads
and metadata as one blob, cut apart here. That is byte-exact for text; a page with another encoding,
or with a name that is no text, is read again row by row. Every event is compared with its checksum,
every page with its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ..errors import Damaged
from .contract import ENCODING_JSON, StoredEvent, StreamPage, StreamRead, verify

__all__ = ["Types", "read_feed", "read_streams"]

Types: TypeAlias = Callable[[int], tuple[str, int]]
"""Gives name and version of an event type by its number; KeyError for an unknown one."""

Numbers: TypeAlias = tuple[str | int | None, int, int, int, int, int, int, int, int]
"""Stream (name or ordinal), position, version, type, recorded, encoding, two lengths, checksum."""

_numbers: Final = msgspec.json.Decoder(list[Numbers])
_versions: Final = msgspec.json.Decoder(list[int])

_FEED: Final = (
    # LEFT: an event whose stream is not there is damaged, and must not look like the log's end.
    "s.name AS stream, {columns} FROM events e LEFT JOIN streams s ON s.number = e.stream "
    "WHERE e.position > ?1 ORDER BY e.position"
)
_STREAMS: Final = (
    "w.key AS stream, {columns} FROM json_each(?1) w CROSS JOIN streams s ON s.name = w.value->>0 "
    "CROSS JOIN events e ON e.stream = s.number AND e.version > w.value->>1"
)
_COLUMNS: Final = (
    "e.position, e.version, e.type, e.recorded, e.encoding, e.payload, e.metadata, e.checksum"
)
_NUMBERS: Final = (
    "stream, position, version, type, recorded, encoding, length(payload), length(metadata), "
    "checksum"
)
_SIZE: Final = "length(e.payload) + length(e.metadata) AS size"


# How many rows fit into ?3 bytes, the first one always: a running sum over sizes alone, so that a
# page of large events is cut before their payloads are read.
_FITTING: Final = (
    "SELECT count(*) FROM (SELECT sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS total, "
    "row_number() OVER (ROWS UNBOUNDED PRECEDING) AS row "
    "FROM (SELECT {source} LIMIT ?2)) WHERE row = 1 OR total <= ?3"
)
# Most pages fit, and a plain sum says so at a fifth of the cost.
_LIMIT: Final = (
    "(SELECT CASE WHEN (SELECT coalesce(sum(size), 0) FROM (SELECT {source} LIMIT ?2)) <= ?3 "
    "THEN ?2 ELSE ({fitting}) END)"
)
_WHOLE: Final = (
    "SELECT json_group_array(json_array({numbers})), CAST(coalesce(group_concat("
    "CAST(payload AS TEXT) || CAST(metadata AS TEXT), ''), '') AS BLOB), "
    "coalesce(max(encoding), 0) FROM ({rows})"
)
_BY_ROW: Final = "SELECT CAST(stream AS BLOB), {numbers}, payload, metadata FROM ({rows})"


def _statements(source: str) -> tuple[str, str]:
    """Give the statement for a page in one row, and the one for a page row by row."""
    sizes = source.format(columns=_SIZE)
    limit = _LIMIT.format(source=sizes, fitting=_FITTING.format(source=sizes))
    rows = " ".join(("SELECT", source.format(columns=_COLUMNS), "LIMIT", limit))
    return (
        _WHOLE.format(numbers=_NUMBERS, rows=rows),
        _BY_ROW.format(numbers=_NUMBERS.removeprefix("stream, "), rows=rows),
    )


_FEED_WHOLE, _FEED_ROWS = _statements(_FEED)
_STREAMS_WHOLE, _STREAMS_ROWS = _statements(_STREAMS)
_LAST: Final = "(SELECT max(version) FROM events WHERE stream = s.number)"
_NEXT: Final = (
    "SELECT min(e.position) FROM streams s JOIN events e ON e.stream = s.number "
    "WHERE s.name = ?1 AND e.version > ?2"
)
_STREAM_VERSIONS: Final = (
    f"SELECT json_group_array(coalesce({_LAST}, 0)) "  # noqa: S608 - no value of anybody's
    "FROM json_each(?1) w LEFT JOIN streams s ON s.name = w.value->>0"
)


def read_feed(
    connection: Any, types: Types, after: int, events_max: int, bytes_max: int
) -> Sequence[StoredEvent]:
    """Give the events after a position, in order; raise Damaged for a hole or a bad checksum."""
    page = _read(connection, _FEED_WHOLE, _FEED_ROWS, (after, events_max, bytes_max))
    events: list[StoredEvent] = []
    for numbers, payload, metadata in page:
        if numbers[0] is None:
            raise Damaged(numbers[1], "its stream has no name in this log")
        after += 1
        if numbers[1] != after:
            raise Damaged(after, f"it is missing: the log goes on at position {numbers[1]}")
        event = _event(str(numbers[0]), numbers, payload, metadata, types)
        verify(event)
        events.append(event)
    return events


def read_streams(
    connection: Any, types: Types, reads: Sequence[StreamRead], events_max: int, bytes_max: int
) -> Sequence[StreamPage]:
    """Give a page of each stream; raise Damaged for a hole, a bad checksum or a lost event."""
    asked = msgspec.json.encode([(read.stream, read.after) for read in reads]).decode()
    page = _read(connection, _STREAMS_WHOLE, _STREAMS_ROWS, (asked, events_max, bytes_max))
    found: list[list[StoredEvent]] = [[] for _ in reads]
    for numbers, payload, metadata in page:
        assert numbers[0] is not None, "a read has an ordinal"
        ordinal = int(numbers[0])
        read, events = reads[ordinal], found[ordinal]
        event = _event(read.stream, numbers, payload, metadata, types)
        expected = read.after + len(events) + 1
        if event.version != expected:
            raise Damaged(
                event.position,
                f"{read.stream} has version {event.version} where {expected} belongs",
            )
        verify(event)
        events.append(event)
    versions = _versions.decode(connection.execute(_STREAM_VERSIONS, (asked,)).fetchall()[0][0])
    pages = [
        StreamPage(read.stream, events, read.after + len(events) < version)
        for read, events, version in zip(reads, found, versions, strict=True)
    ]
    if not any(found):
        _check_nothing_is_lost(connection, reads, pages)
    return pages


def _check_nothing_is_lost(
    connection: Any, reads: Sequence[StreamRead], pages: Sequence[StreamPage]
) -> None:
    """Raise Damaged where the index has an event that the table has not: it never would come."""
    for read, page in zip(reads, pages, strict=True):
        if page.more:
            [(position,)] = connection.execute(_NEXT, (read.stream, read.after)).fetchall()
            raise Damaged(position or 0, f"version {read.after + 1} of {read.stream} is lost")


def _read(
    connection: Any, whole: str, rows: str, parameters: tuple[Any, ...]
) -> Iterable[tuple[Numbers, bytes, bytes]]:
    try:
        text, blob, encoding = connection.execute(whole, parameters).fetchall()[0]
        if encoding == ENCODING_JSON:
            return _cut(_numbers.decode(text), blob)
    except (UnicodeDecodeError, msgspec.MsgspecError):
        # A name in it is damaged: the rows tell whose.
        pass
    found = connection.execute(rows, parameters).fetchall()
    return [((_text(row), *row[1:9]), row[9], row[10]) for row in found]


def _text(row: tuple[Any, ...]) -> str | None:
    stream: bytes | None = row[0]
    try:
        return stream if stream is None else stream.decode()
    except UnicodeDecodeError as error:
        raise Damaged(row[1], f"the name of its stream is no text: {error.reason}") from error


def _cut(page: list[Numbers], blob: bytes) -> Iterable[tuple[Numbers, bytes, bytes]]:
    begin = 0
    for numbers in page:
        middle = begin + numbers[6]
        end = middle + numbers[7]
        yield numbers, blob[begin:middle], blob[middle:end]
        begin = end


def _event(
    stream: str, numbers: Numbers, payload: bytes, metadata: bytes, types: Types
) -> StoredEvent:
    _, position, version, kind, recorded, encoding, _, _, checksum = numbers
    try:
        name, event_version = types(kind)
    except KeyError:
        raise Damaged(position, f"{stream} has the unknown event type number {kind}") from None
    return StoredEvent(
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
    )
