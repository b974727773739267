"""Owners that append to one log by turns gather while others append, and answer nobody later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.runtime.ports import Ports
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.spread import SpreadStore
from engine.testing.conformance import append
from engine.testing.conformance.given_log import request
from tests.support.held_store import HeldStore
from tests.support.postgres import Server
from tests.support.waiting import settle, until
from tests.write.accounts import Deposit, bank, cents


@asynccontextmanager
async def two(postgres: Server) -> AsyncGenerator[tuple[Any, Any]]:
    """Give the stores of two owners that act by the same view."""
    address = read_address(postgres.url(postgres.new_schema(), "lease=600"))
    one, other = (SpreadStore(address, lambda _: None) for _ in range(2))
    await one.open(Ports())
    await other.open(Ports())
    try:
        await until(lambda: len(one.view.members) == 2 and one.view.number == other.view.number)
        yield one, other
    finally:
        await one.close()
        await other.close()


class Appends:
    """Appends batches of new streams."""

    def __init__(self) -> None:
        self._number = 0

    async def __call__(self, store: Any, streams: int) -> float:
        """Append; give how long its owner gathers before the next one."""
        self._number += 1
        names = [f"counter:{self._number}-{n}" for n in range(streams)]
        await append(store, *(request(name, 0, 1) for name in names))
        seconds: float = store._turn_seconds
        return seconds


async def test_who_appends_by_turns_with_others_gathers_longer(postgres: Server) -> None:
    async with two(postgres) as (one, other):
        write = Appends()
        assert await write(one, 8) == 0, "nobody was seen yet"
        assert await write(one, 8) == 0, "nobody appends but this one"
        assert await write(other, 8) == 0
        assert 0 < await write(one, 8) <= 0.02
        await one.turn()
        assert one._turn_seconds == 0, "a turn is waited for once"
        assert await write(one, 8) == 0, "the other one has appended nothing meanwhile"
        await write(other, 8)
        assert await write(one, 7) == 0, "who has little to append is not kept"
        await write(other, 1)
        assert await write(one, 8) > 0
        assert await write(one, 1) == 0


async def test_an_append_that_took_long_keeps_nobody_for_long(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(postgres) as (one, other):
        write, begun = Appends(), iter(range(1_000_000))
        await write(one, 8)
        await write(other, 8)
        monkeypatch.setattr(one, "_now", lambda: float(next(begun)))
        assert await write(one, 8) == 0.02


class TurningStore(HeldStore):
    """A store to whose log others append as well, as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.others = asyncio.Event()
        self.others.set()

    async def turn(self) -> None:
        await self.others.wait()


async def test_what_comes_while_others_append_goes_with_the_next_batch() -> None:
    store = TurningStore()
    async with bank(store=store) as engine:
        await engine.execute(Deposit("a", 1))
        before = engine.statistics().journal.commits
        store.others.clear()
        sent = [asyncio.ensure_future(engine.execute(Deposit("b", 1)))]
        await settle()
        sent += [asyncio.ensure_future(engine.execute(Deposit(name, 1))) for name in "cdefg"]
        await settle()
        assert not any(one.done() for one in sent)
        store.others.set()
        await asyncio.gather(*sent)

        assert engine.statistics().journal.commits == before + 1
        assert await cents(engine, *"bcdefg") == [1] * 6


async def test_an_engine_that_stops_while_others_append_answers_all() -> None:
    store = TurningStore()
    async with bank(store=store) as engine:
        store.others.clear()
        sent = asyncio.ensure_future(engine.execute(Deposit("b", 1)))
        await settle()
        asyncio.get_running_loop().call_soon(store.others.set)
    assert (await sent).version == 1
