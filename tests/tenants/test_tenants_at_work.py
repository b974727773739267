"""Tenants that have something to do: not closed in the midst of it, or opened again soon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Delivery,
    Engine,
    Event,
    Id,
    Meta,
    Ports,
    Projection,
    Reactor,
    Sink,
    Tenants,
    applies,
    handles,
    reacts,
)
from engine.testing.scenario import ManualClock
from tests.support.waiting import until

START = 1_700_000_000_000_000


class Gate:
    """What a test opens, and who has come to it."""

    def __init__(self) -> None:
        self.came = 0
        self.open = asyncio.Event()

    async def passed(self) -> None:
        self.came += 1
        await self.open.wait()


gates: dict[str, Gate] = {}


class Order(Command):
    order_id: Id
    minutes: float = 30


class Expire(Command):
    order_id: Id


class Restock(Command):
    order_id: Id


class Ordered(Event, name="ordered"):
    pass


class Expired(Event, name="expired"):
    pass


class Restocked(Event, name="restocked"):
    pass


class Sale(Aggregate, kind="sale"):
    @handles
    def order(self, command: Order) -> Decision[Ordered]:
        return Decision(
            Ordered(), timers=[After(Expire(self.id), "expiry", minutes=command.minutes)]
        )

    @handles
    def expire(self, command: Expire) -> Expired:
        return Expired()

    @handles
    async def restock(self, command: Restock) -> Restocked:
        await gates["restock"].passed()
        return Restocked()

    @applies
    def ordered(self, event: Ordered) -> None: ...

    @applies
    def expired(self, event: Expired) -> None: ...

    @applies
    def restocked(self, event: Restocked) -> None: ...


class Restocking(Reactor, name="restocking", begins="start"):
    @reacts
    def expired(self, event: Expired, meta: Meta) -> Restock:
        return Restock(meta.id)


class Letters(Sink, name="letters", version=1):
    written: ClassVar[list[int]] = []

    async def deliver(self, batch: Sequence[Delivery[Ordered]]) -> None:
        await gates["letters"].passed()
        self.written.extend(each.position for each in batch)


class Mail(Letters, name="mail", version=1):
    """Tries again and again, as long as the gate is not open."""

    async def deliver(self, batch: Sequence[Delivery[Ordered]]) -> None:
        gates["letters"].came += 1
        if not gates["letters"].open.is_set():
            raise ConnectionError("nobody is there")
        self.written.extend(each.position for each in batch)


class Polled(Engine):
    """An engine that tells how often it was asked for its next timer, and had none."""

    idle_asks: ClassVar[int] = 0

    async def next_timer(self) -> int | None:
        time = await super().next_timer()
        if time is None:
            Polled.idle_asks += 1
        return time


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    gates.clear()
    gates.update({"restock": Gate(), "letters": Gate()})
    monkeypatch.setattr(Letters, "written", [])
    monkeypatch.setattr(Polled, "idle_asks", 0)


def made(projection: type[Projection], clock: ManualClock, store: str) -> Engine:
    return Polled(
        [Sale], projections=[projection], store=store, ports=Ports(clock=clock, watcher=None)
    )


def tenants_of(
    folder: Path, clock: ManualClock, projection: type[Projection], open_max: int = 2
) -> Tenants:
    return Tenants(
        partial(made, projection, clock),
        folder=folder,
        open_max=open_max,
        idle_seconds=60,
        fire_timers=True,
        ports=Ports(clock=clock, watcher=None),
    )


async def ordered(tenants: Tenants, name: str) -> Engine:
    async with tenants.engine(name, create=True) as engine:
        await engine.execute(Order("o-1"))
        return engine


async def all_closed(tenants: Tenants) -> None:
    await until(lambda: tenants.statistics().open + tenants.statistics().closing == 0)


async def test_what_follows_from_a_timer_is_done_before_its_tenant_is_closed(
    tmp_path: Path,
) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, Restocking) as tenants:
        blue = await ordered(tenants, "blue")
        await until(lambda: not blue.statistics().projectors["restocking"].lag_events)
        clock.advance(61)
        tenants.close_idle()
        await all_closed(tenants)

        clock.advance(30 * 60)
        await until(lambda: gates["restock"].came)
        asked = Polled.idle_asks
        await until(lambda: Polled.idle_asks > asked + 1)  # it has no timers, and is not closed
        assert tenants.statistics().in_use == 1
        gates["restock"].open.set()
        await all_closed(tenants)
        assert tenants.statistics().woken == 1
    async with made(Restocking, clock, f"sqlite:{tmp_path / 'blue.db'}") as again:
        assert (await again.state(Sale, "o-1")).version == 3


async def test_a_tenant_that_delivers_is_not_idle(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, Letters) as tenants:
        blue = await ordered(tenants, "blue")
        await until(lambda: gates["letters"].came)
        clock.advance(61)
        tenants.close_idle()
        assert tenants.statistics().closing == 0

        gates["letters"].open.set()
        await until(lambda: not blue.statistics().projectors["letters"].lag_events)
        tenants.close_idle()
        assert tenants.statistics().closing == 1


async def test_one_whose_sink_was_paused_waits_for_people_and_keeps_nothing_open(
    tmp_path: Path,
) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, Letters) as tenants:
        async with tenants.engine("blue", create=True) as blue:
            await blue.projections.pause("letters")
            await blue.execute(Order("o-1"))
        clock.advance(61)
        tenants.close_idle()
        assert tenants.statistics().closing == 1
        gates["letters"].open.set()


async def test_one_that_delivers_makes_room_behind_others_and_is_opened_soon_to_go_on(
    tmp_path: Path,
) -> None:
    clock = ManualClock(START)
    async with tenants_of(tmp_path, clock, Mail) as tenants:
        blue = await ordered(tenants, "blue")
        await until(lambda: blue.statistics().projectors["mail"].retries)
        async with tenants.engine("green", create=True):
            pass
        async with tenants.engine("red", create=True):  # in the place of green, which rests
            assert tenants.statistics().open == 2
        async with tenants.engine("blue") as again, tenants.engine("red"):
            assert again is blue
        async with tenants.engine("red"), tenants.engine("green"):  # no other place than blue's
            await until(lambda: not tenants.statistics().closing)
        assert not Letters.written

        gates["letters"].open.set()
        clock.advance(10)
        await until(lambda: Letters.written == [1])
        assert tenants.statistics().woken <= 1  # which is counted when it is settled
