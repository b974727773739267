"""Timers and joint decisions meet: one sets timers of several aggregates, and is a timer's command.

The engine has nothing else to do in these tests, so that nothing but what is tested wakes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engine import (
    After,
    CancelTimer,
    Command,
    Decision,
    Engine,
    Id,
    MemoryStore,
    Ports,
    To,
    decides,
)
from engine.testing.scenario import ManualClock, SequentialIds
from tests.support.held_store import HeldStore
from tests.support.waiting import settle, until

from .kettles import (
    Forget,
    Forgotten,
    Kettle,
    Odd,
    SwitchedOff,
    SwitchedOn,
    SwitchOff,
    Whistled,
    failing,
    odd,
    runs,
)

MINUTE = 60.0
together: list[str] = []
"""What two kettles decided together for a timer."""


class SwitchBoth(Command):
    """Switches two kettles on, each of which goes off after a minute."""

    one: Id
    other: Id


class WhistleBoth(Command):
    """Lets two kettles whistle at once."""

    one: Id
    other: Id


class CancelBoth(Command):
    one: Id
    other: Id


class OffBoth(Command):
    """Switches off what is on; sent by a timer."""

    one: Id
    other: Id


@decides
def switch_both(command: SwitchBoth, one: Kettle, other: Kettle) -> list[To[SwitchedOn]]:
    return [
        To(each, SwitchedOn(), timers=[After(SwitchOff(each.id), "off", minutes=1)])
        for each in (one, other)
    ]


@decides
def whistle_both(command: WhistleBoth, one: Kettle, other: Kettle) -> list[To[SwitchedOn]]:
    return [To(each, SwitchedOn(), commands=[SwitchOff(each.id)]) for each in (one, other)]


@decides
def cancel_both(command: CancelBoth, one: Kettle, other: Kettle) -> list[To[Forgotten]]:
    return [To(each, Forgotten(), timers=[CancelTimer("off")]) for each in (one, other)]


@decides
def off_both(command: OffBoth, one: Kettle, other: Kettle) -> list[To[SwitchedOff]]:
    together.append(one.id + other.id)
    return [To(each, SwitchedOff("timer")) for each in (one, other) if each.is_on]


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    together.clear()
    failing.clear()
    odd.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000_000)


def kettles(store: object, clock: ManualClock) -> Engine:
    ports = Ports(clock=clock, ids=SequentialIds(), watcher=None)
    decisions = [switch_both, whistle_both, cancel_both, off_both]
    return Engine([Kettle], decisions=decisions, store=store, ports=ports)  # type: ignore[arg-type]


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Engine]:
    store = MemoryStore() if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"
    async with kettles(store, clock) as engine:
        await settle()
        yield engine


def waiting(engine: Engine) -> int:
    return engine.statistics().timers.waiting


async def fired(engine: Engine, count: int) -> None:
    await until(lambda: engine.statistics().timers.fired == count and not waiting(engine))


async def test_the_timers_of_each_aggregate_are_fired(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchBoth("a", "b"))
    assert waiting(engine) == 2
    clock.advance(MINUTE)
    await fired(engine, 2)

    assert sorted(kettle for _, kettle, _ in runs) == ["a", "b"]


async def test_the_commands_that_it_gives_are_run_at_once(engine: Engine) -> None:
    await engine.execute(WhistleBoth("a", "b"))
    await fired(engine, 2)

    assert sorted(kettle for _, kettle, _ in runs) == ["a", "b"]


async def test_what_it_cancels_is_not_fired(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchBoth("a", "b"))
    await engine.execute(CancelBoth("b", "a"))
    assert waiting(engine) == 0
    clock.advance(MINUTE)
    await settle()

    assert runs == []


def sets_both(minutes: float) -> Decision[Whistled]:
    return Decision(Whistled(1), timers=[After(OffBoth("a", "b"), "off", minutes=minutes)])


async def test_it_is_the_command_of_a_timer_once(engine: Engine, clock: ManualClock) -> None:
    odd["set"] = lambda: sets_both(5)
    await engine.execute(SwitchBoth("a", "b"))
    await engine.execute(Odd("k", "set"))
    await engine.execute(CancelBoth("a", "b"))
    assert waiting(engine) == 1
    clock.advance(5 * MINUTE)
    await fired(engine, 1)
    clock.advance(5 * MINUTE)
    await settle()

    assert together == ["ab"]
    assert not (await engine.state(Kettle, "b")).is_on


async def test_of_cancel_and_fire_at_once_one_is_stored(clock: ManualClock) -> None:
    store = HeldStore()
    async with kettles(store, clock) as engine:
        odd["set"] = lambda: sets_both(1)
        await engine.execute(SwitchBoth("a", "b"))
        await engine.execute(CancelBoth("a", "b"))
        await engine.execute(Odd("k", "set"))
        store.hold()
        cancelling = asyncio.ensure_future(engine.execute(Forget("k")))
        await settle()
        clock.advance(MINUTE)
        await until(lambda: together)
        store.release()
        await cancelling
        await settle()
        await until(lambda: not waiting(engine))

        assert (await engine.state(Kettle, "a")).is_on
        assert engine.statistics().timers.due == 0


async def test_one_that_is_decided_anew_and_then_writes_nothing_is_done(clock: ManualClock) -> None:
    store = HeldStore()
    async with kettles(store, clock) as engine:
        odd["set"] = lambda: sets_both(1)
        await engine.execute(SwitchBoth("a", "b"))
        await engine.execute(CancelBoth("a", "b"))
        await engine.execute(Odd("k", "set"))
        store.hold()
        clock.advance(MINUTE)
        await until(lambda: len(store.batches) == 4)
        for kettle in "ab":
            await store.append_event(f"kettle:{kettle}", 2, SwitchedOff("another writer"))
        store.release()
        await fired(engine, 1)

        assert together == ["ab", "ab"]
