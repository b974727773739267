"""What a former owner of a log in PostgreSQL decides about views that another engine serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from engine import Engine, StoreFailed
from engine.stores.postgres.address import read_address
from tests.support.counters import Add
from tests.support.postgres import Server, asked
from tests.support.tallies import GetTally, Tally, tallied

CALLS: dict[str, Callable[[Engine], Awaitable[Any]]] = {
    "pause": lambda engine: engine.projections.pause("tallies"),
    "reset": lambda engine: engine.projections.reset("tallies"),
    "rebuild": lambda engine: engine.projections.rebuild("tallies"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_it_is_refused_and_changes_nothing(postgres: Server, call: str) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with AsyncExitStack() as stack:
        former = tallied(log)
        stack.push_async_callback(ended, former)
        await former.__aenter__()
        await former.query(GetTally("c"), at=await former.execute(Add("c", 1)))
        # As where its lease ran out while it stood still: it has not heard of it.
        await asked(postgres, f"SELECT {read_address(log).schema}.end_session_1(1)")
        owner = await stack.enter_async_context(tallied(log))
        before = await owner.projections.decisions("tallies")

        with pytest.raises(StoreFailed, match="another one has the log"):
            async with asyncio.timeout(10):
                await CALLS[call](former)

        assert await owner.projections.decisions("tallies") == before
        assert len((await owner.projections.status("tallies")).builds) == 1
        receipt = await owner.execute(Add("c", 2))
        assert await owner.query(GetTally("c"), at=receipt) == Tally("c", 3, 2)


async def ended(engine: Engine) -> None:
    """End an engine that may have failed."""
    ending = asyncio.ensure_future(engine.__aexit__(None, None, None))
    await asyncio.wait([ending], timeout=10)  # one that did what it may not has more to do
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
