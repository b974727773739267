"""Views in SQLite read from outside: beside the engine that writes them, or without one.

Rules: the connections can only read; no lock is taken, no engine is kept waiting, and nothing is
made where no views are. Each answer reads in one transaction, and looks in it whether the tables
are still those that are declared here: those of another version, or declared otherwise, are refused
and not believed. A file that is put in the place of the one that is open is noticed. SQLite
itself keeps a `-shm` and an empty `-wal` beside a file that is read and that nobody writes; they
hold nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar

import apsw

from ....errors import StoreRefused
from ....limits import Limits
from ....model.projection import ProjectionDefinition, TableDefinition
from ....runtime.ports import Ports, Worker
from ...contract.builds import definition_hash, served_position, serving
from ...contract.outside import Found, Look, NoViewsYet
from ...contract.views import ViewsState
from ..connection import failures, floats_are_exact, run, set_reading, snapshot
from ..files import files_of
from ..views.builds import APPLICATION_ID, SCHEMA_VERSION, read_builds, real_name
from ..views.queries import QueryCalls, TableReads
from ..views.shape import check_books
from ..views.states import State, States
from ..views.tables import TableSql

__all__ = ["SqliteViewsReader"]

T = TypeVar("T")


class SqliteViewsReader(TableReads):
    """The views of some projections in the file `path`, read-only, from `open` to `close`."""

    def __init__(
        self,
        path: str,
        projections: Sequence[ProjectionDefinition],
        ports: Ports,
        limits: Limits,
    ) -> None:
        self.path = path
        self._ports = ports
        self._declared = {d.name: (d.version, definition_hash(d)) for d in projections}
        self._tables = {d.name: list(d.tables.values()) for d in projections}
        self._sql: dict[tuple[str, int], Sequence[tuple[TableDefinition, TableSql]]] = {}
        """By projection and build."""
        self._left_out: Set[str] = frozenset()
        self._leaves_misfits = False
        self._floats_exact: bool | None = None
        self._limits = limits
        self._calls = QueryCalls(path)
        self._states: States | None = None
        self._worker: Worker | None = None
        self._connection: apsw.Connection | None = None
        self._opened = 0
        """How many connections there were: what SQLite counts is of one connection only."""

    async def open(self) -> None:
        """Take calls; the file need not be there yet."""
        self._worker = self._ports.workers.start("foldline-onlooker")
        self._calls.begin(self._worker)
        self._states = States(self._calls, self, self._limits, at_once=True)

    async def close(self) -> None:
        """Close the file; a second call does nothing. Calls that still run are interrupted."""
        self._calls.end()
        worker, self._worker = self._worker, None
        if worker is not None:
            try:
                assert self._states is not None
                await worker.run(self._states.close, self._states.lanes[0])
                await worker.run(self._disconnect)
            finally:
                await worker.close()

    # -- what is asked ------------------------------------------------------------------------

    async def look(self) -> Look:
        """Look whether anything was committed; it takes some µs. Raises NoViewsYet."""
        return await self._calls.run(self._open, self._look)

    async def positions(self) -> Mapping[str, int]:
        """Give how far the views of each projection are."""
        return await self._calls.run(self._open, self._check)

    def serves(self, projection: str) -> bool:
        """Say yes, but for what is left out: each call finds out by itself, and says more."""
        return projection not in self._left_out

    def leave_out(self, projections: Set[str], *, misfits: bool) -> None:
        """Serve nothing of these from now on, and with `misfits` of no others' tables."""
        self._left_out, self._leaves_misfits = projections, misfits

    def state(self, *, holding: float = 0) -> ViewsState:  # noqa: ARG002 - the contract's
        """Give the views as they are at its first read; see `ViewsSource.state`."""
        assert self._states is not None
        return State(self._states)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        state = self.state()
        assert isinstance(state, State)
        try:
            return await state.run(call, *args)
        finally:
            state.end()

    # -- in the worker ------------------------------------------------------------------------

    def _open(self) -> tuple[apsw.Connection, apsw.Connection]:
        """Give the connection that looks, opened anew where the file is another one now."""
        connection = self._connection
        if connection is None or not self.is_usable(connection):
            self._disconnect()
            connection = self._connection = self.connect()
            self._opened += 1
        return connection, connection

    def connect(self) -> apsw.Connection:
        """Open the file; raise NoViewsYet where there is none."""
        if files_of(self._ports).size(self.path) == 0:
            raise self._nothing_yet()
        with failures(self.path, "opened", refused=True):
            connection = files_of(self._ports).connect(self.path, readonly=True)
            try:
                self._set_up(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def is_usable(self, connection: apsw.Connection) -> bool:
        """Tell whether the path leads to the file that is open still."""
        return not _was_moved(connection)

    def commits(self) -> None:
        """Say nothing: who looks on is told of no commit, so each answer begins anew."""

    def tables(
        self, connection: apsw.Connection, begin: Callable[[], None]
    ) -> tuple[Mapping[str, TableSql], Mapping[str, int]]:
        """Begin a read transaction in which the tables are known to be those declared here."""
        begin()
        builds = self._read_builds(connection)
        positions = self._positions(builds)
        tables = {
            table.name: sql
            for projection, tables in self._tables.items()
            if projection in positions
            for now in [serving([b for b in builds if b.projection == projection])]
            if now is not None
            for table, sql in self._tables_of(projection, tables, now)
        }
        return tables, positions

    def _tables_of(
        self, projection: str, tables: Sequence[TableDefinition], build: Found
    ) -> Sequence[tuple[TableDefinition, TableSql]]:
        """Give the tables of the build that serves, which the plain names only show."""
        known = self._sql.get((projection, build.number))
        if known is None:
            known = self._sql[projection, build.number] = [
                (
                    table,
                    TableSql(
                        table,
                        floats_exact=bool(self._floats_exact),
                        name=real_name(table.name, build.number),
                        sliced=build.slices > 1,
                    ),
                )
                for table in tables
            ]
        return known

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _set_up(self, connection: apsw.Connection) -> None:
        set_reading(connection)
        with snapshot(connection):
            # In one transaction, since an engine may be making them at this moment.
            made = run(connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
            (application_id,) = run(connection, "PRAGMA application_id")[0]
        if application_id == 0 and not made:
            raise self._nothing_yet()
        if application_id != APPLICATION_ID:
            raise StoreRefused(
                f"{self.path} is not a file of views: name the store that the engine has"
            )
        check_books(connection, self.path)
        if self._floats_exact is None:
            self._floats_exact = floats_are_exact(connection)

    def _nothing_yet(self) -> NoViewsYet:
        return NoViewsYet(
            f"there are no views in {self.path} yet: start the engine that writes them, and ask "
            f"again"
        )

    def _look(self, connection: apsw.Connection) -> Look:
        return self._opened, run(connection, "PRAGMA data_version")[0][0]

    def _check(self, connection: apsw.Connection) -> Mapping[str, int]:
        with snapshot(connection):
            return self._positions(self._read_builds(connection))

    def _read_builds(self, connection: apsw.Connection) -> Sequence[Found]:
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
        return builds

    def _positions(self, builds: Sequence[Found]) -> Mapping[str, int]:
        """Give the positions of the views; raise StoreRefused for those of another definition."""
        found: dict[str, int] = {}
        for name, declared in self._declared.items():
            if name in self._left_out:
                continue
            try:
                found[name] = served_position(name, declared, builds, self.path)
            except StoreRefused:
                if not self._leaves_misfits:
                    raise
        return found


def _was_moved(connection: apsw.Connection) -> bool:
    """Tell whether the path of an open file leads to another one, or nowhere; about 2 µs."""
    moved = ctypes.c_int()
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    return bool(moved.value)
