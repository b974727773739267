"""What an ended engine has left, read from outside: SQLite files, or a schema of a server.

Rules: it is read with other means than the engine's: Python's own `sqlite3`, and `psql`. Nothing
here knows what should be there.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from engine.model.rows import Column
from tests.support.postgres import Server

__all__ = ["Files", "FilesViews", "Left", "Logged", "Schema", "Unreadable", "Views"]


class Logged(NamedTuple):
    """An event as it lies in the log."""

    position: int
    stream: str
    version: int
    event: str
    recorded: int
    payload: bytes
    key: str | None


class Unreadable(Exception):
    """What was left cannot be read, or not to its end."""


class Views(Protocol):
    """The views, as they were left."""

    def checkpoints(self) -> Mapping[str, int]:
        """Give where each projection stands."""
        ...

    def rows(self, table: str, columns: Sequence[Column]) -> Iterator[tuple[Any, ...]]:
        """Give the rows of a table."""
        ...


class Left(Protocol):
    """A log and its views, if it has some."""

    def damage(self) -> Sequence[str]:
        """Give what its database finds wrong with itself."""
        ...

    def log(self) -> Iterator[Logged]:
        """Read the log from its beginning; raise Unreadable."""
        ...

    def views(self) -> AbstractContextManager[Views] | None:
        """Open the views; None where there are none."""
        ...


# -- files ----------------------------------------------------------------------------------------


class FilesViews:
    """Views in a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def checkpoints(self) -> Mapping[str, int]:
        """Give where each projection stands."""
        return dict(self._connection.execute("SELECT projection, position FROM checkpoints"))

    def rows(self, table: str, columns: Sequence[Column]) -> Iterator[tuple[Any, ...]]:
        """Give the rows of a table."""
        names = ", ".join(f'"{column.name}"' for column in columns)
        yield from self._connection.execute(f'SELECT {names} FROM "{table}"')


class Files:
    """A log in a file, and views in another."""

    def __init__(self, log: Path, views: Path | None) -> None:
        self._log = log
        self._views = views

    def damage(self) -> Sequence[str]:
        """Let SQLite check the files."""
        found: list[str] = []
        for path in (self._log, self._views):
            if path is not None:
                with _opened(path) as connection:
                    said = [row[0] for row in connection.execute("PRAGMA quick_check")]
                found += [f"{path.name}: {line}" for line in said if line != "ok"]
        return found

    def log(self) -> Iterator[Logged]:
        """Read the log from its beginning."""
        sql = (
            "SELECT events.position, streams.name, events.version, event_types.name,"
            " events.recorded, events.payload, events.metadata FROM events"
            " JOIN streams ON streams.number = events.stream"
            " JOIN event_types ON event_types.number = events.type ORDER BY events.position"
        )
        with _opened(self._log) as connection:
            for row in connection.execute(sql):
                yield Logged._make((*row[:-1], _key(row[-1])))

    def views(self) -> AbstractContextManager[Views] | None:
        """Open the views."""
        return None if self._views is None else self._open_views(self._views)

    @contextmanager
    def _open_views(self, path: Path) -> Generator[Views]:
        with _opened(path) as connection:
            yield FilesViews(connection)


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    # It may have to repair what a killed process left, so it may write; but it makes no file.
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _key(metadata: bytes) -> str | None:
    key: str | None = msgspec.json.decode(metadata).get("key") if metadata else None
    return key


# -- a server -------------------------------------------------------------------------------------


class Schema:
    """A log in a schema of a server, and views in the one beside it."""

    def __init__(self, server: Server, schema: str, *, views: bool) -> None:
        self._server = server
        self._schema = schema
        self._has_views = views

    def damage(self) -> Sequence[str]:
        """Give nothing: the checksums of the server's pages are compared as they are read."""
        return []

    def log(self) -> Iterator[Logged]:
        """Read the log from its beginning."""
        sql = (
            "SELECT json_build_array(e.position, e.stream, e.version, t.name, e.recorded,"
            f" encode(e.payload, 'hex'), encode(e.metadata, 'hex')) FROM {self._schema}.events e"
            f" JOIN {self._schema}.event_types t ON t.number = e.type ORDER BY e.position"
        )
        for row in self._asked(sql):
            payload, metadata = map(bytes.fromhex, row[5:])
            yield Logged._make((*row[:5], payload, _key(metadata)))

    @contextmanager
    def _open_views(self) -> Generator[Views]:
        yield self

    def views(self) -> AbstractContextManager[Views] | None:
        """Open the views."""
        return self._open_views() if self._has_views else None

    def checkpoints(self) -> Mapping[str, int]:
        """Give where each projection stands."""
        schema = f"{self._schema}_views"
        sql = (
            f"SELECT json_build_array(c.projection, c.position) FROM {schema}.checkpoints c"
            f" JOIN {schema}.builds b ON b.projection = c.projection AND b.number = c.build"
            " AND b.state = 'serving'"
        )
        return {row[0]: row[1] for row in self._asked(sql)}

    def rows(self, table: str, columns: Sequence[Column]) -> Iterator[tuple[Any, ...]]:
        """Give the rows of a table."""
        blobs = [column.sql == "BLOB" for column in columns]
        names = ", ".join(
            f"encode(\"{column.name}\", 'hex')" if blob else f'"{column.name}"'
            for column, blob in zip(columns, blobs, strict=True)
        )
        sql = f'SELECT json_build_array({names}) FROM {self._schema}_views."{table}"'
        for row in self._asked(sql):
            yield tuple(
                bytes.fromhex(value) if blob and value is not None else value
                for value, blob in zip(row, blobs, strict=True)
            )

    def _asked(self, sql: str) -> Iterator[list[Any]]:
        """Give the rows of a statement that makes an array of each, a line of `psql`'s each."""
        command = self._server.psql("-v", "FETCH_COUNT=1000", "-c", sql)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self._server.folder
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                yield msgspec.json.decode(line, type=list[Any])
            said = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise Unreadable(f"psql: {said}")
