"""Timers and reactions where processes share a log: the owner's, and each once when it goes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine import Engine, Ports, UsageError
from engine.testing.scenario import ManualClock
from tests.members.joining import part
from tests.processes.fulfilling import Card, Item, Order, Parcel, Place, Settle, shop
from tests.support.waiting import until


def joined(path: Path, clock: ManualClock) -> Engine:
    return shop(f"sqlite:{path}/log.db", join=True, ports=Ports(clock=clock, watcher=None))


async def log_of(engine: Engine, length: int) -> list[str]:
    """Give the names of the events of a log, when it has so many."""
    await until(lambda: engine.statistics().position >= length)
    return [logged.name async for logged in engine.feed()]


async def test_what_a_member_sends_is_reacted_to_by_the_owner_alone(tmp_path: Path) -> None:
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        owner, member = [await stack.enter_async_context(joined(tmp_path, clock)) for _ in "ab"]
        await member.execute(Place("o-1", "lamp", "c-1", 70))
        await log_of(owner, 5)
        await member.execute(Settle("c-1", "o-1"))

        assert await log_of(owner, 8) == [
            *("placed", "fulfilment-begun", "reserved", "fulfilment-moved", "charged"),
            *("settled", "fulfilment-moved", "shipped"),
        ]
        for engine in (owner, member):
            assert (await engine.state(Parcel, "o-1")).shipped == 1
        assert member.statistics().timers.fired == 0


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_timer_is_fired_once_by_whoever_owns_the_log_then(
    tmp_path: Path, is_late: bool
) -> None:
    """Set through a member; due before its owner has gone, or while nobody owns the log."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path, clock)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path, clock))
        await member.execute(Place("o-1", "lamp", "c-1", 70))
        await log_of(owner, 5)
        with pytest.raises(UsageError):
            await member.next_timer()
        if not is_late:
            clock.advance(15 * 60)
            await log_of(owner, 8)
        await owner.__aexit__(None, None, None)
        await until(lambda: part(member).role == "owner")
        if is_late:
            assert await member.next_timer() is not None
            clock.advance(15 * 60)

        found = await log_of(member, 8)
        await until(lambda: not member.statistics().timers.due)
        assert found[5:] == ["fulfilment-moved", "restocked", "order-cancelled"]
        assert member.statistics().position == 8
        assert (await member.state(Item, "lamp")).left == 2
        assert (await member.state(Order, "o-1")).state == "cancelled"
        assert (await member.state(Card, "c-1")).charged == 70
