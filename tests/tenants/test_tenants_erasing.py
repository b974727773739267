"""Tenants that erase people: closed when that is done, and before if there is no other room."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from engine import Delivery, Engine, Ports, Sink, Tenants
from engine.testing.scenario import ManualClock
from tests.personal.badges import badged
from tests.personal.hotel import NAME, Register, Registered
from tests.support.waiting import until


class Letters(Sink, name="letters", version=1):
    """Erases when it is let."""

    may_erase: ClassVar[asyncio.Event]

    async def deliver(self, batch: Sequence[Delivery[Registered]]) -> None: ...

    async def erase(self, subjects: Sequence[str]) -> None:
        await self.may_erase.wait()


def made(store: str) -> Engine:
    return badged(store, Letters)


def tenants_of(folder: Path, clock: ManualClock, open_max: int) -> Tenants:
    ports = Ports(clock=clock, watcher=None)
    return Tenants(made, folder=folder, open_max=open_max, idle_seconds=60, ports=ports)


async def register(tenants: Tenants, name: str) -> Engine:
    async with tenants.engine(name, create=True) as engine:
        await engine.execute(Register("a", NAME))
        return engine


@pytest.fixture(autouse=True)
def _waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "may_erase", asyncio.Event(), raising=False)


async def test_a_tenant_that_erases_somebody_is_closed_when_that_is_done(tmp_path: Path) -> None:
    clock = ManualClock()
    async with tenants_of(tmp_path, clock, open_max=2) as tenants:
        blue = await register(tenants, "blue")
        assert (await blue.personal.erase("guest:a", timeout=0)).finished is None
        clock.advance(61)
        tenants.close_idle()
        assert tenants.statistics().closing == 0

        Letters.may_erase.set()
        await until(lambda: not blue.personal.is_erasing())
        tenants.close_idle()
        assert tenants.statistics().closing == 1


async def test_another_one_makes_room_for_as_long_as_there_is_one(tmp_path: Path) -> None:
    async with tenants_of(tmp_path, ManualClock(), open_max=2) as tenants:
        blue = await register(tenants, "blue")
        await blue.personal.erase("guest:a", timeout=0)
        await register(tenants, "green")
        await register(tenants, "red")
        async with tenants.engine("blue") as again:
            assert again is blue
            async with tenants.engine("red") as red:
                assert (await red.personal.erase("guest:a", timeout=0)).keys == 1
        await register(tenants, "green")
        await register(tenants, "white")  # both erase somebody by now
    Letters.may_erase.set()
    async with tenants_of(tmp_path, ManualClock(), open_max=2) as tenants:
        for name in ("blue", "red"):
            async with tenants.engine(name) as engine:
                async with asyncio.timeout(30):
                    while not all(each.finished for each in await engine.personal.erasures()):
                        await asyncio.sleep(0.01)
