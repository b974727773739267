"""A projection in SQL whose statements PostgreSQL ends for a while: no event is at fault."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest

from engine import Engine
from tests.projections.summing import IN_BOTH, Stopping, add, rebuilt, status, summing, sums
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tallies, Tally, get_tally

HELD = """
CREATE FUNCTION {schema}.held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER held BEFORE INSERT ON {schema}.{table}
FOR EACH STATEMENT EXECUTE FUNCTION {schema}.held()
"""
LET_GO = "DROP FUNCTION {schema}.held CASCADE"


@pytest.mark.parametrize("kind", [IN_BOTH.parking, IN_BOTH.stopping], ids=["parks", "stops"])
@pytest.mark.parametrize(
    "code",
    ["55P03", "40P01", "53100", "57014"],
    ids=["locked", "deadlock", "disk full", "statement ended"],
)
async def test_what_the_server_ends_for_a_while_is_tried_again(
    kind: type, code: str, postgres: Server
) -> None:
    name = postgres.new_schema()
    schema = f"{name}_views"
    found = (
        f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' AND tablename LIKE 's%b1'"
    )
    async with summing(kind, postgres.url(name, "lease=3600")) as engine, asyncio.timeout(15):
        position = await add(engine, "a", "b")
        assert await sums(engine, at=position) == {"a": 1, "b": 1}
        table = await asyncio.to_thread(postgres.sql, found)
        held = HELD.format(schema=schema, table=table, code=code)
        await asyncio.to_thread(postgres.sql, held)
        position = await add(engine, "a")
        while (now := await status(engine)).state == "live":
            await asyncio.sleep(0.005)
        assert (now.state, now.parked, now.failure) == ("retrying", 0, None)
        await asyncio.to_thread(postgres.sql, LET_GO.format(schema=schema))
        assert await sums(engine, at=position) == {"a": 2, "b": 1}
        assert (await status(engine)).parked == 0


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
