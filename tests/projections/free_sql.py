"""A projection whose handler is what a test makes it, in SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine import (
    Engine,
    Meta,
    Projection,
    Query,
    Row,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    projects,
)
from tests.support.counters import Added, Counter

HANDLE: list[Callable[[Added, Meta, Sql], object]] = []
"""What the handler of `Free` does."""


SEEN: list[Any] = []


class Other(Row, key="id"):
    id: str


class Others(Projection, name="others", version=1):
    rows: Table[Other]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Other(meta.id))


class Free(SqlProjection, name="free", version=1):
    tables = {
        "rows": "CREATE TABLE {rows} (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 1000))",
        "notes": ("CREATE TABLE {notes} (n INTEGER)", "CREATE INDEX {notes:by_n} ON {notes} (n)"),
    }

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        sql.run("INSERT INTO {notes} VALUES (?)", (meta.position,))
        HANDLE[0](event, meta, sql)


class Notes(Query[list[tuple[Any, ...]]]):
    pass


class Rows(Query[list[tuple[Any, ...]]]):
    pass


@answers
async def notes(query: Notes, views: Views) -> list[tuple[Any, ...]]:
    return await views.sql("SELECT n FROM free_notes ORDER BY n")


@answers
async def rows(query: Rows, views: Views) -> list[tuple[Any, ...]]:
    return await views.sql("SELECT * FROM free_rows ORDER BY id")


def free(store: str, projection: type[Projection] = Free, **options: Any) -> Engine:
    projections = [projection, Others]
    return Engine([Counter], projections=projections, answers=[notes, rows], store=store, **options)
