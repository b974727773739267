"""What becomes of timers while the store is asked for those that are due."""

from __future__ import annotations

import asyncio

import pytest

from engine import Engine, MemoryStore, Ports
from engine.stores.contract.timers import BEGINNING, DuePlace, WaitingTimer
from engine.testing.scenario import ManualClock
from tests.support.waiting import settle, until

from .kettles import Forget, Kettle, SwitchOn, failing, runs


class SlowStore(MemoryStore):
    """Gives what it has read of timers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.let.set()
        self.is_asked = False

    async def read_due(
        self, after: DuePlace = BEGINNING, *, until: int, timers_max: int
    ) -> list[WaitingTimer]:
        page = await super().read_due(after, until=until, timers_max=timers_max)
        self.is_asked = True
        await self.let.wait()
        return page


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    failing.clear()


@pytest.mark.parametrize("command", [Forget("a"), SwitchOn("a", 10)], ids=["cancelled", "set-anew"])
async def test_a_timer_is_not_run_that_is_taken_away_while_the_store_is_asked(
    command: Forget | SwitchOn,
) -> None:
    clock, store = ManualClock(1_000_000_000), SlowStore()
    async with Engine([Kettle], store=store, ports=Ports(clock=clock, watcher=None)) as engine:
        await engine.execute(SwitchOn("a", 1))
        await settle()
        store.let.clear()
        store.is_asked = False
        clock.advance(60)
        await until(lambda: store.is_asked)

        await engine.execute(command)
        store.let.set()
        await engine.execute(SwitchOn("b", 0))
        await until(lambda: runs)

        assert [kettle for _, kettle, _ in runs] == ["b"]
