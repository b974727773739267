"""Reading pages of a SQLite log: a whole page in one row, since a row costs more than its bytes.

Each row that a statement gives hands the interpreter's lock over and back, and beside a busy event
loop that costs up to 5 ms. So a page comes as one row: its numbers as one JSON array, and one blob
of all that the checksums are over, event after event. SQLite puts those texts together, outside of
the interpreter's lock; here each is compared with its checksum, and payload and metadata are cut
out of it. To cut a page that has too many bytes before they are read, each row is looked up twice;
so a page is first read as if it fitted, in no more memory than it may have, and most do fit. Where
anything about a page is odd (a checksum, an unknown type, another encoding, a name that is no
text), it is read again row by row, which tells what is wrong with which event. Before that, a page
of which something was moved to the cold file is read once more with what is there. Whoever reads
compares the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary
from zlib import crc32

import apsw
import msgspec

from ....errors import Damaged
from ....model.stored import ENCODING_JSON, StoredEvent, verify
from ...contract.log import StreamPage, StreamRead
from ...contract.verifying import ProvedPage
from .behind import read_behind
from .cold import MOVED, reach, thaw

__all__ = ["Types", "prove_feed", "read_feed", "read_selected", "read_streams"]

Types: TypeAlias = Callable[[int], tuple[str, int]]
"""Gives name and version of an event type by its number; KeyError for an unknown one."""


class _Columns(NamedTuple):
    """The numbers of a page, column by column: a list for each event takes longer to make."""

    keys: list[str | int]
    """Streams, by name or ordinal."""
    positions: list[int]
    versions: list[int]
    types: list[int]
    recorded: list[int]
    encodings: list[int]
    checksums: list[int]
    payloads: list[int]
    """Bytes of each, …"""
    metadata: list[int]
    """… and here, …"""
    proved: list[int]
    """… and of all that the checksum is over."""


_Parameters: TypeAlias = tuple[int | str, int, int]
"""What is read, at most how many events, at most how many bytes."""

_LENGTH_MAX: Final = 1_000_000_000
"""SQLite's own."""

_columns: Final = msgspec.json.Decoder(_Columns)
_versions_of: Final = msgspec.json.Decoder(list[int]).decode

_FEED: Final = (
    # LEFT: an event whose stream is not there is damaged, and must not look like the log's end.
    "s.name AS stream, {columns} FROM events e /*cold*/ LEFT JOIN streams s ON s.number = e.stream "
    "{types}WHERE e.position > ?1 ORDER BY e.position"
)
_STREAMS: Final = (
    "w.key AS stream, {columns} FROM json_each(?1) w CROSS JOIN streams s ON s.name = w.value->>0 "
    "CROSS JOIN events e ON e.stream = s.number AND e.version > w.value->>1 /*cold*/ {types}"
)
_TYPES: Final = "LEFT JOIN event_types t ON t.number = e.type "
_HERE: Final = "/*cold*/ "
# Only an event that was moved is looked for there: a key that is NULL costs no look.
_COLD: Final = (
    f"LEFT JOIN cold.events c ON c.position = iif(e.encoding = {MOVED}, e.position, NULL) "
)
_NUMBERS: Final = "position, version, type, recorded, encoding, checksum"
_COLUMNS: Final = "e.position, e.version, e.type, e.recorded, e.encoding, e.checksum, "
_COLUMN_NAMES: Final = (*_NUMBERS.split(", "), "payload", "metadata")
_CLASSES: Final = (*[int] * 6, bytes, bytes)
# What contract.checksum_of takes, byte for byte; its parts may be missing in a damaged log, and
# then it does not match.
_PROVED: Final = (
    "concat_ws(' ', e.version, t.version, e.recorded, e.encoding, length(e.payload), "
    "length(e.metadata), t.name, "
    "s.name || char(0) || CAST(e.payload AS TEXT) || CAST(e.metadata AS TEXT)) AS proved"
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
# A page is not even tried as a whole where its first event says that it will hardly fit.
_HARDLY: Final = (
    "(SELECT CASE WHEN (SELECT size FROM (SELECT {source} LIMIT 1)) * ?2 > ?3 THEN 0 ELSE ?2 END)"
)
_WHOLE: Final = (
    "SELECT json_array(json_group_array(stream), {numbers}, json_group_array(payload), "
    "json_group_array(metadata), json_group_array(octet_length(proved))), "
    "CAST(coalesce(group_concat(proved, ''), '') AS BLOB), ({versions}) FROM ({rows})"
)
_BY_ROW: Final = "SELECT CAST(stream AS BLOB), {numbers}, payload, metadata FROM ({rows})"


class _Statements(NamedTuple):
    """What reads a page; what gives one row has the versions of its streams beside."""

    fitting: str
    """In one row, as if it fitted; no events where that is not likely."""
    cut: str
    """In one row, as much as fits."""
    by_row: str
    """Row by row, as much as fits."""


def _statements(source: str, versions: str) -> _Statements:
    sizes = source.format(columns=_SIZE, types="")
    limit = "LIMIT " + _LIMIT.format(source=sizes, fitting=_FITTING.format(source=sizes))
    hardly = "LIMIT " + _HARDLY.format(source=sizes)
    lengths = "length(e.payload) AS payload, length(e.metadata) AS metadata, "
    whole = source.format(columns=_COLUMNS + lengths + _PROVED, types=_TYPES)
    rows = source.format(columns=_COLUMNS + "e.payload, e.metadata", types="")
    listed = ", ".join(f"json_group_array({name})" for name in _NUMBERS.split(", "))
    one_row = partial(_WHOLE.format, numbers=listed, versions=versions)
    return _Statements(
        one_row(rows=f"SELECT {whole} {hardly}"),
        one_row(rows=f"SELECT {whole} {limit}"),
        _BY_ROW.format(numbers=_NUMBERS, rows=f"SELECT {rows} {limit}"),
    )


def _with_cold(statement: str) -> str:
    """Let a statement take contents from the cold file where they were moved there."""
    statement = statement.replace("e.encoding, e.checksum", "e.encoding AS encoding, e.checksum")
    for column in ("encoding", "payload", "metadata"):
        statement = statement.replace(f"e.{column}", f"coalesce(c.{column}, e.{column})")
    return statement.replace(_HERE, _COLD)


class _Page(NamedTuple):
    """How a kind of page is read: out of the log alone, and with its cold file."""

    log: _Statements
    cold: _Statements


def _page(source: str, versions: str) -> _Page:
    found = _statements(source, versions)
    log = _Statements(*(statement.replace(_HERE, "") for statement in found))
    return _Page(log, _Statements(*map(_with_cold, found)))


_LAST: Final = "(SELECT max(version) FROM events WHERE stream = s.number)"
_VERSIONS: Final = (
    f"SELECT json_group_array(coalesce({_LAST}, 0)) "  # noqa: S608 - no value of anybody's
    "FROM json_each(?1) w LEFT JOIN streams s ON s.name = w.value->>0"
)
_NEXT: Final = (
    "SELECT min(e.position) FROM streams s JOIN events e ON e.stream = s.number "
    "WHERE s.name = ?1 AND e.version > ?2"
)
_SELECTED: Final = (
    "s.name AS stream, {columns} FROM json_each(?1) w JOIN events e ON e.position = w.value "
    "/*cold*/ LEFT JOIN streams s ON s.number = e.stream {types}ORDER BY w.key"
)
_SELECTED_PAGE: Final = _page(_SELECTED, "SELECT '[]'")
_FEED_PAGE: Final = _page(_FEED, "SELECT '[]'")
_STREAMS_PAGE: Final = _page(_STREAMS, _VERSIONS)


_COLD_PAGES: Final = 32
_cold_first: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many pages a connection reads with the cold file at once, since the last one needed that.

The log alone would be read in vain. Where nothing more was moved, the file is looked into in vain,
for so many pages.
"""


def read_feed(
    connection: Any, types: Types, after: int, events_max: int, bytes_max: int
) -> Sequence[StoredEvent]:
    """Give the events after a position, in order; raise Damaged for a hole or a bad checksum."""
    parameters = (after, events_max, bytes_max)
    events: list[StoredEvent] = []
    page, _ = _read(connection, _FEED_PAGE, parameters, types)
    for _, event in page:
        after += 1
        if event.position != after:
            raise Damaged(after, f"it is missing: the log goes on at position {event.position}")
        events.append(event)
    return events


def prove_feed(
    connection: Any, types: Types, after: int, events_max: int, bytes_max: int
) -> ProvedPage | None:
    """Prove the events after a position, in half the time in which they are read.

    Gives None where a page has anything odd, or nothing: `read_feed` says what that is.
    """
    page = _FEED_PAGE.log
    if left := _cold_first.get(connection, 0):
        _cold_first[connection] = left - 1
        page = _FEED_PAGE.cold
    with suppress(*_ODD, apsw.Error):
        text, blob, _ = _whole(connection, page, (after, events_max, bytes_max), ())
        return _proved(after, _columns.decode(text), blob, types)
    return None


def _proved(after: int, page: _Columns, blob: bytes, types: Types) -> ProvedPage | None:
    """Compare a page with its checksums and its order. Raises one of _ODD."""
    metadatas: list[bytes] = []
    view = memoryview(blob)
    begin = 0
    for checksum, metadata, proved in zip(page.checksums, page.metadata, page.proved, strict=True):
        end = begin + proved
        if crc32(view[begin:end]) != checksum:
            return None
        metadatas.append(blob[end - metadata : end])
        begin = end
    for kind in set(page.types):
        types(kind)
    streams = [str(key) for key in page.keys]
    in_order = page.positions == list(range(after + 1, after + 1 + len(streams)))
    if not (streams and in_order and {*page.encodings} == {ENCODING_JSON}):
        return None
    events = partial(_cut, page, blob, types, None)
    return ProvedPage(after, streams, page.versions, page.recorded, metadatas, events)


def read_selected(
    connection: Any, types: Types, positions: Sequence[int], bytes_max: int, at_least_one: bool
) -> Sequence[StoredEvent]:
    """Give the events at these positions, in their order, as many as fit; raise Damaged.

    With `at_least_one` the first of them, whatever its size.
    """
    asked = msgspec.json.encode(positions).decode()
    page, _ = _read(connection, _SELECTED_PAGE, (asked, len(positions), bytes_max), types)
    events: list[StoredEvent] = []
    for _, event in page:
        if event.position != positions[len(events)]:
            raise Damaged(positions[len(events)], "an index has it, and the log has not")
        events.append(event)
    if not events:
        raise Damaged(positions[0], "an index has it, and the log has not")
    size = len(events[0].payload) + len(events[0].metadata)
    return events if at_least_one or size <= bytes_max else ()


def read_streams(
    connection: Any, types: Types, reads: Sequence[StreamRead], events_max: int, bytes_max: int
) -> Sequence[StreamPage]:
    """Give a page of each stream; raise Damaged for a hole, a bad checksum or a lost event."""
    asked = msgspec.json.encode([(read.stream, read.after) for read in reads]).decode()
    parameters = (asked, events_max, bytes_max)
    found: list[list[StoredEvent]] = [[] for _ in reads]

    page, beside = _read(connection, _STREAMS_PAGE, parameters, types, reads)
    for key, event in page:
        ordinal = int(key)
        events = found[ordinal]
        expected = reads[ordinal].after + len(events) + 1
        if event.version != expected:
            raise Damaged(
                event.position,
                f"{event.stream} has version {event.version} where {expected} belongs",
            )
        events.append(event)
    versions = beside or _read_versions(connection, asked)
    pages = [
        StreamPage(read.stream, events, read.after + len(events) < version)
        for read, events, version in zip(reads, found, versions, strict=True)
    ]
    if not any(found):
        _check_nothing_is_lost(connection, reads, pages)
    return pages


def _read_versions(connection: Any, asked: str) -> Sequence[int]:
    try:
        return _versions_of(connection.execute(_VERSIONS, (asked,)).fetchall()[0][0])
    except (msgspec.MsgspecError, apsw.SQLError) as error:  # the latter for a blob
        raise Damaged(0, f"the index of versions holds what is none: {error}") from error


def _check_nothing_is_lost(
    connection: Any, reads: Sequence[StreamRead], pages: Sequence[StreamPage]
) -> None:
    """Raise Damaged where the index has an event that the table has not: it never would come."""
    for read, page in zip(reads, pages, strict=True):
        if page.more:
            [(position,)] = connection.execute(_NEXT, (read.stream, read.after)).fetchall()
            raise Damaged(position or 0, f"version {read.after + 1} of {read.stream} is lost")


def _read(
    connection: Any,
    page: _Page,
    parameters: _Parameters,
    types: Types,
    reads: Sequence[StreamRead] | None = None,
) -> tuple[Iterable[tuple[str | int, StoredEvent]], Sequence[int]]:
    """Give the events of a page, each behind its stream.

    Where the page has streams by their ordinals, those are of `reads`; their versions come beside,
    or nothing where they are to be asked for. Each event is what was written, by its checksum;
    nothing is said of the order. Raises Damaged where one is not, at its turn.
    """
    names = None if reads is None else [read.stream for read in reads]
    if left := _cold_first.get(connection, 0):
        _cold_first[connection] = left - 1
        with suppress(*_ODD, apsw.Error):
            return _at_once(connection, page.cold, parameters, types, names, reads)
    with suppress(*_ODD):
        return _at_once(connection, page.log, parameters, types, names, reads)
    if reach(connection) is None:
        with suppress(*_ODD, apsw.Error):
            found = _at_once(connection, page.cold, parameters, types, names, reads)
            _cold_first[connection] = _COLD_PAGES
            return found
    found = connection.execute(page.log.by_row, parameters).fetchall()
    return _row_by_row(connection, found, types, names, parameters[2]), ()


def _at_once(
    connection: Any,
    page: _Statements,
    parameters: _Parameters,
    types: Types,
    names: Sequence[str] | None,
    reads: Sequence[StreamRead] | None,
) -> tuple[Iterable[tuple[str | int, StoredEvent]], Sequence[int]]:
    """Give the events of a page, as `_read` does. Raises one of _ODD."""
    text, blob, versions = _whole(connection, page, parameters, reads or ())
    columns = _columns.decode(text)
    return zip(columns.keys, _cut(columns, blob, types, names), strict=True), versions


def _whole(
    connection: Any, page: _Statements, parameters: _Parameters, reads: Sequence[StreamRead]
) -> tuple[str, bytes, Sequence[int]]:
    """Give the one row of a page."""
    # SQLite gives up where a value of it gets longer than this.
    before = connection.limit(apsw.SQLITE_LIMIT_LENGTH, min(parameters[2], _LENGTH_MAX))
    try:
        text, blob, beside = connection.execute(page.fitting, parameters).fetchall()[0]
    except apsw.TooBigError:
        text, blob, beside = "", b"", "[]"
    finally:
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, before)
    versions = _versions_of(beside)
    is_empty = versions and all(r.after >= v for r, v in zip(reads, versions, strict=True))
    if not (blob or is_empty):  # the end of the log, what does not fit, or what an index makes up
        text, blob, beside = connection.execute(page.cut, parameters).fetchall()[0]
        versions = _versions_of(beside)
    return text, blob, versions


class _Odd(Exception):
    """A page has something that only its rows can tell."""


_ODD: Final = (_Odd, KeyError, UnicodeDecodeError, msgspec.MsgspecError, apsw.SQLError)


def _cut(
    page: _Columns, blob: bytes, types: Types, names: Sequence[str] | None
) -> Sequence[StoredEvent]:
    """Cut a page into its events. Raises _Odd, and KeyError for an unknown type."""
    events: list[StoredEvent] = []
    known: dict[int, tuple[str, int]] = {}
    view = memoryview(blob)
    begin = 0
    rows = zip(*page, strict=True)
    for key, position, version, kind, recorded, encoding, checksum, payload, metadata, all_ in rows:
        end = begin + all_
        if crc32(view[begin:end]) != checksum or encoding != ENCODING_JSON:
            raise _Odd
        if kind not in known:
            known[kind] = types(kind)
        name, event_version = known[kind]
        middle = end - metadata
        event = StoredEvent(
            position,
            str(key) if names is None else names[int(key)],
            version,
            name,
            event_version,
            recorded,
            blob[middle - payload : middle],
            blob[middle:end],
            encoding,
            checksum,
        )
        events.append(event)
        begin = end
    return events


def _row_by_row(
    connection: Any,
    rows: Iterable[Sequence[Any]],
    types: Types,
    names: Sequence[str] | None,
    bytes_max: int,
) -> Iterable[tuple[str | int, StoredEvent]]:
    behind = read_behind(connection)
    thawed = 0
    for row in rows:
        key, position, version, kind, recorded, encoding, checksum, payload, metadata = row
        if encoding == MOVED:
            encoding, payload, metadata = thaw(connection, position, recorded)
            thawed += len(payload) + len(metadata)
            row = (*row[:5], encoding, checksum, payload, metadata)
        if key is None:
            raise Damaged(position, "its stream has no name in this log")
        stream = _text(key, position) if names is None else names[int(key)]
        _check_classes(row)
        try:
            name, event_version = types(kind)
        except KeyError:
            raise Damaged(position, f"{stream} has the unknown event type number {kind}") from None
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
            behind(position),
        )
        verify(event)
        yield stream if names is None else key, event
        if thawed >= bytes_max:
            return  # the statement took these for empty


def _check_classes(row: Sequence[Any]) -> None:
    """Raise Damaged where a value is of another class than its column: a flipped bit does that."""
    for column, value, expected in zip(_COLUMN_NAMES, row[1:], _CLASSES, strict=True):
        if type(value) is not expected:
            found = type(value).__name__
            raise Damaged(row[1], f"its {column} is {found} and should be {expected.__name__}")


def _text(stream: bytes, position: int) -> str:
    try:
        return stream.decode()
    except UnicodeDecodeError as error:
        raise Damaged(position, f"the name of its stream is no text: {error.reason}") from error
