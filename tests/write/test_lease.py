"""Nothing is decided while another engine may have the log, and nothing hangs behind that."""

from __future__ import annotations

import asyncio

import pytest

from engine import StoreFailed, Voided
from tests.support.held_store import HeldStore
from tests.support.waiting import settle, until
from tests.write.accounts import Deposit, Gate, Slow, Wait, bank, cents


class LeasedStore(HeldStore):
    """A store that has its log for as long as the test says."""

    held_now = True
    is_succeeded = False

    def is_held(self) -> bool:
        return self.held_now

    async def held(self) -> None:
        self.held_now = True
        raise StoreFailed("the lease was not renewed.", written=False, passes=True)


async def test_an_async_handler_that_ends_meanwhile_keeps_nobody_waiting() -> None:
    store, gate = LeasedStore(), Gate()
    async with bank(gate, store=store) as engine:
        deciding = asyncio.ensure_future(engine.execute(Wait("a")))
        behind = asyncio.ensure_future(engine.execute(Deposit("a", 5)))
        await until(lambda: gate.waiting)
        store.held_now = False
        gate.event.set()
        for refused in (deciding, behind):
            with pytest.raises(Voided, match="was not renewed"):
                await refused

        await engine.execute(Deposit("a", 9))
        assert await cents(engine, "a") == [9]


async def test_a_joint_decision_that_ends_meanwhile_keeps_nobody_waiting() -> None:
    store, gate = LeasedStore(), Gate()
    async with bank(gate, store=store) as engine:
        await engine.execute(Deposit("a", 5))
        deciding = asyncio.ensure_future(engine.execute(Slow("a", "b")))
        await until(lambda: gate.waiting)
        behind = asyncio.ensure_future(engine.execute(Deposit("b", 5)))
        await settle()
        store.held_now = False
        gate.event.set()
        with pytest.raises(Voided, match="was not renewed"):
            await deciding
        assert (await behind).version == 1

        await engine.execute(Deposit("a", 9))
        assert await cents(engine, "a", "b") == [14, 5]
