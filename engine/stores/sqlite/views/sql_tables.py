"""Tables that a projection makes by SQL of its own, and the statements of its handlers.

Rules: a statement is looked at once, by SQLite's authorizer, before it runs for the first time: it
may read and write the tables of the one build that it is for, and nothing else (no other table, no
schema, setting, file or end of a transaction). What fails for the statement's sake is the
handler's; what fails for the file's sake ends the transaction, whatever the handler makes of it.
Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, TypeVar

import apsw

from ....errors import DefinitionError, UsageError
from ....model.projection import ProjectionDefinition
from ....model.rows import Scalar
from ....model.sql_projection import RolledBack, with_names
from ....runtime.contained import contained
from ..connection import run

__all__ = ["GivesNothing", "SqlTables", "Statements", "check_dialect", "make_own"]

T = TypeVar("T")

STATEMENTS_MAX: Final = 1_000
"""Texts that are known at a time; they are few unless values are written into them."""

_WRITES: Final = frozenset((apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE))
_ALWAYS: Final = frozenset((apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE))
_MAKES: Final = frozenset(
    (apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_REINDEX)
)
_ADDS: Final = frozenset((apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_CREATE_TRIGGER))
_SCHEMA: Final = frozenset(("sqlite_master", "sqlite_schema", "sqlite_sequence"))
_FILE: Final = (
    apsw.IOError,
    apsw.FullError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.InterruptError,
)
"""What no statement is to blame for."""


def make_own(connection: Any, definition: ProjectionDefinition, names: Mapping[str, str]) -> None:
    """Make the tables of a build, empty; raise DefinitionError where a statement does not do."""
    own = SqlTables(definition.name, names, ())
    for table in definition.sql_tables.values():
        for statement in table.statements:
            connection.authorizer = own.may_make
            try:
                run(connection, with_names(statement, names))
            except (apsw.SQLError, apsw.AuthError, apsw.ConstraintError) as error:
                raise DefinitionError(
                    f"{definition.cls.__qualname__}.tables[{table.attribute!r}] has a statement "
                    f"that cannot be run: {error}. It makes tables that are named in braces, and "
                    f"what belongs to them: {statement.strip()[:60]!r}"
                ) from error
            finally:
                connection.authorizer = None


def check_dialect(definition: ProjectionDefinition) -> None:
    """Raise DefinitionError for a projection whose SQL is not written for SQLite."""
    if definition.dialects and "sqlite" not in definition.dialects:
        raise DefinitionError(
            f"projection {definition.name!r} is written in the SQL of "
            f"{' and '.join(definition.dialects)}, and these views are in SQLite: keep them where "
            f'its SQL is understood, or say dialect=("sqlite", ...) where SQLite does too'
        )


class GivesNothing(Exception):
    """A call has given no changes, so nothing that it has run may stay."""


class SqlTables:
    """The tables of one build, and the statements that are known to keep to them."""

    def __init__(
        self, projection: str, names: Mapping[str, str], there: Sequence[str] | frozenset[str]
    ) -> None:
        """Take what they are called, by attribute, and all tables that the file has."""
        self.projection = projection
        self._names = names
        self._reals = tuple(name.lower() for name in names.values())
        self._others = frozenset(n.lower() for n in there) - frozenset(self._reals)
        self._texts: dict[str, str] = {}
        """By what a handler wrote: what is run."""

    @contextmanager
    def session(self, connection: apsw.Connection, rows_max: int) -> Generator[Statements]:
        """Give what a transaction's handlers run their statements with; it ends with this."""
        session = Statements(self, connection, rows_max)
        try:
            yield session
        finally:
            session.end()

    def written_by(
        self, connection: apsw.Connection, rows_max: int, call: Callable[[Statements], T | None]
    ) -> T:
        """Run a call in a session; give what it gives, or raise GivesNothing."""
        with self.session(connection, rows_max) as session:
            given = call(session)
        if given is None:
            raise GivesNothing
        return given

    def execute(self, connection: Any, statement: str, values: Sequence[Scalar]) -> Any:
        """Run a statement; give its cursor."""
        known = self._texts.get(statement)
        if known is not None:
            return connection.execute(known, values)
        text = with_names(statement, self._names)
        connection.authorizer = self._may_run
        try:
            cursor = connection.execute(text, values)
        except apsw.AuthError as error:
            raise UsageError(
                f"a handler of projection {self.projection} reads and writes its own tables, "
                f"named in braces as in {sorted(self._names)}, and nothing else: {error}"
            ) from error
        finally:
            connection.authorizer = None
        if len(self._texts) >= STATEMENTS_MAX:
            self._texts.clear()
        self._texts[statement] = text
        return cursor

    def _is_own(self, name: str | None) -> bool:
        if name is None:
            return False
        name = name.lower()
        # SQLite keeps a virtual table in others, whose names go on with an underscore.
        return any(
            name == real or name.startswith((f"{real}_", f"{real}:")) for real in self._reals
        )

    def _may_run(
        self, action: int, one: str | None, two: str | None, _database: str | None, _in: str | None
    ) -> int:
        if action in _ALWAYS:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_READ:
            # A name that is no table's is that of a subquery, or of a function that gives rows.
            fits = self._is_own(one) or not self._is_others(one or "")
        elif action in _WRITES:
            fits = self._is_own(one)
        elif action == apsw.SQLITE_FUNCTION:
            fits = two != "load_extension"
        else:
            # Full-text tables ask whether somebody else has changed the file.
            fits = action == apsw.SQLITE_PRAGMA and one == "data_version" and two is None
        return apsw.SQLITE_OK if fits else apsw.SQLITE_DENY

    def _is_others(self, name: str) -> bool:
        name = name.lower()
        return ":" in name or name.startswith("sqlite_") or name in self._others

    def may_make(
        self, action: int, one: str | None, two: str | None, database: str | None, inner: str | None
    ) -> int:
        """Authorize what makes these tables."""
        if action in _ADDS:
            fits = self._is_own(two)
        elif action in _MAKES or action in _WRITES or action == apsw.SQLITE_READ:
            fits = self._is_own(one) or one in _SCHEMA
        else:
            return self._may_run(action, one, two, database, inner)
        return apsw.SQLITE_OK if fits else apsw.SQLITE_DENY


class Statements:
    """What handlers run their statements with, for one transaction."""

    def __init__(self, own: SqlTables, connection: apsw.Connection, rows_max: int) -> None:
        self._own = own
        self._connection: apsw.Connection | None = connection
        self._rows_max = rows_max
        self._trouble: apsw.Error | None = None
        """What has failed for the file's sake."""
        self._lost = False
        """Whether a statement has rolled the transaction back."""

    def end(self) -> None:
        """Let nothing more be run."""
        self._connection = None

    def run(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with its `?` values; give its rows, if it gives any."""
        connection = self._connection
        if connection is None or self._lost:
            raise UsageError(
                "`sql` is used after the transaction that it was for: a handler runs its "
                "statements before it returns, and keeps nothing"
            )
        try:
            cursor = self._own.execute(connection, statement, values)
            rows: list[tuple[Any, ...]] = list(islice(cursor, self._rows_max + 1))
        except _FILE as error:
            self._trouble = error
            raise
        except UnicodeDecodeError as error:
            self._trouble = apsw.CorruptError(
                f"a text in a table of projection {self._own.projection} is no UTF-8; `projections "
                f"reset` folds it again"
            )
            raise self._trouble from error
        finally:
            self._lost = not connection.in_transaction
        if len(rows) > self._rows_max:
            cursor.close(True)
            raise UsageError(
                f"a statement of projection {self._own.projection} gives more than "
                f"{self._rows_max} rows (Limits.query_rows): add a LIMIT, or let SQL do it"
            )
        return rows

    def attempt(self, call: Callable[[], object]) -> Exception | None:
        """Run a call; give what it raised, with all that it had changed taken back."""
        connection = self._connection
        assert connection is not None, "nothing is tried after the transaction"
        run(connection, "SAVEPOINT event")
        raised: Exception | None = None
        try:
            call()
        except BaseException as error:
            raised = contained(error)
        if self._trouble is not None:
            # Also where the handler has caught it: nobody knows what is in the file.
            raise self._trouble
        if self._lost:
            raise RolledBack from raised
        if raised is not None:
            run(connection, "ROLLBACK TO event")
        run(connection, "RELEASE event")
        return raised
