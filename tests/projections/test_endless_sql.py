"""A statement of a projection in SQL that does not end: it holds up no graceful stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine import Limits, Meta, SqlProjection, projects
from engine.model.sql_projection import AsyncSql
from tests.projections.summing import IN_BOTH, StoppingInBoth, add, summing, sums
from tests.support.counters import Added
from tests.support.postgres import Server

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
BEGUN: list[Any] = []


class Endless(SqlProjection, name="sums", version=1, dialect=("sqlite", "postgresql")):
    tables = StoppingInBoth.tables

    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        BEGUN.append(meta.position)
        await sql.run(ENDLESS)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/log.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema(), "lease=1")


async def test_a_statement_without_end_is_ended_when_the_engine_stops(url: str) -> None:
    BEGUN.clear()
    async with asyncio.timeout(18):
        async with summing(Endless, url, limits=Limits(sink_stop_seconds=1)) as engine:
            await add(engine, "a", "a")
            while not BEGUN:
                await asyncio.sleep(0.01)
        async with summing(IN_BOTH.stopping, url) as engine:
            position = await add(engine, "b")
            assert await sums(engine, at=position) == {"a": 2, "b": 1}
