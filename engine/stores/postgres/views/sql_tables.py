"""Tables that a projection makes by SQL of its own, and the statements of its handlers.

Rules: a statement reads or writes rows, of the tables of the one build that it is for and of no
others: when it has run for the first time, what it has locked is looked at. A statement that fails
has spoilt its event, whatever the handler makes of it. A batch is first run without savepoints;
where an event fails, all is taken back, and each event has its own. Everything here runs inside the
caller's transaction.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from ....errors import DefinitionError, UsageError
from ....model.projection import ProjectionDefinition
from ....model.rows import Scalar
from ....model.sql_projection import Sql, with_names
from ....runtime.contained import contained
from ..failures import described_failure, is_nobodys_fault, sqlstate_of
from .link import Link, Place, is_lost_line
from .marks import numbered_marks
from .names import name_of_further
from .values import values_of

__all__ = ["Again", "GivesNothing", "OwnTables", "Session", "check_dialect", "make_own"]

STATEMENTS_MAX: Final = 1_000
"""Texts that are known at a time; they are few unless values are written into them."""

_MOVES_ROWS: Final = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b",
    re.IGNORECASE | re.DOTALL,
)
_TOUCHED: Final = (
    "SELECT DISTINCT c.relname::text FROM pg_catalog.pg_locks AS l "
    "JOIN pg_catalog.pg_class AS c ON c.oid = l.relation "
    "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid "
    "WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' "
    "AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND i.indrelid IS NULL"
)
"""What the transaction has touched so far: a statement locks all that it reads or writes."""


async def make_own(
    link: Link, place: Place, definition: ProjectionDefinition, names: Mapping[str, str]
) -> None:
    """Make the tables of a build, empty; raise DefinitionError where a statement does not do."""
    if not definition.sql_tables:
        return
    await link.do(f'SET LOCAL search_path TO "{place.schema}"')
    for table in definition.sql_tables.values():
        for statement in table.statements:
            try:
                await link.do(with_names(statement, names, name_of_further))
            except Exception as error:
                if is_lost_line(error) or not sqlstate_of(error):
                    raise
                raise DefinitionError(
                    f"{definition.cls.__qualname__}.tables[{table.attribute!r}] has a statement "
                    f"that cannot be run: {described_failure(error)}. It makes tables that are "
                    f"named in braces, and what belongs to them: {statement.strip()[:60]!r}"
                ) from error


def check_dialect(definition: ProjectionDefinition) -> None:
    """Raise DefinitionError for a projection whose SQL is not written for PostgreSQL."""
    if definition.dialects and "postgresql" not in definition.dialects:
        raise DefinitionError(
            f"projection {definition.name!r} is written in the SQL of "
            f"{' and '.join(definition.dialects)}, and these views are in PostgreSQL: say "
            f'dialect="postgresql" where its SQL is that, with handlers that are async'
        )


class GivesNothing(Exception):
    """A call has given no changes, so nothing that it has run may stay."""


class Again(Exception):
    """An event has failed: everything is taken back, and run with a savepoint for each event."""


class OwnTables:
    """The tables of one build, and the statements that are known to keep to them."""

    def __init__(self, projection: str, names: Mapping[str, str]) -> None:
        """Take what they are called, by attribute."""
        self.projection = projection
        self._names = names
        self._reals = frozenset(names.values())
        self._texts: dict[str, tuple[str, int]] = {}
        """By what a handler wrote: what is run, and how many values it takes."""

    async def run(self, link: Link, statement: str, values: Sequence[Scalar]) -> list[Any]:
        """Run a statement; give its rows."""
        known = self._texts.get(statement)
        is_new = known is None
        if known is None:
            if not _MOVES_ROWS.match(statement):
                raise self._refused("this statement does neither read nor write rows")
            known = numbered_marks(with_names(statement, self._names, name_of_further))
        text, count = known
        if len(values) != count:
            raise UsageError(
                f"a statement of projection {self.projection} has {count} marks `?`, and was "
                f"given {len(values)} values"
            )
        rows = await link.run(text, *values)
        if is_new:
            await self._look(link)
            if len(self._texts) >= STATEMENTS_MAX:
                self._texts.clear()
            self._texts[statement] = known
        return values_of(rows)

    async def _look(self, link: Link) -> None:
        """Raise UsageError where the transaction touches what is not of this build."""
        touched = {name for (name,) in await link.run(_TOUCHED)}
        others = touched - self._reals
        if others:
            raise self._refused(f"this one touches {sorted(others)}")

    def _refused(self, why: str) -> UsageError:
        return UsageError(
            f"a handler of projection {self.projection} reads and writes its own tables, named in "
            f"braces as in {sorted(self._names)}, and nothing else: {why}"
        )


class Session:
    """What handlers run their statements with, for one transaction."""

    def __init__(self, own: OwnTables, link: Link, rows_max: int, *, careful: bool) -> None:
        """Take what it is for; `careful` gives each event a savepoint."""
        self._own = own
        self._link: Link | None = link
        self._rows_max = rows_max
        self._careful = careful
        self._spoilt: Exception | None = None
        """Why the transaction takes no further statement, until it goes back to a savepoint."""
        self._trouble: Exception | None = None
        """What has failed for the sake of the connection, of room, or of what others hold."""

    def end(self) -> None:
        """Let nothing more be run."""
        self._link = None

    @property
    def plain(self) -> Sql:
        """Refuse: a handler that does not wait cannot run statements on a server."""
        raise UsageError(
            f"the handlers of projection {self._own.projection} are `def`, and its tables are in "
            f"PostgreSQL: write `async def`, and `await sql.run(...)`"
        )

    async def run(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with its `?` values; give its rows, if it gives any."""
        link = self._link
        if link is None:
            raise UsageError(
                "`sql` is used after the transaction that it was for: a handler runs its "
                "statements before it returns, and keeps nothing"
            )
        if self._trouble is not None:
            raise self._trouble
        if self._spoilt is not None:
            raise UsageError(
                f"a statement of projection {self._own.projection} has failed before, and its "
                f"event with it: nothing more is run for it"
            ) from self._spoilt
        try:
            rows: list[tuple[Any, ...]] = await self._own.run(link, statement, values)
        except Exception as error:
            if is_nobodys_fault(error):
                self._trouble = error
            else:
                self._spoilt = error
            raise
        if len(rows) > self._rows_max:
            raise UsageError(
                f"a statement of projection {self._own.projection} gives more than "
                f"{self._rows_max} rows (Limits.query_rows): add a LIMIT, or let SQL do it"
            )
        return rows

    async def attempt(self, call: Callable[[], Awaitable[None] | None]) -> Exception | None:
        """Run a call; give what it raised, with all that it had changed taken back."""
        link = self._link
        assert link is not None, "nothing is tried after the transaction"
        if self._careful:
            await link.do("SAVEPOINT event")
        raised: Exception | None = None
        try:
            waits = call()
            if waits is not None:
                await waits
        except BaseException as error:
            raised = contained(error)
        if self._trouble is not None:
            # Also where the handler has caught it: nobody knows what is in the transaction.
            raise self._trouble
        raised = raised or self._spoilt
        if raised is not None and not self._careful:
            raise Again
        if raised is not None:
            await link.do("ROLLBACK TO SAVEPOINT event")
        if self._careful:
            await link.do("RELEASE SAVEPOINT event")
        self._spoilt = None
        return raised
