"""Views in SQLite read from outside: beside the engine that writes them, or without one.

Rules: the connection can only read; no lock is taken, no engine is kept waiting, and nothing is
made where no views are. Each call is a read transaction of its own, and looks in it whether the
tables are still those that are declared here: those of another version, or declared otherwise, are
refused and not believed. A file that is put in the place of the one that is open is noticed. SQLite
itself keeps a `-shm` and an empty `-wal` beside a file that is read and that nobody writes; they
hold nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import apsw

from ..errors import StoreRefused
from ..ports import Ports, Worker
from ..projection import ProjectionDefinition, TableDefinition
from ..rows import Scalar
from ..views import Search, Selection
from .sqlite_builds import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    Found,
    read_builds,
    real_name,
    serving,
)
from .sqlite_queries import QueryCalls, read_count, read_found, read_rows, select
from .sqlite_session import failures, floats_are_exact, run, set_reading
from .sqlite_tables import TableSql, definition_hash

__all__ = ["Look", "NoViewsYet", "SqliteViewsReader"]

T = TypeVar("T")

Look: TypeAlias = tuple[int, int]
"""What a look at the file saw; another one whenever something was committed in between."""


class NoViewsYet(StoreRefused):
    """There is no file, or no engine has put views into it yet."""


class SqliteViewsReader:
    """The views of some projections in the file `path`, read-only, from `open` to `close`."""

    def __init__(
        self, path: str, projections: Sequence[ProjectionDefinition], ports: Ports
    ) -> None:
        self.path = path
        self._ports = ports
        self._declared = {d.name: (d.version, definition_hash(d)) for d in projections}
        self._tables = [table for d in projections for table in d.tables.values()]
        self._sql: dict[str, TableSql] = {}
        self._calls = QueryCalls(path)
        self._worker: Worker | None = None
        self._connection: apsw.Connection | None = None
        self._opened = 0
        """How many connections there were: what SQLite counts is of one connection only."""

    async def open(self) -> None:
        """Take calls; the file need not be there yet."""
        self._worker = self._ports.workers.start("foldline-onlooker")
        self._calls.begin(self._worker, self._connect)

    async def close(self) -> None:
        """Close the file; a second call does nothing. Calls that still run are interrupted."""
        self._calls.end()
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                await worker.run(self._disconnect)
            finally:
                await worker.close()

    # -- what is asked ------------------------------------------------------------------------

    async def look(self) -> Look:
        """Look whether anything was committed; it takes some µs. Raises NoViewsYet."""
        return await self._calls.run(self._look)

    async def positions(self) -> Mapping[str, int]:
        """Give how far the views of each projection are."""
        return await self._calls.run(self._check)

    def serves(self, projection: str) -> bool:  # noqa: ARG002 - the contract's
        """Say yes: each call finds out by itself, and says more."""
        return True

    async def get(self, table: TableDefinition, key: Scalar) -> Any:
        """Give the row with a key, or None."""
        rows = await self._calls.run(self._checked, self._get, table, key)
        return rows[0] if rows else None

    async def find(self, table: TableDefinition, selection: Selection) -> list[Any]:
        """Give the rows of a selection, in its order."""
        return await self._calls.run(self._checked, self._find, table, selection)

    async def search(self, table: TableDefinition, search: Search) -> list[Any]:
        """Give the rows that a search finds, the best first."""
        return await self._calls.run(self._checked, self._search, table, search)

    async def count(self, table: TableDefinition, where: Sequence[tuple[str, Scalar]]) -> int:
        """Give how many rows have these values."""
        return await self._calls.run(self._checked, self._count, table, where)

    async def sql(
        self, statement: str, parameters: Sequence[Scalar], rows_max: int
    ) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        """Run a statement that reads."""
        return await self._calls.run(self._checked, select, statement, parameters, rows_max)

    # -- in the worker ------------------------------------------------------------------------

    def _connect(self) -> apsw.Connection:
        """Give the connection; open the file where none is open, or where it is another one now."""
        connection = self._connection
        if connection is not None and not _was_moved(connection):
            return connection
        self._disconnect()
        if self._ports.files.size(self.path) == 0:
            raise self._nothing_yet()
        with failures(self.path, "opened", refused=True):
            connection = self._ports.files.connect(self.path, readonly=True)
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        self._opened += 1
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _set_up(self, connection: apsw.Connection) -> None:
        set_reading(connection)
        with _snapshot(connection):
            # In one transaction, since an engine may be making them at this moment.
            made = run(connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
            (application_id,) = run(connection, "PRAGMA application_id")[0]
        if application_id == 0 and not made:
            raise self._nothing_yet()
        if application_id != APPLICATION_ID:
            raise StoreRefused(
                f"{self.path} is not a file of views: name the store that the engine has"
            )
        exact = floats_are_exact(connection)
        self._sql = {t.name: TableSql(t, floats_exact=exact) for t in self._tables}

    def _nothing_yet(self) -> NoViewsYet:
        return NoViewsYet(
            f"there are no views in {self.path} yet: start the engine that writes them, and ask "
            f"again"
        )

    def _look(self, connection: apsw.Connection) -> Look:
        return self._opened, run(connection, "PRAGMA data_version")[0][0]

    def _checked(self, connection: apsw.Connection, call: Callable[..., T], *args: Any) -> T:
        """Read from tables that are known, in one transaction, to be those declared here."""
        with _snapshot(connection):
            self._check_tables(connection)
            return call(connection, *args)

    def _get(self, connection: apsw.Connection, table: TableDefinition, key: Scalar) -> list[Any]:
        sql = self._sql[table.name]
        return read_rows(connection, sql, sql.get(key))

    def _find(
        self, connection: apsw.Connection, table: TableDefinition, selection: Selection
    ) -> list[Any]:
        sql = self._sql[table.name]
        return read_rows(connection, sql, sql.find(selection))

    def _search(
        self, connection: apsw.Connection, table: TableDefinition, search: Search
    ) -> list[Any]:
        # An index of words belongs to a build's own table, which the plain name only shows.
        builds = [b for b in read_builds(connection) if b.projection == table.projection]
        now = serving(builds)
        assert now is not None, "what serves was looked at in this transaction"
        known = self._sql[table.name]
        sql = known.of_build(real_name(table.name, now.number), sliced=now.slices > 1)
        return read_found(connection, sql, search)

    def _count(
        self,
        connection: apsw.Connection,
        table: TableDefinition,
        where: Sequence[tuple[str, Scalar]],
    ) -> int:
        return read_count(connection, self._sql[table.name].count(where))

    def _check(self, connection: apsw.Connection) -> Mapping[str, int]:
        with _snapshot(connection):
            return self._check_tables(connection)

    def _check_tables(self, connection: apsw.Connection) -> Mapping[str, int]:
        """Give the positions of the views; raise StoreRefused for those of another definition."""
        (schema,) = run(connection, "SELECT schema_version FROM views_meta")[0]
        if schema != SCHEMA_VERSION:
            raise StoreRefused(
                f"{self.path} has schema version {schema}, and this release reads "
                f"{SCHEMA_VERSION}: run the release that the engine has, or start an engine of "
                f"this one on it once, which brings it there"
            )
        builds = read_builds(connection)
        if not builds:
            raise self._nothing_yet()
        return {
            name: self._position(name, [build for build in builds if build.projection == name])
            for name in self._declared
        }

    def _position(self, name: str, builds: Sequence[Found]) -> int:
        """Give the position of the build that serves, if it is what is declared here."""
        now = serving(builds)
        if now is None:
            raise StoreRefused(
                f"{self.path} has no views of projection {name!r}: start an engine that has it on "
                f"this store, or leave it out here"
            )
        declared, hash_here = self._declared[name]
        if now.version != declared:
            begun = any(b.version == declared and b.state == "building" for b in builds)
            raise StoreRefused(
                f"the views of projection {name!r} in {self.path} are of version {now.version}, "
                f"and version {declared} is declared here: "
                + (
                    "ask again when it serves, it is being built"
                    if begun
                    else "run the release of this program that the engine has, or start an engine "
                    "of this one, which builds them anew"
                )
            )
        if now.definition != hash_here:
            raise StoreRefused(
                f"the tables of projection {name!r} are declared otherwise here than by the engine "
                f"that wrote version {declared} of them to {self.path}: use its class, or declare "
                f"`version={declared + 1}` and start an engine, which builds them anew"
            )
        return now.position


@contextmanager
def _snapshot(connection: apsw.Connection) -> Generator[None]:
    """Let all that is read inside be of one moment."""
    run(connection, "BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            run(connection, "ROLLBACK")


def _was_moved(connection: apsw.Connection) -> bool:
    """Tell whether the path of an open file leads to another one, or nowhere; about 2 µs."""
    moved = ctypes.c_int()
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    return bool(moved.value)
