"""A projection in SQL whose statements PostgreSQL ends for a while: no event is at fault."""

from __future__ import annotations

import asyncio

import pytest

from tests.projections.summing import IN_BOTH, add, status, summing, sums
from tests.support.postgres import Server

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
