"""A past of views in PostgreSQL is folded in SQLite, and runs no SQL of the other there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import (
    Archive,
    AsyncSql,
    DefinitionError,
    Engine,
    Meta,
    Projection,
    Query,
    Receipt,
    Row,
    SqlProjection,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server


class NameRow(Row, key="name"):
    name: str


class Names(Projection, name="names", version=1):
    rows: Table[NameRow]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(NameRow(meta.id))


class _Sums(SqlProjection, name="unread-sums", version=1):
    tables = {"rows": "CREATE TABLE {rows} (name TEXT PRIMARY KEY, n BIGINT)"}

    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        await sql.run("INSERT INTO {rows} VALUES (?, 1) ON CONFLICT DO NOTHING", (meta.id,))


class Sums(_Sums, name="sums", version=1, dialect="postgresql"):
    pass


class SumsOfBoth(_Sums, name="both", version=1, dialect=("sqlite", "postgresql")):
    pass


class Like(Query[int]):
    pass


class Found(Query[int]):
    pass


class Meant(Query[int]):
    """It means the same in both."""


@answers
async def like(query: Like, views: Views) -> int:
    return int((await views.sql("SELECT count(*) FROM names_rows WHERE name LIKE 'ann'"))[0][0])


@answers
async def found(query: Found, views: Views) -> int:
    return await views.count(Names.rows, where={"name": "ANN"})


@answers(dialect=("sqlite", "postgresql"))
async def meant(query: Meant, views: Views) -> int:
    return int(
        (await views.sql("SELECT count(*) FROM names_rows JOIN both_rows USING (name)"))[0][0]
    )


ANSWERS: list[Callable[..., Any]] = [like, found, meant]


async def asked(of: Any, receipt: Receipt, *projections: type[Projection]) -> tuple[int, int]:
    """Give what a past answers that may; what may not is refused."""
    async with of.past(position=receipt, projections=projections or None) as past:
        with pytest.raises(UsageError, match="the answer to Like runs a statement"):
            await past.query(Like())
        return await past.query(Found()), await past.query(Meant())


async def test_an_answer_in_the_sql_of_postgresql_is_refused_in_a_past(postgres: Server) -> None:
    store = postgres.url(postgres.new_schema())
    projections: list[type[Projection]] = [Names, Sums, SumsOfBoth]
    async with Engine([Counter], projections=projections, answers=ANSWERS, store=store) as engine:
        receipt = await engine.execute(Add("ANN", 1))
        assert await engine.query(Like(), at=receipt) == 0  # in SQLite it would be 1
        assert await asked(engine, receipt) == (1, 1)
        assert await asked(engine, receipt, Names, SumsOfBoth) == (1, 1)
        with pytest.raises(UsageError, match="'sums' is written in the SQL of PostgreSQL"):
            engine.past(position=receipt, projections=[Sums])
    async with Archive([Counter], projections=projections, answers=ANSWERS, store=store) as archive:
        assert await asked(archive, receipt) == (1, 1)


async def test_views_in_a_file_beside_such_a_log_have_the_sql_of_the_file(
    postgres: Server,
) -> None:
    store = postgres.url(postgres.new_schema())
    async with Engine(
        [Counter], projections=[Names], answers=[like], store=store, views="memory:"
    ) as engine:
        receipt = await engine.execute(Add("ANN", 1))
        assert await engine.query(Like(), at=receipt) == 1
        async with engine.past(position=receipt) as past:
            assert await past.query(Like()) == 1


def test_a_dialect_that_nobody_knows_is_refused() -> None:
    other: Any = "oracle"
    with pytest.raises(DefinitionError, match="an answer has dialect='oracle'"):
        answers(dialect=other)
