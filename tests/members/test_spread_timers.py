"""Timers where several processes own a log: the one that leads fires each once, where it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from engine import Aggregate, Engine, Ports, Schedule, UsageError
from engine.runtime.ports import Ports as RealPorts
from engine.stores.contract.log import Batch
from engine.stores.contract.membership import LeaderChanged, LedBy, ViewChanged
from engine.stores.contract.timers import FiredTimer, SetTimer, TimerGone
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.spread import SpreadStore
from engine.testing.conformance.given_log import request
from engine.testing.scenario import ManualClock
from tests.processes.fulfilling import Card, Item, Order, Parcel, Place, Settle, shop
from tests.support.postgres import Server, asked
from tests.support.waiting import until
from tests.timers.kettles import Forget, Kettle, SwitchOn, Whistle, runs


@pytest.fixture
def log(postgres: Server) -> str:
    # The clock of these engines stands still, and with it what they know of their leases.
    return postgres.url(postgres.new_schema(), "lease=600")


@asynccontextmanager
async def owners(make: Callable[[], Any], count: int = 3) -> AsyncGenerator[list[Any]]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(make()) for _ in range(count)]
        await until(lambda: all(sum(e._joined._router._ready) > 30 for e in engines))
        yield engines


async def log_of(engine: Engine, length: int) -> list[str]:
    """Give stream and name of all events, when there are so many."""
    async with asyncio.timeout(60):
        while len(found := [logged async for logged in engine.feed()]) < length:
            await asyncio.sleep(0)
    return [f"{logged.meta.stream} {logged.name}" for logged in found]


async def none_stands(postgres: Server, log: str) -> None:
    """Wait until no timer is left."""
    query = f"SELECT stream, name FROM {read_address(log).schema}.timers"
    async with asyncio.timeout(60):
        while await asked(postgres, query):
            await asyncio.sleep(0)


def kettles(log: str, clock: ManualClock, *more: type[Aggregate]) -> Engine:
    ports = Ports(clock=clock, watcher=None)
    return Engine([Kettle, *more], store=log, join="spread", ports=ports)


async def test_timers_are_fired_once_wherever_they_were_set_and_go(
    log: str, postgres: Server
) -> None:
    clock = ManualClock()
    runs.clear()
    async with owners(lambda: kettles(log, clock)) as engines:
        await asyncio.gather(
            *(engines[n % 3].execute(SwitchOn(f"k{n}", 5, off=f"k{29 - n}")) for n in range(30))
        )
        await asyncio.gather(*(engines[n % 3].execute(Forget(f"k{n}")) for n in range(0, 30, 3)))
        await asyncio.gather(*(engines[n % 3].execute(SwitchOn(f"k{n}", 9)) for n in (1, 4, 7)))
        assert await engines[0].next_timer() is not None
        clock.advance(6 * 60)
        found = (await log_of(engines[1], 43 + 17))[43:]
        assert sorted(found) == sorted(
            f"kettle:k{29 - n} kettle-off" for n in range(30) if n % 3 and n not in (1, 4, 7)
        )
        clock.advance(6 * 60)
        # k1, k4 and k7 are switched off by now: their commands write nothing, and are settled.
        await none_stands(postgres, log)
        assert len(await log_of(engines[2], 60)) == 60
        assert len(runs) == 20
        assert {ctx.principal for _, _, ctx in runs} == {None}


async def test_commands_that_a_decision_gives_at_once_are_run_by_their_owners(
    log: str, postgres: Server
) -> None:
    async with owners(lambda: Engine([Kettle], store=log, join="spread")) as engines:
        await asyncio.gather(*(engines[n % 3].execute(Whistle(f"k{n}", 5)) for n in range(9)))
        await none_stands(postgres, log)
        for n in range(9):
            assert (await engines[n % 3].state(Kettle, f"k{n}")).whistles == 5


async def test_a_process_manager_goes_through_its_steps_wherever_they_are_decided(
    log: str, postgres: Server
) -> None:
    clock = ManualClock()

    def make() -> Engine:
        return shop(log, join="spread", ports=Ports(clock=clock, watcher=None))

    async with owners(make) as engines:
        first, second, third = engines
        await second.execute(Place("o-1", "lamp", "c-1", 70))
        await log_of(second, 5)
        await third.execute(Settle("c-1", "o-1"))
        assert [name.partition(" ")[2] for name in await log_of(third, 8)] == [
            *("placed", "fulfilment-begun", "reserved", "fulfilment-moved", "charged"),
            *("settled", "fulfilment-moved", "shipped"),
        ]
        assert (await second.state(Parcel, "o-1")).shipped == 1

        await third.execute(Place("o-2", "lamp", "c-2", 70))
        await log_of(third, 13)
        with pytest.raises(UsageError, match="call this there"):
            await third.next_timer()
        await first.__aexit__(None, None, None)
        clock.advance(15 * 60)
        found = await log_of(second, 16)
        last = [name.partition(" ")[2] for name in found[13:]]
        # Of two commands that are given together, each has an owner of its own.
        assert (last[0], {*last[1:]}) == ("fulfilment-moved", {"restocked", "order-cancelled"})
        assert (await second.state(Item, "lamp")).left == 1
        assert (await second.state(Order, "o-2")).state == "cancelled"
        assert (await second.state(Card, "c-2")).charged == 70
        await none_stands(postgres, log)


async def test_what_is_scheduled_runs_again_and_again(log: str) -> None:
    clock = ManualClock()
    async with owners(lambda: kettles(log, clock, Schedule)) as engines:
        for n, engine in enumerate(engines):
            beat = timedelta(minutes=1)
            await engine.schedule(Whistle(f"k{n}"), f"s{n}", after=beat, every=beat)
        for round_ in range(1, 4):
            clock.advance(60)
            for n in range(3):
                await until_whistled(engines[n], f"k{(n + 1) % 3}", round_)


async def until_whistled(engine: Engine, kettle: str, times: int) -> None:
    async with asyncio.timeout(60):
        while (await engine.state(Kettle, kettle)).whistles < times:
            await asyncio.sleep(0)
    assert (await engine.state(Kettle, kettle)).whistles == times


# -- what the database judges ---------------------------------------------------------------------


@asynccontextmanager
async def deciding(log: str) -> AsyncGenerator[SpreadStore]:
    store = SpreadStore(read_address(log), lambda _: None)
    await store.open(RealPorts())
    try:
        yield store
    finally:
        await store.close()


def beside(stream: str, version: int, *extras: Any) -> Batch:
    (write,) = request(stream, version, 1).writes
    return Batch([type(request(stream, version, 1))((write,), extras)], 0)


async def test_what_a_former_leader_gave_is_not_written(log: str, postgres: Server) -> None:
    async with deciding(log) as store:
        await store.append(beside("a:1", 0))
        sessions = f"{store.address.schema}.sessions"
        [(session,)] = await asked(postgres, f"SELECT session FROM {sessions} WHERE live")
        assert (await store.append(beside("a:1", 1, LedBy(session)))).events[0].position == 2
        for stale in ([LedBy(session + 1)], [LedBy(session), LedBy(session + 1)]):
            with pytest.raises(LeaderChanged) as refused:
                await store.append(beside("a:1", 2, *stale))
            assert refused.value.written is False
        assert store.is_held(), "it owns what it owned"
        await asked(postgres, f"UPDATE {sessions} SET live = false")
        with pytest.raises(LeaderChanged):
            await store.append(beside("a:1", 2, LedBy(session)))
        assert (await store.append(beside("a:1", 2))).events[0].position == 3


async def test_timers_change_in_the_append_and_under_its_view(log: str, postgres: Server) -> None:
    timer = SetTimer("a:1", "t", 5, "c", b"{}", b"")
    async with deciding(log) as store:
        done = await store.append(beside("a:1", 0, timer))
        assert done.timers == 1
        assert [each.position for each in await store.read_timers(timers_max=9)] == [1]
        # Fired and set again, in one decision; and what is fired twice has no effect.
        fired = FiredTimer("a:1", "t", 1)
        done = await store.append(beside("b:1", 0, fired))
        assert (done.timers, await store.read_timers(timers_max=9)) == (-1, [])
        gone = await store.append(beside("b:1", 1, fired))
        assert isinstance(gone.outcomes[0], TimerGone)

        views = f"{store.address.schema}.membership"
        await asked(postgres, f"UPDATE {views} SET view = view + 1")
        with pytest.raises(ViewChanged):
            await store.append(beside("a:1", 1, timer))
        assert await store.read_timers(timers_max=9) == []
