"""What a log's files say of themselves, looked at before they are believed.

Rules: SQLite takes the first frame that does not fit for the end of a write-ahead log. The engine
syncs each transaction before it begins the next, so a loss of power breaks the last one alone: two
commits behind that end are damage. Pages that neither file has, and fewer events than positions,
are the marks of files that are not of one moment. Whatever is found refuses the file by name. What
a loss of power tore is blanked, so that the next look meets nothing of it. The write-ahead log
alone is read by hand: SQLite has no locks on it that a close would let go. The views are not looked
at so: they are not synced at each commit, and can be folded again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import apsw

from ....errors import StoreRefused
from ....runtime.package import COMMAND
from ...contract.log import Head
from ..connection import run, transaction
from ..files import Files

__all__ = [
    "Wal",
    "blank_torn",
    "check_counts",
    "check_names",
    "check_pages",
    "forgets",
    "read_wal",
    "suspect_tail",
]

_HEADER: Final = struct.Struct(">IIII8sII")
"""Magic, version, page size, number of the checkpoint, salts, checksum."""
_FRAME: Final = struct.Struct(">II8s")
"""Page, pages of the database behind a commit (0: no commit), salts."""
_FRAME_HEADER_BYTES: Final = 24
_MAGIC: Final = 0x377F0682
_COMMITS_MAX: Final = 1
"""Of those behind the end, as many as a loss of power may leave."""
_LOCK_BYTE: Final = 0x40000000
"""The page that has it is in no file of SQLite's."""

RECENT: Final = 100_000
"""Positions whose events are counted in the table itself; some ms, if the disk is warm."""
COUNTED_MAX: Final = 250_000
"""Events up to which the index of a log is counted that was closed in peace, at 0.1 µs each."""
COUNTED_LEFT_MAX: Final = 10_000_000
"""The same for a log that was not closed, or whose write-ahead log was copied along."""
_EVENT_BYTES_MIN: Final = 8
"""Below what an event takes in a file."""

_REMEDY: Final = (
    f"Restore a backup, or take over what stands before the damage: `{COMMAND} copy "
    "{path} NEW --damaged`. Nothing was changed"
)


class Wal(NamedTuple):
    """What a write-ahead log holds, up to its end as SQLite sees it, and behind that."""

    frames: int
    """Those that count."""
    torn: Sequence[int] = ()
    """Where frames of the same generation stand behind them, in bytes from the beginning."""
    version: int = 0
    """What SQLite counts of others' commits, as of this look."""


def read_wal(connection: Any, files: Files, path: str) -> Wal:
    """Look through the write-ahead log of a file that is open and has been read from.

    Takes about 1 µs a frame. Raises StoreRefused where it is damaged, or is not this file's.
    """
    log = path + "-wal"
    size = files.size(log)
    if size < _HEADER.size + _FRAME_HEADER_BYTES:
        return Wal(0)
    header = next(files.parts(log, 0, size, _HEADER.size))
    page_bytes = _page_bytes(header)
    if page_bytes is None:
        first = next(files.parts(log, _HEADER.size, size, _FRAME_HEADER_BYTES), b"")
        if any(header) or any(first):
            raise StoreRefused(
                f"{log} is damaged: its header does not match its checksum, so that SQLite would "
                f"take its {size} bytes for nothing. {_REMEDY.format(path=path)}"
            )
        return Wal(0)
    version = int(run(connection, "PRAGMA data_version")[0][0])
    count = max(0, _end(connection))
    salts: bytes = _HEADER.unpack(header)[4]
    step = _FRAME_HEADER_BYTES + page_bytes
    check_pages(connection, files, path, Wal(count, version=version), page_bytes)
    torn: list[int] = []
    commits = 0
    places = range(_HEADER.size + count * step, size, step)
    heads = files.parts(log, places.start, step, _FRAME.size)
    for place, (_, pages, theirs) in zip(places, _frames(heads), strict=False):
        if theirs == salts:
            torn.append(place)
            commits += pages > 0
    if commits > _COMMITS_MAX and run(connection, "PRAGMA data_version") != [(version,)]:
        return Wal(count)  # somebody has just written them
    if commits > _COMMITS_MAX:
        raise StoreRefused(
            f"{log} is damaged: frame {count + 1} does not match its checksum, and {commits} "
            f"transactions stand behind it. Each was begun when the one before was on the disk, so "
            f"that no loss of power explains it. {_REMEDY.format(path=path)}"
        )
    return Wal(count, torn, version)


def suspect_tail(files: Files, path: str, wal: Wal) -> bool:
    """Tell whether a frame of another generation begins the rest, but for a single flipped bit.

    It would be taken for one of before, and the last transaction for one that never was.
    """
    log = path + "-wal"
    size = files.size(log)
    header = next(files.parts(log, 0, size, _HEADER.size), b"") if size else b""
    page_bytes = _page_bytes(header)
    if page_bytes is None:
        return False
    salts = int.from_bytes(_HEADER.unpack(header)[4])
    begin = _HEADER.size + wal.frames * (_FRAME_HEADER_BYTES + page_bytes)
    heads = files.parts(log, begin, max(size, 1), _FRAME.size)
    return any((int.from_bytes(theirs) ^ salts).bit_count() == 1 for _, _, theirs in _frames(heads))


def blank_torn(connection: Any, files: Files, path: str, wal: Wal) -> None:
    """Blank what a loss of power tore; in a transaction that writes, so that nobody else does."""
    if wal.torn and run(connection, "PRAGMA data_version") == [(wal.version,)]:
        files.blank(path + "-wal", wal.torn, _FRAME_HEADER_BYTES)


def forgets(connection: Any, files: Files, path: str) -> bool:
    """Blank what there is of a commit that found no room; tell whether that could be done.

    Its record was not written whole, and so nobody takes it for one. But pieces of several such
    commits, with others written over the rest, would be taken for damage later.
    """
    try:
        wal = read_wal(connection, files, path)
        with transaction(connection):
            blank_torn(connection, files, path, wal)
    except (apsw.Error, OSError, StoreRefused):
        return False
    return True


def _end(connection: Any) -> int:
    found: tuple[int, int] = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    return found[0]


def _frames(heads: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    return (_FRAME.unpack(head) for head in heads if len(head) == _FRAME.size)


def _page_bytes(header: bytes) -> int | None:
    """Give the size of a page; None for a header that SQLite does not believe."""
    if len(header) < _HEADER.size:
        return None
    magic, _, page_bytes, _, _, *checksum = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65_536 or page_bytes & (page_bytes - 1):
        return None
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", header[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return int(page_bytes) if [one, two] == checksum else None


def check_pages(connection: Any, files: Files, path: str, wal: Wal, page_bytes: int) -> None:
    """Raise StoreRefused where a page is neither in the file nor in its write-ahead log."""
    count = wal.frames
    pages = int(run(connection, "PRAGMA page_count")[0][0])
    there = files.size(path) // page_bytes
    if count == 0 or pages <= there:
        return
    step = _FRAME_HEADER_BYTES + page_bytes
    heads = files.parts(path + "-wal", _HEADER.size, step, _FRAME.size)
    inside = {page for _, (page, _, _) in zip(range(count), _frames(heads), strict=False)}
    unused = _LOCK_BYTE // page_bytes + 1
    for page in range(there + 1, pages + 1):
        if page not in inside and page != unused:
            if run(connection, "PRAGMA data_version") != [(wal.version,)]:
                return  # somebody has just written it
            raise StoreRefused(
                f"{path} has {there} pages, and {path}-wal was written for one of {pages}: page "
                f"{page} is in neither. They are not of one moment: a copy of a running log is "
                f"made by `{COMMAND} copy`. Restore a backup. Nothing was changed"
            )


def check_counts(connection: Any, files: Files, path: str, head: Head, wal: Wal) -> None:
    """Raise StoreRefused where a log has not as many events as positions, or has lost names.

    The former is so in a copy that was made of a running log file by file. What is read is bounded:
    the index of a log that was left by a killed process, or is small, and the last events.
    """
    room = files.size(path) + files.size(path + "-wal")
    if head.position * _EVENT_BYTES_MIN > room:
        raise _not_whole(path, head, f"its {room} bytes have no room for them")
    # By row, since SQLite's own count never ends on an index that leads back into itself.
    if head.position <= (COUNTED_LEFT_MAX if wal.frames else COUNTED_MAX):
        sql = "SELECT count(*) FROM (SELECT 1 FROM events INDEXED BY events_by_stream LIMIT ?)"
        _compare(connection, path, head, sql, head.position, "its index")
    sql = "SELECT count(*) FROM (SELECT 1 FROM events NOT INDEXED WHERE position > ? LIMIT ?)"
    recent = min(head.position, RECENT)
    _compare(connection, path, head, sql, recent, "the end of it", head.position - recent)
    check_names(connection, path)


def check_names(connection: Any, path: str) -> None:
    """Raise StoreRefused where events are of a stream that has no name any more.

    Its aggregate would begin anew. Streams are numbered without holes, so that a count is enough,
    unless a stranger has begun some: then each is looked for. Of more than are counted, the last.
    """
    sql = "SELECT (SELECT max(number) FROM streams), (SELECT max(stream) FROM events)"
    [(top, last)] = [(a or 0, b or 0) for a, b in run(connection, sql)]
    if last > top:
        raise _nameless(path, last)
    sql = "SELECT count(*) FROM (SELECT 1 FROM streams NOT INDEXED LIMIT ?)"
    if top > COUNTED_MAX or run(connection, sql, (top,)) == [(top,)]:
        return
    for (number,) in run(connection, _NAMELESS, (COUNTED_MAX,)):
        raise _nameless(path, number)


def _nameless(path: str, number: int) -> StoreRefused:
    return StoreRefused(
        f"{path} has events of stream number {number}, and its table streams has no name for it: "
        f"somebody has deleted rows there, and that aggregate would begin anew. Restore a backup, "
        f"or put the row back. Nothing was changed"
    )


_NAMELESS: Final = """
WITH RECURSIVE found(number) AS (
    SELECT min(stream) FROM events
    UNION ALL
    SELECT (SELECT min(stream) FROM events WHERE stream > found.number)
    FROM found WHERE found.number IS NOT NULL
    LIMIT ?
) SELECT number FROM found WHERE number IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM streams WHERE streams.number = found.number) LIMIT 1
"""


def _compare(
    connection: Any, path: str, head: Head, sql: str, expected: int, where: str, *after: int
) -> None:
    try:
        found = run(connection, sql, (*after, expected + 1))[0][0]
    except apsw.CorruptError as error:
        raise _not_whole(path, head, f"{where} is malformed") from error
    if found != expected:
        raise _not_whole(path, head, f"{where} has {found} events of {expected}")


def _not_whole(path: str, head: Head, why: str) -> StoreRefused:
    return StoreRefused(
        f"{path} ends at position {head.position}, and {why}: it is damaged, or a copy of a "
        f"running log that was not made by `{COMMAND} copy`. Restore a backup. Nothing was changed"
    )
