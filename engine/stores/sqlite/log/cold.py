"""The cold file beside a log: where the contents of events are that were moved out of it.

Rules: of an event that was moved, the log keeps all but its contents: position, stream, version,
type, time and checksum. So whatever leans on those finds them where it did. The contents are in
the cold file at the same position, and the checksum in the log proves them. A connection attaches
the cold file when it first meets such an event, and not before. A cold file that is not there, or
is another log's, is named by each event that is wanted from it; nothing else fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import apsw

from ....errors import ArchiveUnread, StoreRefused
from ...contract.archiving import MOVED, ArchiveRun
from ..connection import described, run
from ..files import beside
from ..lock_files import exists
from ..shape import check_shape, made, read_shape
from .schema import COLD

__all__ = [
    "APPLICATION_ID",
    "COLD_VERSION",
    "MOVED",
    "PARTIAL",
    "attach",
    "check_cold",
    "cold_path",
    "count_odd_names",
    "detach",
    "has_moved",
    "is_attached",
    "kept_after",
    "lacks",
    "odd_rows",
    "reach",
    "read_archives",
    "show_moved",
    "thaw",
]

APPLICATION_ID: Final = 0x464C4131
"""Marks the file as the cold file of a log ("FLA1"), which no engine opens for a log."""
COLD_VERSION: Final = 1
_SCHEMA: Final = "cold"

_LOG: Final = f"""
    CREATE TEMP VIEW log AS SELECT hot.position, hot.stream, hot.version, event, event_version,
        hot.recorded,
        CASE WHEN e.encoding <> {MOVED} THEN hot.payload
            WHEN c.position IS NULL THEN archive_unread(hot.position)
            WHEN c.encoding = 0 THEN CAST(c.payload AS TEXT) ELSE hex(c.payload) END AS payload,
        CASE WHEN e.encoding <> {MOVED} THEN hot.metadata
            WHEN c.position IS NULL THEN archive_unread(hot.position)
            WHEN c.metadata <> x'' THEN CAST(c.metadata AS TEXT) END AS metadata
    FROM main.log AS hot JOIN main.events AS e ON e.position = hot.position
    LEFT JOIN {{cold}} AS c ON c.position = hot.position AND c.checksum = e.checksum
        AND e.encoding = {MOVED}
"""  # noqa: S608 - a number of ours
"""The view `log` for people, with the contents of what was moved."""
_COLD: Final = f"{_SCHEMA}.events"
_NO_COLD: Final = (
    "(SELECT 0 AS position, 0 AS encoding, x'' AS payload, x'' AS metadata, 0 AS checksum)"
)

PARTIAL: Final = ".partial"
"""Behind the name of a file that is not whole yet."""
_KEPT: Final = f"SELECT min(position) FROM main.events WHERE position > ? AND encoding <> {MOVED}"  # noqa: S608
_CONTENTS: Final = "SELECT encoding, payload, metadata FROM cold.events WHERE position = ?"
_ANY: Final = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'archives'"
_RUNS: Final = "SELECT 1 FROM main.archives LIMIT 1"
_ALL_RUNS: Final = (
    "SELECT begun, rule, streams, events, bytes, position FROM main.archives ORDER BY number"
)

_ODD: Final = f"""
    SELECT c.position FROM cold.events c LEFT JOIN main.events e ON e.position = c.position
    WHERE (c.stream, c.version, c.type, c.recorded, c.checksum) IS NOT
          (e.stream, e.version, e.type, e.recorded, e.checksum)
        OR (e.encoding <> {MOVED} AND
            (c.encoding, c.payload, c.metadata) IS NOT (e.encoding, e.payload, e.metadata))
    LIMIT ?
"""  # noqa: S608 - a number of ours
_ODD_NAMES: Final = (
    "SELECT number FROM cold.streams WHERE (number, name) NOT IN (SELECT number, name FROM "
    "main.streams) UNION ALL SELECT number FROM cold.event_types WHERE (number, name, version) "
    "NOT IN (SELECT number, name, version FROM main.event_types) LIMIT ?"
)
_LACKING: Final = f"""
    SELECT e.position FROM main.events e WHERE e.encoding = {MOVED} AND NOT EXISTS (
        SELECT 1 FROM cold.events c WHERE (c.position, c.checksum) = (e.position, e.checksum))
    LIMIT 1
"""  # noqa: S608 - a number of ours
ODD_MAX: Final = 100

Contents: TypeAlias = tuple[int, bytes, bytes]
"""Encoding, payload and metadata, not yet compared with anything."""


def cold_path(log: str) -> str:
    """Give where the cold file of a log is: `shop.archive.db` beside `shop.db`.

    Of one that is not whole yet, the name that is not whole yet either.
    """
    whole = log.removesuffix(PARTIAL)
    return beside(whole, "archive") + log[len(whole) :]


def has_moved(connection: Any) -> bool:
    """Tell whether something was moved out of a log, so that it has a cold file."""
    return bool(run(connection, _ANY) and run(connection, _RUNS))


def read_archives(connection: Any) -> Sequence[ArchiveRun]:
    """Give the runs that moved something, in their order; none of a file without such a table."""
    if not run(connection, _ANY):
        return ()
    return [ArchiveRun(*row) for row in run(connection, _ALL_RUNS)]


def kept_after(connection: Any, position: int) -> int | None:
    """Give the position of the next event whose contents are in the log; None if all were moved."""
    found: int | None = run(connection, _KEPT, (position,))[0][0]
    return found


def is_attached(connection: Any) -> bool:
    """Tell whether a connection has the cold file."""
    return any(row[1] == _SCHEMA for row in run(connection, "PRAGMA database_list"))


def reach(connection: Any) -> str | None:
    """Attach the cold file of a log that has one; say why that cannot be, None where it could.

    Gives "" for a log of which nothing was moved.
    """
    if is_attached(connection):
        return None
    return attach(connection) if has_moved(connection) else ""


def attach(connection: Any) -> str | None:
    """Attach the cold file; say why that cannot be, None where it could."""
    if is_attached(connection):
        return None
    path = cold_path(connection.filename)
    if not exists(path):
        return f"{path} is not there: put that file back"
    try:
        run(connection, f"ATTACH ? AS {_SCHEMA}", (path,))
        try:
            check_cold(connection, path, run(connection, "SELECT log_id FROM main.about")[0][0])
        except BaseException:
            detach(connection)
            raise
    except (apsw.Error, StoreRefused, UnicodeDecodeError, IndexError) as error:
        return f"{path} cannot be used: {described(error)}"
    return None


def show_moved(connection: Any) -> None:
    """Have the view `log` show what was moved; a row whose contents are not to be had ends it.

    Without that, what people calculate of contents would leave out the archived ones.
    """
    why, path = reach(connection), cold_path(connection.filename)
    if why == "":
        return

    def unread(position: int) -> None:
        raise ArchiveUnread(position, path, why or f"{path} does not have it, or has another one")

    connection.create_scalar_function("archive_unread", unread, 1)
    run(connection, _LOG.format(cold=_COLD if why is None else _NO_COLD))


def check_cold(connection: Any, path: str, log_id: str, schema: str = _SCHEMA) -> None:
    """Raise StoreRefused where a file is not the cold file of this log."""
    application = run(connection, f"PRAGMA {schema}.application_id")[0][0]
    version = run(connection, f"PRAGMA {schema}.user_version")[0][0]
    if application != APPLICATION_ID or version != COLD_VERSION:
        raise StoreRefused(
            f"it is no cold file of this release (application id {application:#x}, version "
            f"{version})"
        )
    check_shape(
        connection, path, read_shape(connection, path, schema), made(tuple(COLD)), schema=schema
    )
    found = run(connection, f"SELECT log_id FROM {schema}.about")  # noqa: S608 - a name of ours
    if found != [(log_id,)]:
        raise StoreRefused(f"it has events of another log than {log_id}")


def odd_rows(connection: Any) -> tuple[list[int], int]:
    """Give positions at which the cold file says something else than the log.

    Beside them how many names of streams and types are others. At most `ODD_MAX` of both; contents
    are compared with their checksums by whoever reads them.
    """
    positions = [row[0] for row in run(connection, _ODD, (ODD_MAX,))]
    return positions, count_odd_names(connection, ODD_MAX)


def count_odd_names(connection: Any, most: int) -> int:
    """Count the names of streams and types that the cold file has by other numbers than the log."""
    return len(run(connection, _ODD_NAMES, (most,)))


def lacks(connection: Any) -> int:
    """Give the position of an event that was moved, and is not in the cold file; 0 for none."""
    found = run(connection, _LACKING)
    return found[0][0] if found else 0


def detach(connection: Any) -> None:
    """Let go of the cold file, where it is attached and no transaction needs it."""
    if is_attached(connection) and not connection.in_transaction:
        run(connection, f"DETACH {_SCHEMA}")


def thaw(connection: Any, position: int, recorded: int) -> Contents:
    """Give the contents of an event that was moved, which was `recorded` then.

    Raises ArchiveUnread, which names the cold file, where they are not to be had.
    """
    why, path = reach(connection), cold_path(connection.filename)
    time = recorded if type(recorded) is int else None  # of a row that nobody has looked at yet
    unread = partial(ArchiveUnread, position, path, recorded=time)
    if why is not None:
        raise unread(why or f"nothing was ever moved into {path}", whole=bool(why))
    try:
        found = run(connection, _CONTENTS, (position,))
    except (apsw.Error, UnicodeDecodeError) as error:
        raise unread(f"{path} cannot be read: {described(error)}") from error
    if not found:
        raise unread(f"{path} does not have it")
    contents: Contents = found[0]
    # SQLite looks at the types of a STRICT table as it writes, and not as it reads.
    if tuple(map(type, contents)) != (int, bytes, bytes):
        raise unread(f"{path} has something else there than its contents")
    return contents
