"""Views in memory are read where they are written: no read keeps the thread of both for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import (
    Engine,
    InvalidInput,
    Limits,
    Meta,
    Projection,
    Query,
    Row,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from tests.support.counters import Add, Added, Counter

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


class Entry(Row, key="n"):
    n: int
    share: float


class Entries(Projection, name="entries", version=1):
    rows: Table[Entry]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Entry(meta.position, event.amount / 2))


class Ask(Query[list[Any]]):
    statement: str


class Count(Query[int]):
    pass


class Page(Query[int]):
    pass


ASKED: dict[str, Any] = {}


@answers
async def ask(query: Ask, views: Views) -> list[Any]:
    return list(await views.sql(query.statement, ASKED.get("parameters", ())))


@answers
async def count(query: Count, views: Views) -> int:
    return await views.count(Entries.rows)


@answers
async def page(query: Page, views: Views) -> int:
    return len(await views.find(Entries.rows, **ASKED))


def engine_of(**limits: int) -> Engine:
    return Engine(
        [Counter], projections=[Entries], answers=[ask, count, page], limits=Limits(**limits)
    )


async def test_an_endless_statement_ends_when_its_caller_has_gone() -> None:
    async with engine_of() as engine, asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.query(Ask(ENDLESS)), 0.05)

        receipt = await engine.execute(Add("a", 1))

        assert await engine.query(Count(), at=receipt) == 1


async def test_an_endless_statement_has_as_long_as_one_state_may_be_read() -> None:
    async with engine_of(state_seconds=1) as engine, asyncio.timeout(20):
        with pytest.raises(TimeoutError, match=r"longer than 1 s \(Limits.state_seconds\)"):
            await engine.query(Ask(ENDLESS))

        receipt = await engine.execute(Add("a", 1))

        assert await engine.query(Count(), at=receipt) == 1


@pytest.mark.parametrize("statement", ["SELECT zeroblob(5000)", "SELECT hex(randomblob(900))"])
async def test_a_value_that_a_statement_makes_is_bounded_before_it_is_made(statement: str) -> None:
    async with engine_of(query_bytes=1_000) as engine:
        with pytest.raises(UsageError, match="query_bytes"):
            await engine.query(Ask(statement))

        await engine.execute(Add("a", 1))  # and the bound is taken back where rows are written


@pytest.mark.parametrize(
    "parameters",
    ["text", b"bytes", {"n": 1}, 7, None, [2**63], [-(2**63) - 1], ["half \udcff"]],
    ids=["text", "bytes", "dict", "int", "None", "large", "small", "half"],
)
async def test_parameters_that_sql_cannot_have_are_refused_by_name(parameters: Any) -> None:
    async with engine_of() as engine:
        ASKED["parameters"] = parameters
        try:
            with pytest.raises(InvalidInput, match="parameter"):
                await engine.query(Ask("SELECT ?"))
        finally:
            ASKED.clear()


@pytest.mark.parametrize(
    "given",
    [
        {"limit": 1.5},
        {"limit": "3"},
        {"offset": 2**63},
        {"offset": None},
        {"offset": 0.5},
    ],
    ids=str,
)
async def test_a_page_of_another_kind_than_a_number_is_refused(given: dict[str, Any]) -> None:
    async with engine_of() as engine:
        ASKED.update(given)
        try:
            with pytest.raises(InvalidInput, match=r"limit|offset"):
                await engine.query(Page())
        finally:
            ASKED.clear()


async def test_a_number_beyond_all_floats_is_no_value_of_a_field() -> None:
    async with engine_of() as engine:
        ASKED["where"] = {"share": 10**400}
        try:
            with pytest.raises(InvalidInput, match="beyond what a float holds"):
                await engine.query(Page())
        finally:
            ASKED.clear()
