"""A projection in SQL of its own: it says how its tables are made, and its handlers run statements.

Rules: a table is named in braces, `{rows}`, wherever a statement names it, since each build of the
projection has tables of its own; what belongs to a table has its name and a word, `{rows:by_score}`
(an index, a trigger). Values are bound with `?` and never written into a statement. A handler runs
inside the transaction that moves the checkpoint, where views are written, and reads and writes the
projection's own tables only. It says whose SQL it is written in; where it waits for the server, it
is async. This file knows no store, and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeVar

import msgspec

from ..errors import DefinitionError, UsageError
from .projection import Projection, ProjectionDefinition, SqlTable, read_handlers, sql_name
from .rows import Scalar

__all__ = ["AsyncSql", "RolledBack", "Sql", "SqlProjection", "SqlSession", "with_names"]

T = TypeVar("T")

_PLACE: Final = re.compile(r"\{([A-Za-z_]\w*)(:\w+)?\}")
_ATTRIBUTE: Final = re.compile(r"[a-z_][a-z0-9_]*")
_TABLE: Final = r"\s*CREATE\s+(VIRTUAL\s+)?TABLE\s+\{%s\}"
_FURTHER: Final = (
    r"\s*(CREATE\s+(UNIQUE\s+)?INDEX\s+\{%s:\w+\}|CREATE\s+TRIGGER\s+\{%s:\w+\}"
    r"|INSERT\s+INTO\s+\{%s\})"
)


class Sql(Protocol):
    """SQL inside the transaction that moves the projection's checkpoint."""

    def run(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Run one `statement` with its `?` `values`; give its rows, if it gives any.

        Tables are named in braces: `sql.run("DELETE FROM {rows} WHERE id = ?", (id,))`. Raises
        UsageError for a table that is not the projection's and for more rows than
        `Limits.query_rows`, and what SQLite says where it refuses the statement.
        """
        ...


class AsyncSql(Protocol):
    """The same for a handler that is `async def`, which every store can run."""

    async def run(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Run one `statement` with its `?` `values`; give its rows, as `Sql.run` does."""
        ...


class SqlSession(AsyncSql, Protocol):
    """What whoever runs handlers has of a transaction."""

    @property
    def plain(self) -> Sql:
        """The same for a handler that is not async; raises UsageError where there is none."""
        ...

    async def attempt(self, call: Callable[[], Awaitable[None] | None]) -> Exception | None:
        """Run a call, and what it gives; give what was raised, with all of it taken back.

        Raises RolledBack where the call has ended the transaction, and whatever the storage raises.
        """
        ...


class RolledBack(Exception):
    """A handler's statement has rolled the whole transaction back; why is in `__cause__`."""


class SqlProjection(Projection):
    """Base of projections in SQL: `class Ranking(SqlProjection, name="ranking", version=1)`.

    `tables` says by name how each table is made: the statement `CREATE TABLE {name} (...)`, or a
    sequence of it and those for its indexes and triggers, `CREATE INDEX {name:by_score} ON ...`.
    Handlers take the open transaction: `@projects def scored(self, event: Scored, sql: Sql)`, or
    `(self, event, meta, sql)`. Queries read the plain name, `ranking_rows`, through `views.sql`,
    and see the build that serves. It has one slice, since rows of SQL have no owner.

    Without `dialect` its SQL is SQLite's. For views in PostgreSQL write `dialect="postgresql"` and
    handlers that are async: `async def scored(self, event: Scored, sql: AsyncSql)`, with
    `await sql.run(...)`. They wait for nothing else. SQL that both understand says so, as
    `dialect=("sqlite", "postgresql")`, and such handlers run on both.
    """

    tables: ClassVar[Mapping[str, str | Sequence[str]]] = {}

    @classmethod
    def __read__(
        cls, definition: ProjectionDefinition, namespace: Mapping[str, Any]
    ) -> ProjectionDefinition:
        """Complete what is known of a subclass; raise DefinitionError for what does not fit."""
        where = cls.__qualname__
        if cls.__init__ is not object.__init__:
            raise DefinitionError(
                f"projection {where} has an __init__: a projection keeps everything in its tables; "
                f"drop it"
            )
        if definition.slices != 1:
            raise DefinitionError(
                f"projection {where} has slices={definition.slices}: nobody can tell to which "
                f"slice a row of SQL belongs, so a SqlProjection has one. Drop `slices`, declare "
                f"several projections of fewer events each, or use `Table` rows"
            )
        tables = {
            attribute: _table(cls, definition.name, attribute, made)
            for attribute, made in cls.tables.items()
        }
        if not tables:
            raise DefinitionError(
                f'projection {where} has no table: declare `tables = {{"rows": "CREATE TABLE '
                f'{{rows}} (...)"}}`'
            )
        _check_places(where, tables)
        handlers = read_handlers(cls, namespace, {False: Sql, True: AsyncSql})
        dialects = definition.dialects or ("sqlite",)
        for handler in handlers.values():
            if not handler.is_async and dialects != ("sqlite",):
                raise DefinitionError(
                    f"{handler.function.__qualname__} is a plain `def`, and its SQL runs on a "
                    f"server, which is waited for: write `async def`, take `sql: AsyncSql`, and "
                    f"`await sql.run(...)`"
                )
            if handler.keys is not None:
                raise DefinitionError(
                    f"{handler.function.__qualname__} gives `keys`, for which SQL has no use: "
                    f"write `@projects` alone"
                )
        return msgspec.structs.replace(
            definition,
            dialects=dialects,
            sql_tables=tables,
            handlers=handlers,
            event_names=frozenset(event.event_name for event in handlers),
        )


def with_names(
    statement: str,
    names: Mapping[str, str],
    further: Callable[[str, str], str] = "{}:{}".format,
) -> str:
    """Put the real names of tables, quoted, where a statement has them in braces.

    What belongs to a table is called what `further` gives for the table and its word. Raises
    UsageError for a name that is no table's.
    """

    def name(found: re.Match[str]) -> str:
        real = names.get(found[1])
        if real is None:
            raise UsageError(
                f"{found[0]} names no table of this projection, which has {sorted(names)}: what is "
                f"no table is bound as a value, with `?`"
            )
        return f'"{further(real, found[2][1:]) if found[2] else real}"'

    return _PLACE.sub(name, statement)


def _table(cls: type[Projection], name: str, attribute: str, made: Any) -> SqlTable:
    where = f"{cls.__qualname__}.tables[{attribute!r}]"
    if not _ATTRIBUTE.fullmatch(attribute):
        raise DefinitionError(f"{where}: a table is named in small letters, digits and underscores")
    statements = (made,) if isinstance(made, str) else tuple(made)
    first, further = _TABLE % attribute, _FURTHER % ((attribute,) * 3)
    if not statements or not re.match(first, str(statements[0]), re.IGNORECASE):
        raise DefinitionError(
            f"{where} does not begin with the statement that makes it: write `CREATE TABLE "
            f"{{{attribute}}} (...)`"
        )
    for statement in statements[1:]:
        if not re.match(further, statement, re.IGNORECASE):
            raise DefinitionError(
                f"{where} has a further statement that is none of `CREATE INDEX "
                f"{{{attribute}:word}} ON ...`, `CREATE TRIGGER {{{attribute}:word}} ...` and "
                f"`INSERT INTO {{{attribute}}} ...`: {statement.strip()[:40]!r}"
            )
    return SqlTable(attribute, sql_name(cls, name, attribute), statements)


def _check_places(where: str, tables: Mapping[str, SqlTable]) -> None:
    for table in tables.values():
        for statement in table.statements:
            try:
                with_names(statement, dict.fromkeys(tables, ""))
            except UsageError as error:
                raise DefinitionError(f"{where}.tables[{table.attribute!r}]: {error}") from None
