"""Tables of another program in a SQLite file, read-only.

Rules: the file is not made, not changed and not locked for its program, whose later writes are not
seen. Nothing in it is run. Calls block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import apsw

from ....errors import StoreRefused
from ..connection import described, quoted, run, set_reading, unreadable
from ..files import Files
from ..shape import harden

__all__ = ["SqliteTables"]


class SqliteTables:
    """The tables of the file `path`."""

    def __init__(self, path: str, files: Files) -> None:
        self._path = path
        self._files = files
        self._connection: Any = None

    @property
    def name(self) -> str:
        """Its path."""
        return self._path

    def __enter__(self) -> SqliteTables:
        """Open the file, and keep to what is in it now."""
        if self._files.size(self._path) == 0:
            raise StoreRefused(f"{self._path} is not there, or is empty: name the file to read")
        try:
            self._connection = self._files.connect(self._path, readonly=True)
            set_reading(self._connection)
            harden(self._connection)
            run(self._connection, "BEGIN")
            run(self._connection, "SELECT count(*) FROM sqlite_schema")
        except apsw.Error as error:
            self._close()
            raise StoreRefused(f"{self._path} cannot be read: {described(error)}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def rows(
        self, table: str, order: str, after: int, limit: int
    ) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """Give the next rows of a table."""
        with unreadable(self._path):
            found = run(self._connection, f"PRAGMA table_info({quoted(table)})")
            if not found:
                raise StoreRefused(f"{self._path} has no table {table}: name it by --table")
            columns = [str(column[1]) for column in found]
            listed = ", ".join(map(quoted, columns))
            number = order if order == "rowid" else quoted(order)
            rows = run(
                self._connection,
                f"SELECT {number}, {listed} FROM {quoted(table)} "  # noqa: S608 - names, quoted
                f"WHERE {number} > ? ORDER BY {number} LIMIT ?",
                (after, limit),
            )
        return [(row[0], dict(zip(columns, row[1:], strict=True))) for row in rows]
