"""Views in PostgreSQL that have lost their last commits, as a server that was killed may lose them.

The loss is made by hand, in one transaction, so that it is the same each time. What a killed server
loses besides are all connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from engine import Engine
from tests.projections.summing import IN_BOTH, TABLES, Kind, SumOfThem, add, status, summing, sums
from tests.support.postgres import Server

ALL_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


class Losing:
    """An engine's views, whose last commits can be lost."""

    def __init__(self, server: Server, schema: str) -> None:
        self._server = server
        self._schema = f"{schema}_views"

    async def lose(self, *further: str) -> None:
        """Lose all commits of the one build that there is, and what is given besides."""
        table = await self._run(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'sums_rows_%' "
            f"AND schemaname = '{self._schema}'"
        )
        await self._run(
            f"BEGIN; DELETE FROM {self._schema}.{table}; "
            f"UPDATE {self._schema}.checkpoints SET position = 0, checksum = 0; COMMIT"
        )
        for statement in further:
            await self._run(statement)

    async def _run(self, statement: str) -> str:
        return await asyncio.to_thread(self._server.sql, statement)


Lossy = Callable[[Kind], tuple[Engine, Losing]]


@pytest.fixture
def lossy(postgres: Server) -> Lossy:
    def made(kind: Kind) -> tuple[Engine, Losing]:
        schema = postgres.new_schema()
        engine = summing(kind.stopping, postgres.url(schema, "lease=3600"))
        return engine, Losing(postgres, schema)

    return made


@pytest.mark.parametrize("kind", [TABLES, IN_BOTH], ids=["tables", "both"])
async def test_a_query_at_a_receipt_sees_it_after_the_server_has_lost_it(
    lossy: Lossy, kind: Kind
) -> None:
    made, views = lossy(kind)
    async with made as engine, asyncio.timeout(20):
        position = await add(engine, "a", "b", "a")
        assert await sums(engine, at=position) == {"a": 2, "b": 1}
        async with aclosing(engine.watch(SumOfThem())) as watched:
            await anext(watched)
            await views.lose(ALL_CONNECTIONS)
            assert await sums(engine, at=position) == {"a": 2, "b": 1}
            await add(engine, "b")
            async for rows in watched:
                if {row.counter: row.total for row in rows} == {"a": 2, "b": 2}:
                    break
        assert (await status(engine)).state == "live"


@pytest.mark.parametrize("kind", [TABLES, IN_BOTH], ids=["tables", "both"])
async def test_a_projection_goes_on_from_where_the_server_is(lossy: Lossy, kind: Kind) -> None:
    """No connection is lost, as where a pooler keeps them."""
    made, views = lossy(kind)
    async with made as engine, asyncio.timeout(20):
        position = await add(engine, "a", "b", "a")
        assert await sums(engine, at=position) == {"a": 2, "b": 1}
        await views.lose()
        position = await add(engine, "b")
        assert await sums(engine, at=position) == {"a": 2, "b": 2}
        assert (await status(engine)).failure is None


@pytest.mark.parametrize("kind", [TABLES, IN_BOTH], ids=["tables", "both"])
async def test_a_projection_at_rest_is_told_too(lossy: Lossy, kind: Kind) -> None:
    made, views = lossy(kind)
    async with made as engine, asyncio.timeout(20):
        position = await add(engine, "a")
        assert await sums(engine, at=position) == {"a": 1}
        await engine.projections.pause("sums")
        await views.lose(ALL_CONNECTIONS)
        while engine.statistics().projectors["sums"].position:
            await asyncio.sleep(0.01)
        await engine.projections.resume("sums")
        assert await sums(engine, at=position) == {"a": 1}
