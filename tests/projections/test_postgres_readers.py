"""Readers outside that keep their transaction open, and what needs the locks that they hold."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest

from engine import Engine
from tests.projections.summing import Stopping, rebuilt, status
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tallies, Tally, get_tally


@pytest.mark.parametrize("what", ["swap", "drop"])
async def test_who_reads_outside_for_long_holds_up_no_other_projection(
    what: str, postgres: Server
) -> None:
    """A swap and a drop need locks that an open transaction of a shell holds."""
    asyncpg = importlib.import_module("asyncpg")
    url = postgres.url(postgres.new_schema(), "lease=3600")
    schema = url.partition("schema=")[2].partition("&")[0] + "_views"
    made = Engine([Counter], projections=[Stopping, Tallies], answers=[get_tally], store=url)
    async with made as engine, asyncio.timeout(20):
        receipt = await engine.execute(Add("a", 1))
        await engine.query(GetTally("a"), at=receipt)
        if what == "drop":
            await engine.projections.rebuild("sums")
            await rebuilt(engine)
        shell = await asyncpg.connect(url.partition("?")[0])
        read = "sums_rows" if what == "swap" else await _former(shell, schema)
        async with shell.transaction():
            await shell.fetch(f'SELECT * FROM "{schema}".{read}')
            asking = getattr(engine.projections, "rebuild" if what == "swap" else "drop")("sums")
            asked = asyncio.ensure_future(asking)
            while not await shell.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
            receipt = await engine.execute(Add("a", 1))
            assert await engine.query(GetTally("a"), at=receipt, timeout=8) == Tally("a", 2, 2)
        await shell.close()
        await asked
        await rebuilt(engine)
        assert len((await status(engine)).builds) == (2 if what == "swap" else 1)


async def _former(shell: Any, schema: str) -> str:
    found = "SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename LIKE 'sums%b1'"
    return f'"{await shell.fetchval(found, schema)}"'
