"""A log that goes back under its members: what follows it ends, and goes on from what is there."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from engine import Engine, EngineError, Ports, Receipt, StoreFailed
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.duties import DutyStore
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, request
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, lose
from tests.support.tallies import GetTally, Tallies, Tally, get_tallies, get_tally


async def added_in_the_end(engine: Engine) -> Receipt:
    """Add 100, as often as that is safely refused."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await engine.execute(Add("c", 100), key="again")
            except EngineError:
                await asyncio.sleep(0.05)


async def test_several_owners_go_on_from_what_is_there(postgres: Server) -> None:
    """Events that were folded and given are lost; others stand where they stood."""
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with (
        Engine(
            [Counter],
            projections=[Tallies],
            answers=[get_tally, get_tallies],
            store=log,
            join="spread",
        ) as engine,
        aclosing(engine.feed(follow=True)) as feed,
    ):
        receipts = [await engine.execute(Add("c", 1)) for _ in range(6)]
        assert await engine.query(GetTally("c"), at=receipts[-1]) == Tally("c", 6, 6)
        assert [(await anext(feed)).meta.position for _ in range(6)] == [1, 2, 3, 4, 5, 6]
        await lose(postgres, read_address(log).schema, 4)

        receipt = await added_in_the_end(engine)
        assert receipt.position == 4
        assert await engine.query(GetTally("c"), at=receipt, timeout=30) == Tally("c", 103, 4)
        with pytest.raises(StoreFailed, match="the log went back while it was read up to pos.* 6"):
            await anext(feed)
    assert engine.statistics().state == "stopped"


async def test_a_log_that_grew_again_is_another_one(postgres: Server) -> None:
    """Who follows it was not there between: it is longer than before when it is looked at."""
    address = read_address(postgres.url(postgres.new_schema()))
    right: Any = None  # no views are written here
    follower = DutyStore(address, right)
    owner = PostgresStore(address)
    await owner.open(Ports())
    await append(owner, request("a:1", 0, 1))
    await follower.open(Ports())
    assert (await follower.head()).position == 1
    await append(owner, request("a:2", 0, 1))
    assert (await follower.head()).position == 2
    await owner.close()

    await lose(postgres, address.schema, 2)
    await owner.open(Ports())
    for stream in ("a:3", "a:4"):
        await append(owner, request(stream, 0, 1))
    with pytest.raises(StoreFailed, match="the log went back"):
        await follower.head()
    assert "went back" in str(await follower.ended())
    await owner.close()
    await follower.close()
