"""A log and its views as one database that can only be read: SQL for people, from outside.

Rules: the files are opened read-only, beside their engine or without one, and no statement can
change or attach anything. Of a statement so many rows are read as are wanted, within a time, and
then it is over: no read transaction outlives it, since the write-ahead logs could not be folded
meanwhile. What is read here is not compared with any checksum. The views may be behind the log.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

import apsw
import msgspec

from ....errors import StoreRefused, UsageError
from ....model.given import listed
from ....model.rows import Scalar
from ...contract.outside import Rows
from ..connection import described, only_reads, quoted, run, run_some, set_reading
from ..files import Files
from ..log.cold import show_moved
from .log import SqliteLogReader

__all__ = ["JoinedTable", "LogAndViews"]

VALUE_BYTES_MAX: Final = 64 * 1024 * 1024
"""One value, so that no function makes a larger one in memory."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""All values of an answer together."""
STEPS_PER_LOOK: Final = 10_000
"""Steps of SQLite's machine between two looks at the time; a second has some million."""


class JoinedTable(msgspec.Struct, frozen=True):
    """A table or view that can be asked."""

    schema: str
    """"main" for the log, "views" for its views; needed only where both have the name."""
    name: str
    columns: Sequence[tuple[str, str]]
    """Names and types, the latter empty where SQLite knows none."""


class LogAndViews:
    """A log's file with its views' file attached, if that is there; use it with `with`."""

    def __init__(
        self, log: str, views: str, *, files: Files, stopwatch: Callable[[], float]
    ) -> None:
        self._log = log
        self._views = views
        self._files = files
        self._stopwatch = stopwatch
        self._connection: Any = None
        self.has_views = False
        """Whether the views' file is there."""

    def __enter__(self) -> LogAndViews:
        """Open them; raise StoreRefused where there is no log that can be read."""
        with SqliteLogReader(self._log, self._files):
            pass  # it says what a file is that is no log
        try:
            with self._refusals():
                self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close them."""
        self._close()

    def _open(self) -> None:
        connection = self._connection = self._files.connect(self._log, readonly=True)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
        self.has_views = self._files.size(self._views) > 0
        if self.has_views:
            # What is attached is opened as the first file was, read-only, and never made.
            run(connection, "ATTACH ? AS views", (self._views,))
        show_moved(connection)
        set_reading(connection)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def tables(self) -> Sequence[JoinedTable]:
        """Give what can be asked; what the engine keeps for itself is not among it."""
        with self._refusals():
            found = run(
                self._connection,
                "SELECT schema, name FROM pragma_table_list WHERE schema IN ('main', 'views') "
                "AND type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~' "
                "AND name NOT LIKE '%:%' ORDER BY schema, name",
            )
            return [self._table(schema, name) for schema, name in found]

    def _table(self, schema: str, name: str) -> JoinedTable:
        columns = run(self._connection, f"PRAGMA {schema}.table_info({quoted(name)})")
        return JoinedTable(schema, name, [(str(c[1]), str(c[2])) for c in columns])

    def ask(
        self, statement: str, parameters: Sequence[Scalar], *, rows_max: int, seconds: float
    ) -> Rows:
        """Run one statement that reads, for its first rows.

        Raises UsageError for one that cannot be run, that would change anything, or that takes
        longer.
        """
        connection, deadline = self._connection, self._stopwatch() + seconds
        connection.authorizer = only_reads
        connection.set_progress_handler(lambda: self._stopwatch() > deadline, STEPS_PER_LOOK)
        try:
            with self._refusals():
                self._check_single(statement)
                names, rows = run_some(
                    connection, statement, parameters, rows_max + 1, bytes_max=ANSWER_BYTES_MAX
                )
        except apsw.InterruptError:
            raise UsageError(
                f"the statement took longer than {seconds:g} s and was ended"
            ) from None
        except (apsw.AuthError, apsw.ReadOnlyError) as error:
            raise UsageError(
                f"this statement does more than read, which is all that is possible here: {error}"
            ) from error
        except (
            apsw.SQLError,
            apsw.BindingsError,
            apsw.MismatchError,
            apsw.TooBigError,
            apsw.NoMemError,
            apsw.FullError,
        ) as error:
            hint = self._hint(str(error))
            raise UsageError(f"this statement cannot be run: {error}{hint}") from error
        except UnicodeEncodeError as error:
            raise UsageError(f"the statement or a parameter is no UTF-8: {error.reason}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"a text in the answer is no UTF-8: {error.reason}") from error
        finally:
            connection.set_progress_handler(None)
            connection.authorizer = None
        if not names:
            raise UsageError("there is no statement here that gives rows")
        return Rows(names, rows[:rows_max], len(rows) > rows_max)

    def _check_single(self, statement: str) -> None:
        # Each engine imports this file, and only who asks needs what reads statements.
        import apsw.ext

        extras: Any = apsw.ext  # whose types are not all known
        rest = extras.query_info(self._connection, statement).query_remaining
        if rest is not None and extras.query_info(self._connection, rest).has_vdbe:
            raise UsageError("there is more than one statement here: give them one by one")

    def _hint(self, error: str) -> str:
        """Give what there is, for who has asked for a table that is not."""
        told = "" if self.has_views else f" (there is no file of views, {self._views})"
        if error.startswith("no such table"):
            self._connection.authorizer = None  # it lets nobody ask what tables there are
            names = [table.name for table in self.tables()]
            told += f". There are {listed(names)}"
        return told

    @contextmanager
    def _refusals(self) -> Generator[None]:
        """Say which files could not be read, where it is not the statement that is wrong."""
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError, apsw.CantOpenError, apsw.IOError) as error:
            files = f"{self._log} with {self._views}" if self.has_views else self._log
            raise StoreRefused(f"{files} cannot be read: {described(error)}") from error
