"""In PostgreSQL an answer reads one build, whatever comes to serve while it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine import (
    AsyncSql,
    Engine,
    Meta,
    Onlooker,
    Ports,
    Projection,
    Query,
    SqlProjection,
    Views,
    answers,
    projects,
)
from engine.stores.postgres.views.catalog import Catalog
from engine.stores.postgres.views.pins import mentioned
from tests.queries.ledger import BETWEEN, Ledger, Mirror, Twice, add, total_now, twice
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server
from tests.support.postgres import asked as on_server
from tests.support.waiting import until


class Sums(SqlProjection, name="sums", version=1, dialect="postgresql"):
    tables = {"rows": ("CREATE TABLE {rows} (id text PRIMARY KEY, sum bigint NOT NULL)",)}

    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        await sql.run(
            "INSERT INTO {rows} AS old VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET sum = old.sum + excluded.sum",
            (meta.id, event.amount),
        )


class SumTwice(Query[tuple[Any, Any]]):
    """Reads by the plain name, twice."""


@answers
async def sum_twice(query: SumTwice, views: Views) -> tuple[Any, Any]:
    read = "SELECT coalesce(sum(s.sum), 0)::bigint FROM Sums_rows AS s -- not in 'ledger_rows'"
    first = await views.sql(read)
    for call in BETWEEN:
        await call()
    return first[0][0], (await views.sql(read))[0][0]


ANSWERS: list[Callable[..., Any]] = [twice, total_now, sum_twice]
PROJECTIONS: list[type[Projection]] = [Ledger, Mirror, Sums]


@pytest.mark.parametrize("from_outside", [False, True])
async def test_no_statement_reads_the_tables_that_came_to_serve_meanwhile(
    postgres: Server, from_outside: bool
) -> None:
    store = postgres.url(postgres.new_schema())
    async with (
        Engine([Counter], projections=PROJECTIONS, answers=ANSWERS, store=store) as engine,
        Onlooker(projections=PROJECTIONS, answers=ANSWERS, store=store) as onlooker,
    ):
        await add(engine, 1)
        asked = onlooker if from_outside else engine

        async def rebuild() -> None:
            for name in ("ledger", "sums"):
                await engine.projections.rebuild(name)
                await until(
                    lambda: not any(p.building for p in engine.statistics().projectors.values())
                )

        assert await asked.query(SumTwice()) == (1, 1)
        BETWEEN.append(rebuild)
        for first, second in (("find", "sql"), ("sql", "get"), ("sql", "sql")):
            assert await asked.query(Twice(first, second)) == (1, 1)
        assert await asked.query(SumTwice()) == (1, 1)


@pytest.mark.parametrize("second", ["sql", "find"])
async def test_who_looks_on_is_answered_though_what_he_was_to_read_was_dropped_meanwhile(
    postgres: Server, second: str
) -> None:
    store = postgres.url(postgres.new_schema())
    async with (
        Engine([Counter], projections=PROJECTIONS, answers=ANSWERS, store=store) as engine,
        Onlooker(projections=PROJECTIONS, answers=ANSWERS, store=store) as onlooker,
    ):
        await add(engine, 1)
        dropped: list[int] = []

        async def rebuild() -> None:
            if not dropped:
                await engine.projections.rebuild("ledger")
                await until(lambda: not engine.statistics().projectors["ledger"].building)
                dropped.extend(b.number for b in await engine.projections.drop("ledger"))

        BETWEEN.append(rebuild)
        assert await onlooker.query(Twice("other", second)) == (1, 1)
        assert len(dropped) == 1


class Around(Query[tuple[Any, Any]]):
    """Reads by the plain name, and then past it: with its schema before it, or by a view."""

    table: str


@answers
async def around(query: Around, views: Views) -> tuple[Any, Any]:
    first = await views.sql("SELECT coalesce(sum(sum), 0)::bigint FROM sums_rows")
    for call in BETWEEN:
        await call()
    read = f"SELECT coalesce(sum(sum), 0)::bigint FROM {query.table}"
    return first[0][0], (await views.sql(read))[0][0]


@pytest.mark.parametrize("from_outside", [False, True])
async def test_an_answer_that_reads_what_came_to_serve_meanwhile_is_asked_again(
    postgres: Server, from_outside: bool
) -> None:
    schema = postgres.new_schema()
    store, given = postgres.url(schema), [*ANSWERS, around]
    async with (
        Engine([Counter], projections=PROJECTIONS, answers=given, store=store) as engine,
        Onlooker(projections=PROJECTIONS, answers=given, store=store) as onlooker,
    ):
        await add(engine, 1)
        asked = onlooker if from_outside else engine
        where = "viewname = 'sums_rows' AND schemaname LIKE $1"
        found = await on_server(
            postgres, f"SELECT schemaname FROM pg_views WHERE {where}", f"{schema}%"
        )
        plain = f'"{found[0][0]}".sums_rows'
        await on_server(postgres, f'CREATE VIEW "{found[0][0]}".mine AS SELECT sum FROM {plain}')
        times: list[int] = []

        async def rebuild() -> None:
            times.append(1)
            if len(times) == 1:
                await engine.projections.rebuild("sums")
                await until(lambda: not engine.statistics().projectors["sums"].building)

        BETWEEN.append(rebuild)
        for table in (plain, "mine", plain, "mine"):  # twice: then what it reads is known
            times.clear()
            assert await asked.query(Around(table)) == (1, 1)
            assert len(times) == 2


async def test_an_answer_that_begins_as_a_build_comes_to_serve_is_asked_again(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap is in its snapshot, and the engine, which made it, does not know that yet."""
    schema = postgres.new_schema()
    swapped, known, know = asyncio.Event(), asyncio.Event(), Catalog._know
    begins: list[int] = []

    def reached(name: str) -> None:
        if name == "views.swapped":
            swapped.set()

    async def know_later(self: Catalog, *args: Any) -> None:
        if swapped.is_set():
            await known.wait()
        await know(self, *args)

    async def let_it_know() -> None:
        begins.append(1)
        known.set()
        await until(lambda: not engine.statistics().projectors["sums"].building)

    monkeypatch.setattr(Catalog, "_know", know_later)
    ports, store = Ports(failpoint=reached), postgres.url(schema)
    engine = Engine([Counter], projections=[Sums], answers=[around], store=store, ports=ports)
    async with engine:
        await engine.query(Around("sums_rows"), at=await engine.execute(Add("a", 1)))
        await engine.projections.rebuild("sums")
        await swapped.wait()
        BETWEEN.append(let_it_know)
        assert await engine.query(Around(f'"{schema}_views".sums_rows')) == (1, 1)
        assert len(begins) == 2


def test_which_names_a_statement_may_mean() -> None:
    names = {"a_rows", "a_Rows2", "rows"}
    assert mentioned('SELECT * FROM "a_Rows2", A_ROWS', names) == ["a_Rows2", "a_rows"]
    assert mentioned("SELECT 1 FROM a_rows_b1", names) == []
