"""Views in PostgreSQL whose server says nothing: nobody waits for ever, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import engine.stores.postgres.address as address_module
from tests.projections.summing import Stopping, add, summing, sums
from tests.support.postgres import Server, connected
from tests.support.waiting import until


@asynccontextmanager
async def silent(server: Server, schema: str) -> AsyncIterator[None]:
    """Have writers of the views wait for an administrator, who says nothing."""
    administrator = await connected(server)
    locked = administrator.transaction()
    await locked.start()
    await administrator.execute(f"LOCK TABLE {schema}_views.checkpoints")
    try:
        yield
    finally:
        await locked.rollback()
        await administrator.close()


async def test_a_projection_whose_server_is_silent_tries_again_and_catches_up(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = postgres.new_schema()
    async with summing(Stopping, postgres.url(schema, "patience=0.3")) as engine:
        await sums(engine, at=await add(engine, "a"))
        monkeypatch.setattr(address_module, "_ANSWER_SECONDS", 0.3)
        async with silent(postgres, schema):
            position = await add(engine, "a")
            await until(lambda: engine.statistics().projectors["sums"].state == "retrying")
            retrying = engine.statistics().projectors["sums"].retrying
            assert retrying is not None
            assert "gave no answer within 0.3 s: if a handler's SQL" in retrying.cause
        monkeypatch.undo()

        assert await sums(engine, at=position) == {"a": 2}


async def test_an_engine_ends_though_the_server_of_its_views_is_silent(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = postgres.new_schema()
    url = postgres.url(schema, "patience=0.3")
    lock = silent(postgres, schema)
    async with asyncio.timeout(60):
        async with summing(Stopping, url) as engine:
            await sums(engine, at=await add(engine, "a"))
            await lock.__aenter__()
            monkeypatch.setattr(address_module, "_ANSWER_SECONDS", 0.3)
            position = await add(engine, "a")
        await lock.__aexit__(None, None, None)
    monkeypatch.undo()

    async with summing(Stopping, url) as engine:
        assert await sums(engine, at=position) == {"a": 2}
