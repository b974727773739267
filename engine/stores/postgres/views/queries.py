"""How queries read views in PostgreSQL: rows, counts and selects, each bounded.

Rules: a read runs in a transaction that only reads, on one link. What a statement of a user reads
is what it has locked when it was planned. An answer with more than `bytes_max` bytes is refused,
and never cut. This file opens no link and begins no transaction.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from ....errors import ProjectionUnserved, UsageError
from ....model.conditions import Filter
from ....model.projection import Dialect, TableDefinition
from ....model.rows import Scalar
from ...contract.views import Search, Selected, Selection
from ..failures import CANCELED, NO_TABLE, described_failure, sqlstate_of
from .link import Link, is_lost_line
from .marks import numbered_marks
from .names import quoted
from .pins import mentioned, pinned
from .tables import Statement, TableSql
from .values import bytes_of, values_of

__all__ = ["Known", "Reading", "TableReads", "Torn", "get_all", "get_one", "readable"]

T = TypeVar("T")

SAVED: Final = "SAVEPOINT answer"
BACK: Final = "ROLLBACK TO SAVEPOINT answer"
_STATEMENTS_MAX: Final = 1_000
"""Statements of users whose tables are remembered."""
_GIVES_ROWS: Final = re.compile(
    r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/|\()*(SELECT|WITH|VALUES|TABLE)\b",
    re.IGNORECASE | re.DOTALL,
)
_BOUNDED: Final = "SELECT * FROM (\n"
_WORDS: Final = re.compile(r"\w+")
_EXPLAINS: Final = re.compile(r"\s*(EXPLAIN|SHOW)\b", re.IGNORECASE)
_LOCKED: Final = (
    "SELECT DISTINCT c.relname::text, c.oid IS NULL OR (c.relkind = 'v' "
    "AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace) FROM pg_catalog.pg_locks AS l "
    "LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.relation "
    "WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'"
)

_SHOWN_SINCE: Final = (
    "WITH locked AS (SELECT DISTINCT l.relation AS oid FROM pg_catalog.pg_locks AS l "
    "JOIN pg_catalog.pg_database AS d ON d.oid = l.database "
    "WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' "
    "AND d.datname = pg_catalog.current_database()), "
    "shown AS (SELECT p.refobjid FROM pg_catalog.pg_depend AS p "
    "JOIN pg_catalog.pg_rewrite AS r ON r.oid = p.objid JOIN locked AS v ON v.oid = r.ev_class "
    "JOIN pg_catalog.pg_class AS w ON w.oid = v.oid AND w.relname <> ALL ($3::text[]) "
    "WHERE p.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass "
    "AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) "
    "SELECT 1 FROM locked AS l LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.oid "
    "LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.oid IS NULL OR (c.relkind = 'r' AND n.nspname = $1 "
    "AND c.relname ~ '_[0-9a-f]{8}_b[0-9]+$' AND c.relname <> ALL ($2::text[]) "
    "AND c.oid NOT IN (SELECT s.refobjid FROM shown AS s)) LIMIT 1"
)
"""A build's table that was read through a view which did not show it in the snapshot, or one that
is newer: catalogs are read as they were then. Of what is declared it is none but that which is
known to serve: a swap may be in the snapshot, and not known here yet."""
_GONE: Final = (
    "SELECT 1 FROM pg_catalog.unnest($1::text[]) AS real "
    "WHERE pg_catalog.to_regclass(real) IS NULL LIMIT 1"
)


class Torn(Exception):
    """The answer must be asked again, in another snapshot; the text says why."""


class Known(NamedTuple):
    """What is known of a statement of a user that has been run."""

    query: str
    """What is run for it."""
    marks: int
    """How many values it takes."""
    names: Sequence[str]
    """Which views it may mean."""
    tables: frozenset[str] = frozenset()
    """What it reads."""
    by_views: bool = True
    """Whether it may read through a view, which others may let show another table."""


class Reading(msgspec.Struct, frozen=True):
    """What a read runs on, and what the tables that serve are called there."""

    link: Link
    tables: Mapping[str, TableSql]
    """By the name that is declared."""
    reals: Mapping[str, str]
    """Names that are declared, by real ones, of all tables that serve."""
    bytes_max: int
    known: dict[str, Known]
    """What is known of statements of users."""
    schema: str
    """Where the tables are."""
    in_sql: Set[str]
    """Names of declared tables that are made in SQL: all of their columns are shown."""
    positions: Mapping[str, int] | None = None
    """How far each projection is in the snapshot, where that was looked for."""

    def table(self, definition: TableDefinition) -> TableSql:
        """Give the SQL of a table; raise ProjectionUnserved where it does not serve."""
        found = self.tables.get(definition.name)
        if found is None:
            raise ProjectionUnserved(definition.projection)
        return found


class TableReads:
    """The reads that `ViewsSource` promises, over whatever runs them."""

    dialect: Dialect = "postgresql"
    """Whose SQL it takes."""

    async def _run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `call(reading, *args)` where views are read."""
        raise NotImplementedError

    async def get(self, table: TableDefinition, key: Scalar) -> Any:
        """Give the row with a key, or None."""
        return await self._run(get_one, table, key)

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


async def get_one(reading: Reading, table: TableDefinition, key: Scalar) -> Any:
    """Give the row with a key, or None."""
    sql = reading.table(table)
    rows = await _rows(reading, sql, sql.get(key))
    return rows[0] if rows else None


async def get_all(reading: Reading, wanted: Sequence[tuple[TableDefinition, Scalar]]) -> list[Any]:
    """Give for each key what `get_one` would give, or raise: by one statement for each table."""
    found: list[Any] = [None] * len(wanted)
    places: dict[str, list[int]] = {}
    for place, (table, _) in enumerate(wanted):
        places.setdefault(table.name, []).append(place)
    for own in places.values():
        table = wanted[own[0]][0]
        rows: Mapping[Scalar, Any] = {}
        sql = reading.tables.get(table.name)
        if sql is not None:
            query, values = sql.fetch([*dict.fromkeys(wanted[place][1] for place in own)])
            key_place = table.shape.key_place
            rows = {row[key_place]: row for row in await reading.link.run(query, *values)}
        for place in own:
            try:
                found[place] = _built(reading, table, rows.get(wanted[place][1]))
            except Exception as error:  # of this row alone
                found[place] = error
    return found


def _built(reading: Reading, table: TableDefinition, row: Any) -> Any:
    sql = reading.table(table)
    if row is None:
        return None
    if bytes_of([row], sql.measured) > reading.bytes_max:
        raise _too_large(table.name, reading.bytes_max)
    return table.shape.build(row)


async def _find(reading: Reading, table: TableDefinition, selection: Selection) -> list[Any]:
    sql = reading.table(table)
    return await _rows(reading, sql, sql.find(selection))


async def _search(reading: Reading, table: TableDefinition, search: Search) -> list[Any]:
    sql = reading.table(table)
    statement = sql.search(search)
    return [] if statement is None else await _rows(reading, sql, statement)


async def _count(reading: Reading, table: TableDefinition, where: Sequence[Filter]) -> int:
    query, values = reading.table(table).count(where)
    return int((await reading.link.run(query, *values))[0][0])


async def _rows(reading: Reading, sql: TableSql, statement: Statement) -> list[Any]:
    query, values = statement
    rows = await reading.link.run(query, *values)
    if bytes_of(rows, sql.measured) > reading.bytes_max:
        raise _too_large(sql.definition.name, reading.bytes_max)
    build = sql.definition.shape.build
    return [build(row) for row in rows]


def _too_large(what: str, bytes_max: int) -> UsageError:
    return UsageError(
        f"what is read of {what} at once has more than {bytes_max} bytes (Limits.query_bytes): "
        f"read it in smaller pages, with `limit=` and `after=`, or raise the limit"
    )


async def _select(
    reading: Reading, statement: str, parameters: Sequence[Scalar], rows_max: int
) -> Selected:
    """Run a user's statement; give the names of its columns, its rows, and what it reads."""
    known = reading.known.get(statement)
    before = frozenset[str]() if known is not None else (await _locked(reading))[0]
    try:
        told = _told(reading, statement, rows_max) if known is None else known
        if told.marks != len(parameters):
            raise UsageError(
                f"a statement in views.sql has {told.marks} marks `?`, and was given "
                f"{len(parameters)} values"
            )
        names, found = await reading.link.ask(_pinned(reading, told), parameters)
        rows = values_of(found)
    except Exception as error:
        if is_lost_line(error) or sqlstate_of(error) == CANCELED:
            raise
        reading.link.forget()
        await reading.link.do(BACK)
        if isinstance(error, ValueError):
            why = f"a value is of another type than its mark takes ({type(error).__name__})"
        elif sqlstate_of(error):
            why = described_failure(error)
            if sqlstate_of(error) == NO_TABLE and await _lacks(reading, statement):
                raise Torn(
                    f"a build that views.sql was to read was dropped meanwhile: {why}"
                ) from error
        else:
            raise
        raise UsageError(f"views.sql cannot run this statement: {why}") from error
    if len(rows) > rows_max:
        raise UsageError(
            f"views.sql gives more than {rows_max} rows (Limits.query_rows): add a LIMIT"
        )
    if bytes_of(rows, range(len(names))) > reading.bytes_max:
        raise _too_large("a statement in views.sql", reading.bytes_max)
    tables, by_views = (known.tables, known.by_views) if known else await _locked(reading)
    meant = [*reading.reals, *_WORDS.findall(statement)]
    own = [*reading.tables, *reading.in_sql]
    if by_views and await reading.link.run(_SHOWN_SINCE, reading.schema, meant, own):
        raise Torn("a view that views.sql has read shows another build by now")
    # Where others of its answer had locked some, it may be said to read these too.
    if known is None and not before:
        if len(reading.known) >= _STATEMENTS_MAX:
            reading.known.clear()
        reading.known[statement] = told._replace(tables=tables, by_views=by_views)
    return Selected(names, rows, tables)


async def _lacks(reading: Reading, statement: str) -> bool:
    """Tell whether a table that a statement may mean is there no more, but for its snapshot."""
    names = {*mentioned(statement, frozenset(reading.reals.values()))}
    reals = [
        f"{quoted(reading.schema)}.{quoted(real)}"
        for real, name in reading.reals.items()
        if name in names
    ]
    return bool(await reading.link.run(_GONE, reals))


def _told(reading: Reading, statement: str, rows_max: int) -> Known:
    query, count = readable(statement, rows_max)
    views = frozenset(reading.reals.values()) if query.startswith(_BOUNDED) else frozenset[str]()
    return Known(query, count, mentioned(statement, views))


def _pinned(reading: Reading, told: Known) -> str:
    """Give what is run, over the tables of the snapshot."""
    if not told.names:
        return told.query
    in_sql = {name: real for real, name in reading.reals.items() if name in reading.in_sql}
    return pinned(told.query, told.names, reading.schema, reading.tables, in_sql)


def readable(statement: str, rows_max: int) -> tuple[str, int]:
    """Give what is run for a user's statement, and how many values it takes."""
    query, count = numbered_marks(statement)
    if _GIVES_ROWS.match(statement):
        # Bounded by the server, which else sends all that there is.
        query = query.rstrip().rstrip(";")
        return f"{_BOUNDED}{query}\n) AS answer LIMIT {rows_max + 1}", count
    if not _EXPLAINS.match(statement):
        raise UsageError("this is no statement that gives rows: SELECT, WITH, VALUES")
    return query, count


async def _locked(reading: Reading) -> tuple[frozenset[str], bool]:
    """Give the views' own tables that the transaction has read so far, as they are declared.

    And whether it has read any view of the server's.
    """
    locked = await reading.link.run(_LOCKED)
    own = frozenset(reading.reals[name] for name, _ in locked if name in reading.reals)
    return own, any(is_view for _, is_view in locked)
