"""How queries read views in SQLite: rows, counts and selects, in calls that may be given up.

Rules: calls run one after the other on one worker. A call whose caller has gone is interrupted, and
harms no other; so is the one that runs while its views are closed. A connection that may do more
than read is held to reading while it runs a statement that a user wrote. This file opens and closes
no connection, and begins no transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import apsw

from ..errors import InvalidInput, StoreFailed, UsageError
from ..ports import Worker
from ..rows import Scalar
from ..views import Search
from .sqlite_session import failures, only_reads, run, run_some
from .sqlite_tables import Statement, TableSql

__all__ = ["QueryCalls", "read_count", "read_found", "read_rows", "select"]

T = TypeVar("T")

INTERRUPT_SECONDS: Final = 0.01
"""How soon a query whose caller gave up is interrupted again, if it still runs."""


def read_rows(connection: apsw.Connection, sql: TableSql, statement: Statement) -> list[Any]:
    """Give the rows of a statement of this table."""
    build = sql.definition.shape.build
    return [build(flat) for flat in sql.rows_of(run(connection, *statement))]


def read_found(connection: apsw.Connection, sql: TableSql, search: Search) -> list[Any]:
    """Give the rows that a search finds, the best first."""
    try:
        return read_rows(connection, sql, sql.search(search))
    except apsw.SQLError as error:
        if search.syntax is None:
            raise
        raise InvalidInput(f"this search cannot be read: {error}") from error


def read_count(connection: apsw.Connection, statement: Statement) -> int:
    """Give the number that a statement answers."""
    return int(run(connection, *statement)[0][0])


def select(
    connection: apsw.Connection, statement: str, parameters: Sequence[Scalar], rows_max: int
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """Run a user's statement; give the names of its columns, and its rows."""
    before = connection.authorizer
    if before is not only_reads:
        connection.authorizer = only_reads
    try:
        names, rows = run_some(connection, statement, parameters, rows_max + 1)
    except (apsw.SQLError, apsw.AuthError, apsw.ReadOnlyError, apsw.BindingsError) as error:
        raise UsageError(f"views.sql cannot run this statement: {error}") from error
    finally:
        if before is not only_reads:
            connection.authorizer = before
    if not names:
        raise UsageError("views.sql was given a statement that cannot give rows")
    if len(rows) > rows_max:
        raise UsageError(
            f"views.sql gives more than {rows_max} rows (Limits.query_rows): add a LIMIT"
        )
    return names, rows


class _Call:
    """One call, which its caller may give up."""

    given_up = False


class QueryCalls:
    """Calls on the connection of some views, from `begin` to `end`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._worker: Worker | None = None
        self._connect: Callable[[], apsw.Connection] | None = None
        self._running: tuple[_Call, apsw.Connection] | None = None
        self._interrupting = True
        self._ending = False

    def begin(
        self, worker: Worker, connect: Callable[[], apsw.Connection], *, interrupting: bool = True
    ) -> None:
        """Take calls: each is run on this worker, with the connection that `connect` gives.

        Where the worker also writes on it, nothing may be interrupted: that could hit a write.
        """
        self._worker = worker
        self._connect = connect
        self._interrupting = interrupting
        self._ending = False

    def end(self) -> None:
        """Take no more calls, and interrupt what still runs."""
        self._worker = None
        self._ending = True
        running = self._running
        if running is not None:
            self._give_up(running[0])

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run `call(connection, *args)`; if the caller gives up, its statement is interrupted."""
        if self._worker is None:
            raise StoreFailed(f"the views {self._path} are closed", written=False)
        mine = _Call()
        try:
            return await self._worker.run(self._run_now, mine, call, args)
        except asyncio.CancelledError:
            self._give_up(mine)
            raise

    def _give_up(self, call: _Call) -> None:
        """Interrupt a call until it ends: a statement that has not begun does not notice."""
        call.given_up = True
        running = self._running
        if self._interrupting and running is not None and running[0] is call:
            running[1].interrupt()
            asyncio.get_running_loop().call_later(INTERRUPT_SECONDS, self._give_up, call)

    def _run_now(self, mine: _Call, call: Callable[..., T], args: Sequence[Any]) -> T:
        assert self._connect is not None
        while not (mine.given_up or self._ending):
            try:
                with failures(self._path, "read"):
                    connection = self._connect()
                    self._running = (mine, connection)
                    return call(connection, *args)
            except apsw.InterruptError:
                # Its caller gave up, or did that of the statement before, which had just ended:
                # then this one runs again.
                continue
            finally:
                self._running = None
        raise StoreFailed(f"the views {self._path} were closed during a query", written=False)
