"""An onlooker on tallies, its engine, and what somebody does to the file meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from engine import (
    Engine,
    Onlooker,
    OnlookerQuery,
    Projection,
    Query,
    Receipt,
    Table,
    Views,
    answers,
    projects,
)
from tests.support.counters import Add, Added
from tests.support.tallies import GetTallies, Tallies, Tally, get_tallies, get_tally


def views_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:").replace("log.db", "log.views.db"))


def looking(url: str, *functions: Any, projections: Any = (Tallies,)) -> Onlooker:
    given = functions or (get_tally, get_tallies)
    return Onlooker(projections=projections, answers=given, store=url)


async def add(engine: Engine, counter: str, amount: int) -> Receipt:
    """Execute, and wait until the views have it."""
    receipt = await engine.execute(Add(counter, amount))
    await engine.query(GetTallies(), at=receipt)
    return receipt


async def the_next(watching: OnlookerQuery[Any]) -> Any:
    async with asyncio.timeout(10):
        return await anext(watching)


def outside(url: str, *statements: str) -> list[Any]:
    """Run statements as somebody with a SQLite shell could; give what the last one answers."""
    found: list[Any] = []
    with closing(apsw.Connection(str(views_file(url)))) as connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
    return found


class GetSum(Query[int]):
    statement: str = "select sum(total) from tallies_rows"


@answers
async def get_sum(query: GetSum, views: Views) -> int:
    return int((await views.sql(query.statement))[0][0])


class Newer(Projection, name="tallies", version=2):
    rows: Table[Tally]

    @projects
    def added(self, event: Added) -> None: ...
