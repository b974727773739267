"""How queries read views in SQLite: rows, counts and selects, in calls that may be given up.

Rules: calls run one after the other on one worker. A call whose caller has gone is interrupted, and
harms no other; so is the one that runs while its views are closed. A connection that may do more
than read is held to reading while it runs a statement that a user wrote. One answer of SQLite has
at most `bytes_max` bytes: what would be more is refused, and never cut. This file opens and closes
no connection, and begins no transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import apsw
import msgspec

from ....errors import InvalidInput, ProjectionUnserved, StoreFailed, UsageError
from ....model.conditions import Filter
from ....model.projection import Dialect, TableDefinition
from ....model.rows import Scalar
from ....runtime.ports import Worker
from ...contract.views import Search, Selected, Selection
from ..connection import OnlyReads, failures, readable, run, run_some, within
from .tables import Statement, TableSql

__all__ = ["OPENS_NO_INDEX", "Call", "QueryCalls", "Readable", "TableReads"]

T = TypeVar("T")

INTERRUPT_SECONDS: Final = 0.01
"""How soon a query whose caller gave up is interrupted again, if it still runs."""
LOOK_STEPS: Final = 10_000
"""Of SQLite's machine, a millisecond or less, between two looks at whether a read is wanted."""
_STATEMENTS_MAX: Final = 1_000
"""Statements of users whose tables are remembered."""


class Readable(msgspec.Struct, frozen=True):
    """What a query reads from: a connection, and what the tables that serve are called on it."""

    connection: apsw.Connection
    tables: Mapping[str, TableSql]
    """By the name that is declared."""
    bytes_max: int
    """Of one answer of SQLite."""
    is_shared: bool
    """Whether the connection writes too, and so has that bound while it reads alone."""
    known: dict[str, frozenset[str]]
    """Which tables the statements of users read, as far as they were asked before."""
    positions: Mapping[str, int] | None = None
    """How far each projection is in what is read, where that was looked for."""

    def table(self, definition: TableDefinition) -> TableSql:
        """Give the SQL of a table; raise ProjectionUnserved where it does not serve."""
        found = self.tables.get(definition.name)
        if found is None:
            raise ProjectionUnserved(definition.projection)
        return found


class TableReads:
    """The reads that `ViewsSource` promises, over whatever runs them."""

    is_kept: bool = True
    """Whether what is read is there for the next process, too."""
    dialect: Dialect = "sqlite"
    """Whose SQL it takes."""

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        """Run `call(readable, *args)` where views are read."""
        raise NotImplementedError

    async def get(self, table: TableDefinition, key: Scalar) -> Any:
        """Give the row with a key, or None."""
        return await self._run(_get, table, key)

    async def find(self, table: TableDefinition, selection: Selection) -> list[Any]:
        """Give the rows of a selection, in its order."""
        return await self._run(_find, table, selection)

    async def search(self, table: TableDefinition, search: Search) -> list[Any]:
        """Give the rows that a search finds, the best first."""
        return await self._run(_search, table, search)

    async def count(self, table: TableDefinition, where: Sequence[Filter]) -> int:
        """Give how many rows are asked for."""
        return await self._run(_count, table, where)

    async def sql(self, statement: str, parameters: Sequence[Scalar], rows_max: int) -> Selected:
        """Run a statement that reads."""
        return await self._run(_select, statement, parameters, rows_max)


def _get(reading: Readable, table: TableDefinition, key: Scalar) -> Any:
    sql = reading.table(table)
    rows = _rows(reading, sql, sql.get(key))
    return rows[0] if rows else None


def _find(reading: Readable, table: TableDefinition, selection: Selection) -> list[Any]:
    sql = reading.table(table)
    return _rows(reading, sql, sql.find(selection))


def _search(reading: Readable, table: TableDefinition, search: Search) -> list[Any]:
    sql = reading.table(table)
    try:
        return _rows(reading, sql, sql.search(search))
    except apsw.SQLError as error:
        if search.syntax is None:
            raise
        raise InvalidInput(f"this search cannot be read: {error}") from error


def _count(reading: Readable, table: TableDefinition, where: Sequence[Filter]) -> int:
    return int(run(reading.connection, *reading.table(table).count(where))[0][0])


def _rows(reading: Readable, sql: TableSql, statement: Statement) -> list[Any]:
    """Give the rows of a statement of this table."""
    try:
        return _read(reading, sql, statement)
    except Exception:
        with readable(sql.definition.name):  # entered here: it costs as much as a small read
            raise


def _read(reading: Readable, sql: TableSql, statement: Statement) -> list[Any]:
    build = sql.definition.shape.build
    connection: Any = reading.connection
    before: int | None = None
    if reading.is_shared:
        # SQLite itself ends a text that grows beyond this, before it is made.
        before = connection.limit(apsw.SQLITE_LIMIT_LENGTH, reading.bytes_max)
    found = connection.cursor()
    try:
        found.execute(*statement)
        answer: list[Any] = found.fetchall() if sql.is_json else within(found, reading.bytes_max)
    except apsw.TooBigError as error:
        raise _too_large(sql.definition.name, reading.bytes_max) from error
    finally:
        found.close(True)  # an error keeps it, and it keeps the state that it read
        if before is not None:
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, before)
    return [build(flat) for flat in sql.rows_of(answer)]


OPENS_NO_INDEX: Final = frozenset((_get, _find, _count))
"""Reads that open no index of words."""


def _too_large(what: str, bytes_max: int) -> UsageError:
    return UsageError(
        f"what is read of {what} at once has more than {bytes_max} bytes (Limits.query_bytes): "
        f"read it in smaller pages, with `limit=` and `after=`, or raise the limit"
    )


def _select(
    reading: Readable, statement: str, parameters: Sequence[Scalar], rows_max: int
) -> Selected:
    """Run a user's statement; give the names of its columns, its rows, and what it reads."""
    connection, known = reading.connection, reading.known
    before = connection.authorizer
    length = None
    if reading.is_shared:
        length = connection.limit(apsw.SQLITE_LIMIT_LENGTH, reading.bytes_max)
    guard = before if isinstance(before, OnlyReads) else OnlyReads()
    if guard is not before:
        connection.authorizer = guard
    tables = known.get(statement)
    try:
        # Only what is compiled here asks the authorizer, which is told what it reads.
        guard.tables = set() if tables is None else None
        names, rows = run_some(
            connection,
            statement,
            parameters,
            rows_max + 1,
            bytes_max=reading.bytes_max,
            can_cache=tables is not None,
        )
        if tables is None:
            tables = frozenset(name.partition(":")[0] for name in guard.tables or ())
            if len(known) >= _STATEMENTS_MAX:
                known.clear()
            known[statement] = tables
    except (apsw.SQLError, apsw.AuthError, apsw.ReadOnlyError, apsw.BindingsError) as error:
        raise UsageError(f"views.sql cannot run this statement: {error}") from error
    except apsw.TooBigError as error:
        raise _too_large("a statement in views.sql", reading.bytes_max) from error
    finally:
        guard.tables = None
        if length is not None:
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, length)
        if guard is not before:
            connection.authorizer = before
    if not names:
        raise UsageError("views.sql was given a statement that cannot give rows")
    if len(rows) > rows_max:
        raise UsageError(
            f"views.sql gives more than {rows_max} rows (Limits.query_rows): add a LIMIT"
        )
    return Selected(names, rows, tables)


class Call:
    """One call, which its caller may give up, or take back as long as it has not begun."""

    given_up = False
    is_too_slow = False
    began: float | None = None
    """When it began, by the stopwatch."""

    def __init__(self, open_: Callable[[], tuple[apsw.Connection | None, Any]]) -> None:
        """Take what gives the connection, and what to read from."""
        self.open = open_
        self._claims = [None]

    def claim(self) -> bool:
        """Tell whether who asks may have it: its thread, to run it, or who takes it back.

        One of them may, whichever is first.
        """
        try:
            self._claims.pop()  # in one step, whichever thread does it
        except IndexError:
            return False
        return True


def _end(call: Call) -> None:
    call.is_too_slow = True


class QueryCalls:
    """Calls on the connections of some views, from `begin` to `end`."""

    def __init__(self, path: str, stopwatch: Callable[[], float] = lambda: 0.0) -> None:
        """Take whose views these are, and what tells how long a call has run."""
        self._path = path
        self._stopwatch = stopwatch
        self._worker: Worker | None = None
        self.waiting = 0
        """Calls that are not answered yet."""
        self._running: tuple[Call, apsw.Connection | None] | None = None
        self._posted: set[asyncio.Future[None]] = set()
        self._interrupting = True
        self._seconds: float | None = None
        self._ending = False

    def begin(
        self, worker: Worker, *, interrupting: bool = True, seconds: float | None = None
    ) -> None:
        """Take calls, and run each on this worker, one for so many `seconds` at most.

        Where the worker also writes on it, nothing may be interrupted, which could hit a write: a
        statement looks by itself whether it is still wanted.
        """
        self._worker = worker
        self._interrupting = interrupting
        self._seconds = seconds
        self._ending = False

    def end(self) -> None:
        """Take no more calls, and interrupt what still runs."""
        self._worker = None
        self._ending = True
        running = self._running
        if running is not None:
            self._give_up(running[0])

    async def run(
        self,
        open_: Callable[[], tuple[apsw.Connection | None, Any]],
        call: Callable[..., T],
        *args: Any,
    ) -> T:
        """Run `call(what, *args)` on the worker, where `open_` gives a connection, and `what`.

        If the caller gives up, its statement is interrupted.
        """
        return await self.run_call(Call(open_), call, args)

    async def run_call(self, mine: Call, call: Callable[..., T], args: Sequence[Any]) -> T:
        """Do the same as one that its caller may take back."""
        if self._worker is None:
            raise StoreFailed(f"the views {self._path} are closed", written=False)
        timer = None
        if self._seconds is not None:
            timer = asyncio.get_running_loop().call_later(self._seconds, _end, mine)
        self.waiting += 1
        try:
            return await self._worker.run(self._run_now, mine, call, args)
        except asyncio.CancelledError:
            self._give_up(mine)
            raise
        finally:
            self.waiting -= 1
            if timer is not None:
                timer.cancel()

    @property
    def runs_for(self) -> float:
        """For how many seconds the call has run that runs now."""
        running = self._running
        began = None if running is None else running[0].began
        return 0.0 if began is None else self._stopwatch() - began

    def post(self, call: Callable[[], None]) -> None:
        """Have a call run on the worker that nobody waits for."""
        if self._worker is not None:
            task = asyncio.ensure_future(self._worker.run(call))
            self._posted.add(task)
            task.add_done_callback(self._posted.discard)

    def give_up_on(self, open_: Callable[[], object]) -> None:
        """Interrupt the call that runs where this opens, if any does; others may share that."""
        running = self._running
        if running is not None and running[0].open == open_:
            self._give_up(running[0])

    def _give_up(self, call: Call) -> None:
        """Interrupt a call until it ends: a statement that has not begun does not notice."""
        call.given_up = True
        running = self._running
        if self._interrupting and running is not None and running[0] is call:
            if running[1] is not None:
                running[1].interrupt()
            asyncio.get_running_loop().call_later(INTERRUPT_SECONDS, self._give_up, call)

    @contextmanager
    def _looking(self, connection: apsw.Connection, mine: Call) -> Generator[None]:
        """Let what runs inside end as soon as nobody waits for it any more."""
        connection.set_progress_handler(
            lambda: mine.given_up or mine.is_too_slow or self._ending, LOOK_STEPS
        )
        try:
            yield
        finally:
            connection.set_progress_handler(None)

    def _run_now(self, mine: Call, call: Callable[..., T], args: Sequence[Any]) -> T:
        if not mine.claim():
            raise StoreFailed(f"the views {self._path} are read elsewhere", written=False)
        mine.began = self._stopwatch()
        while not (mine.given_up or self._ending):
            self._running = (mine, None)
            try:
                connection, what = mine.open()
                self._running = (mine, connection)
                if self._interrupting or connection is None:
                    return call(what, *args)
                with self._looking(connection, mine):
                    return call(what, *args)
            except apsw.InterruptError:
                if mine.is_too_slow:
                    raise TimeoutError(
                        f"a read of the views took longer than {self._seconds} s "
                        f"(Limits.state_seconds): make it read less, or raise the limit. Asking "
                        f"again is safe"
                    ) from None
                # Its caller gave up, or did that of the statement before, which had just ended:
                # then this one runs again.
                continue
            except Exception:
                with failures(self._path, "read"):
                    raise
            finally:
                self._running = None
        raise StoreFailed(f"the views {self._path} were closed during a query", written=False)
