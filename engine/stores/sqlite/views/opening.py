"""How a file of views is set up by who writes it, and held: by one engine at a time.

Rules: views beside a log in SQLite are spoken for by the log's lock. Views that are kept elsewhere
are not, and another log's engine would make them anew under the one that serves them. So whoever
writes as an engine holds the file itself; who builds beside an engine does not. Of a stranger's
file nothing is changed. No table is known here.
"""

from __future__ import annotations

from typing import Final

import apsw

from ....errors import StoreLocked
from ..connection import BUSY_MS, IN_MEMORY, cut_wal, run, set_pragma
from ..files import Files, Lock
from .builds import is_new_file

__all__ = ["hold_views", "scrub", "set_up"]

CACHE_KIB: Final = 64 * 1024
"""Pages that the writer keeps; with SQLite's own 2 MiB random keys cost a sixth more."""
PAGE_BYTES: Final = 4_096
"""Of views whose size is bounded."""


def hold_views(files: Files, path: str, connection: apsw.Connection) -> Lock:
    """Hold the file for an engine; raise StoreLocked where another one has it.

    The connection is set up: before it writes ahead, SQLite lets go of all locks at each statement.
    """
    try:
        return files.hold(path, connection)
    except StoreLocked as error:
        raise StoreLocked(
            f"the views {path} are another engine's, and each log has its own: give this one "
            f"another file, or stop the other. Nothing was changed. {error}"
        ) from None


def set_up(
    connection: apsw.Connection, path: str, *, in_memory: bool, bytes_max: int | None
) -> None:
    """Set up a connection to write views, which may be bounded; refuse a stranger's file first."""
    set_pragma(connection, "busy_timeout", BUSY_MS)
    is_new_file(connection, path)
    set_pragma(connection, "journal_mode", "memory" if in_memory else "wal")
    set_pragma(connection, "synchronous", 1)
    set_pragma(connection, "wal_autocheckpoint", 0)
    set_pragma(connection, "cache_size", -CACHE_KIB)
    set_pragma(connection, *IN_MEMORY)
    set_pragma(connection, "trusted_schema", 0)
    if bytes_max is not None:
        set_pragma(connection, "page_size", PAGE_BYTES)
        set_pragma(connection, "max_page_count", max(1, bytes_max // PAGE_BYTES))


def scrub(connection: apsw.Connection, files: Files, path: str) -> None:
    """Write a file of views anew, without what was deleted; nothing in memory is written anew."""
    if path != ":memory:":
        run(connection, "VACUUM")
        cut_wal(connection, files, path)
