"""A timer's command is run once, when it is due, unless the timer was cancelled or set anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from engine import (
    After,
    Aggregate,
    At,
    CancelTimer,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Limits,
    MemoryStore,
    Ports,
    TimerStatistics,
    applies,
    handles,
)
from engine.testing.scenario import ManualClock, SequentialIds
from tests.support.waiting import settle, until

from .kettles import (
    Forget,
    Kettle,
    Odd,
    SwitchOff,
    SwitchOn,
    Whistle,
    Whistled,
    failing,
    odd,
    runs,
)

MINUTE = 60.0


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    failing.clear()
    odd.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000_000)


def kettles(store: Any, clock: ManualClock, **options: Any) -> Engine:
    options.setdefault("limits", Limits())
    ports = Ports(clock=clock, ids=SequentialIds(), watcher=None)
    return Engine([Kettle], store=store, ports=ports, **options)


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Engine]:
    store = MemoryStore() if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"
    async with kettles(store, clock) as engine:
        yield engine


def numbers(engine: Engine) -> TimerStatistics:
    return engine.statistics().timers


async def events(engine: Engine, kettle: str = "k") -> list[str]:
    page = await engine.history(Kettle, kettle)
    return [type(logged.event).__name__ for logged in page.events]


async def fired(engine: Engine, count: int = 1) -> None:
    await until(lambda: numbers(engine).fired == count and not numbers(engine).due)


async def failed(engine: Engine, count: int) -> None:
    await until(lambda: numbers(engine).failed == count and not numbers(engine).due)


async def test_a_command_is_run_when_its_time_has_come(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("k", 15))
    clock.advance(15 * MINUTE - 0.000001)
    await settle()
    assert runs == []
    assert numbers(engine).waiting == 1

    clock.advance(0.000001)
    await fired(engine)
    assert await events(engine) == ["SwitchedOn", "SwitchedOff"]
    assert numbers(engine).waiting == 0


async def test_the_command_says_what_led_to_it(engine: Engine, clock: ManualClock) -> None:
    traced = {"correlation": "day-7", "principal": "ann", "headers": {"lang": "de"}}
    await engine.execute(SwitchOn("k", 1))
    await engine.execute(SwitchOn("k2", 1), **traced)  # type: ignore[arg-type]
    clock.advance(MINUTE)
    await fired(engine, 2)

    first, second = (run[2] for run in runs)
    assert (first.causation, first.correlation, first.key) == ("kettle:k@1",) * 2 + ("timer:1:off",)
    assert (second.causation, second.correlation) == ("kettle:k2@1", "day-7")
    assert (second.principal, second.headers) == ("ann", {"lang": "de"})
    [*_, logged] = (await engine.history(Kettle, "k2")).events
    assert (logged.meta.causation, logged.meta.principal) == ("kettle:k2@1", "ann")


async def test_a_timer_that_is_set_again_waits_anew(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("k", 5))
    await engine.execute(SwitchOn("k", 9))
    assert numbers(engine).waiting == 1
    clock.advance(8 * MINUTE)
    await settle()
    assert runs == []

    clock.advance(MINUTE)
    await fired(engine)
    assert len(runs) == 1


async def test_a_timer_that_is_cancelled_is_not_run(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("k", 5))
    await engine.execute(Forget("k"))
    await engine.execute(Forget("k2"))
    clock.advance(60 * MINUTE)
    await settle()

    assert runs == []
    assert numbers(engine).waiting == 0


async def test_an_earlier_timer_wakes_who_sleeps_for_a_later_one(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.execute(SwitchOn("late", 600))
    await engine.execute(SwitchOn("soon", 1))
    clock.advance(MINUTE)
    await fired(engine)

    assert [kettle for _, kettle, _ in runs] == ["soon"]
    assert numbers(engine).waiting == 1


async def test_a_command_may_be_for_another_aggregate(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("other", 60))
    await engine.execute(SwitchOn("k", 5, off="other"))
    clock.advance(5 * MINUTE)
    await fired(engine)

    assert await events(engine, "other") == ["SwitchedOn", "SwitchedOff"]
    assert await events(engine, "k") == ["SwitchedOn"]


async def test_timers_are_fired_in_the_order_of_their_times(
    engine: Engine, clock: ManualClock
) -> None:
    for minutes in (7, 3, 9, 5):
        await engine.execute(SwitchOn(f"k{minutes}", minutes))
    clock.advance(60 * MINUTE)
    await fired(engine, 4)

    assert [kettle for _, kettle, _ in runs] == ["k3", "k5", "k7", "k9"]


async def test_a_rejection_is_an_outcome(engine: Engine, clock: ManualClock) -> None:
    odd["refused"] = lambda: Decision(
        Whistled(0), timers=[After(SwitchOff("k", "refuse"), minutes=1)]
    )
    await engine.execute(Odd("k", "refused"))
    clock.advance(MINUTE)
    await fired(engine)

    assert len(runs) == 1
    assert (numbers(engine).rejected, numbers(engine).waiting) == (1, 0)
    clock.advance(60 * MINUTE)
    await settle()
    assert len(runs) == 1


async def test_a_command_that_writes_nothing_is_done(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("k", 5, off="cold"))
    clock.advance(5 * MINUTE)
    await fired(engine)

    assert numbers(engine).waiting == 0
    clock.advance(60 * MINUTE)
    await settle()
    assert len(runs) == 1


async def test_commands_at_once_are_run_in_order_each_once(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.execute(Whistle("k", 5))
    await until(lambda: len(runs) == 5)
    await fired(engine, 4)

    assert (await engine.state(Kettle, "k")).whistles == 5
    assert runs[1][2].causation == "kettle:k@1"
    odd["many"] = lambda: Decision(Whistled(0), commands=[SwitchOff(f"k{n}") for n in range(120)])
    await engine.execute(Odd("k", "many"))
    await fired(engine, 124)
    assert [kettle for _, kettle, _ in runs[5:]] == [f"k{n}" for n in range(120)]


async def test_what_fails_is_tried_again_and_then_set_aside(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    failing.add("k")
    async with kettles(MemoryStore(), clock, limits=Limits(timer_retries=2)) as engine:
        await engine.execute(SwitchOn("k", 1))
        clock.advance(MINUTE)
        for tries in (1, 2, 3):
            await failed(engine, tries)
            assert len(runs) == tries
            clock.advance(0.9)
            await settle()
            assert len(runs) == tries, "it waits for a second at first"
            clock.advance(2)
        await settle()

        assert (numbers(engine).parked, numbers(engine).waiting) == (1, 0)
        assert "is set aside" in caplog.text
        assert await events(engine) == ["SwitchedOn"]
        failing.clear()
        assert await engine.retry_timers() == 1
        await fired(engine)
        assert await events(engine) == ["SwitchedOn", "SwitchedOff"]
        assert (numbers(engine).parked, numbers(engine).waiting) == (0, 0)
        assert await engine.retry_timers() == 0


@pytest.mark.parametrize("far", ["far", "client"])
async def test_a_service_that_is_away_is_waited_for_and_sets_nothing_aside(
    clock: ManualClock, far: str
) -> None:
    failing.add(far)
    async with kettles(MemoryStore(), clock, limits=Limits(timer_retries=1)) as engine:
        await engine.execute(SwitchOn(far, 1))
        clock.advance(MINUTE)
        for tries in range(1, 9):
            await failed(engine, tries)
            assert numbers(engine).parked == 0
            clock.advance(2**tries)
        failing.clear()
        clock.advance(5 * MINUTE)
        await fired(engine)
        assert await events(engine, far) == ["SwitchedOn", "SwitchedOff"]


async def test_what_failed_and_works_again_is_run(engine: Engine, clock: ManualClock) -> None:
    failing.add("k")
    await engine.execute(SwitchOn("k", 1))
    clock.advance(MINUTE)
    await failed(engine, 1)
    failing.clear()
    clock.advance(1)
    await fired(engine)

    assert await events(engine) == ["SwitchedOn", "SwitchedOff"]


async def test_what_was_due_while_no_engine_ran_is_run_late(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = f"sqlite:{tmp_path / 'log.db'}"
    async with kettles(path, clock) as engine:
        for number in range(40):
            await engine.execute(SwitchOn(f"k{number:02}", 5 + number))
    clock.advance(30 * MINUTE)
    async with kettles(path, clock, limits=Limits(timers_at_once=3)) as engine:
        await fired(engine, 26)
        assert [kettle for _, kettle, _ in runs] == [f"k{number:02}" for number in range(26)]
        assert numbers(engine).waiting == 14
        assert numbers(engine).late_seconds.max == 25 * MINUTE


async def test_an_engine_that_is_overloaded_fires_later(clock: ManualClock) -> None:
    limits = Limits(commands_accepted=2, mailbox_commands=2)
    async with kettles(MemoryStore(), clock, limits=limits) as engine:
        for number in range(6):
            await engine.execute(SwitchOn(f"k{number}", 1))
        clock.advance(MINUTE)
        await fired(engine, 6)

        assert len(runs) == 6
        assert numbers(engine).failed == 0


async def test_at_is_a_moment(engine: Engine, clock: ManualClock) -> None:
    now = clock.time
    odd["at"] = lambda: Decision(
        Whistled(1), timers=[At(now, SwitchOff("a"), "a"), At(clock.now() + 7, SwitchOff("b"), "b")]
    )
    await engine.execute(Odd("k", "at"))
    await fired(engine, 1)
    clock.advance(0.000007)
    await fired(engine, 2)

    assert [kettle for _, kettle, _ in runs] == ["a", "b"]


async def test_a_handler_cancels_and_sets_at_once(engine: Engine, clock: ManualClock) -> None:
    await engine.execute(SwitchOn("k", 1))
    odd["both"] = lambda: Decision(
        Whistled(1), timers=[CancelTimer("off"), After(SwitchOff("k", "later"), "later", hours=1)]
    )
    await engine.execute(Odd("k", "both"))
    clock.advance(3_600)
    await fired(engine)

    assert [kettle for _, kettle, _ in runs] == ["k"]
    assert numbers(engine).waiting == 0


class Hold(Command):
    door: Id


class Invite(Command):
    door: Id
    to: str


class Invited(Event, name="door-invited"):
    pass


class Ring(Command):
    door: Id


class Door(Aggregate, kind="door"):
    held: ClassVar[list[asyncio.Event]] = []
    """What a door that is held waits for."""

    @handles
    async def hold(self, command: Hold) -> None:
        self.held.append(asyncio.Event())
        await self.held[-1].wait()

    @handles
    def invite(self, command: Invite) -> Decision[Invited]:
        return Decision(Invited(), timers=[After(Ring(command.to), "ring")])

    @handles
    def ring(self, command: Ring) -> None:
        return None

    @applies
    def on_invited(self, event: Invited) -> None:
        pass


async def test_an_engine_ends_while_timers_pause_since_an_aggregate_has_no_room() -> None:
    Door.held.clear()
    async with Engine([Door], store="memory:", limits=Limits(mailbox_commands=1)) as engine:
        commands = [asyncio.create_task(engine.execute(Hold("a")))]
        await until(lambda: len(Door.held) == 1)
        commands.append(asyncio.create_task(engine.execute(Hold("a"))))
        await settle()
        await engine.execute(Invite("b", to="a"))
        firing = engine._wiring.firing
        await until(lambda: firing._pause >= 0.8)

        Door.held[0].set()
        await until(lambda: len(Door.held) == 2)
        Door.held[1].set()
        await asyncio.gather(*commands)
