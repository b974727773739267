"""What operators do with one timer: fired now, cancelled, from inside and from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    Forbidden,
    Id,
    Limits,
    Ports,
    UsageError,
    applies,
    handles,
)
from engine.errors import InvalidInput
from engine.outside.timers import compare_timers
from engine.stores.contract.requests import Arguments, Request
from engine.stores.contract.timers import WaitingTimer, timer_target
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.stores.sqlite.outside.operations import SqliteOperations
from engine.testing.scenario import ManualClock
from tests.support.waiting import until
from tests.timers.kettles import Forget, Kettle, SwitchOn, failing, runs

BAKING: list[asyncio.Event] = []
"""What the command that is decided waits for."""


class Heat(Command):
    oven: Id


class Bake(Command):
    oven: Id


class Heated(Event, name="oven-heated"):
    pass


class Baked(Event, name="oven-baked"):
    pass


class Oven(Aggregate, kind="oven"):
    baked: int = 0

    @handles
    def heat(self, command: Heat) -> Decision[Heated]:
        return Decision(Heated(), timers=[After(Bake(self.id), "bake")])

    @handles
    async def bake(self, command: Bake) -> Baked:
        BAKING.append(asyncio.Event())
        await BAKING[-1].wait()
        return Baked()

    @applies
    def on_heated(self, event: Heated) -> None:
        pass

    @applies
    def on_baked(self, event: Baked) -> None:
        self.baked += 1


START = 1_700_000_000_000_000


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    runs.clear()
    failing.clear()
    yield
    failing.clear()


@asynccontextmanager
async def kettles(
    path: Path, clock: ManualClock | None = None, **more: Any
) -> AsyncGenerator[Engine]:
    ports = Ports(clock=clock or ManualClock(START), watcher=None)
    async with Engine([Kettle], store=f"sqlite:{path}", ports=ports, **more) as engine:
        yield engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def timers(path: Path) -> list[WaitingTimer]:
    with SqliteLogReader(str(path)) as log:
        return log.read_timers(timers_max=100)


def ask(path: Path, kind: str, stream: str, name: str = "off", reason: str = "") -> int:
    with SqliteOperations(str(path)) as outside:
        arguments = Arguments(reason=reason, stream=stream, timer=name)
        return outside.ask(kind, timer_target(stream, name), arguments)


def request(path: Path, number: int) -> Request:
    with SqliteOperations(str(path), readonly=True) as outside:
        return outside.request(number)


async def answer(path: Path, number: int) -> tuple[str, str]:
    await until(lambda: request(path, number).answered is not None)
    found = request(path, number)
    return found.state, found.answer


# -- in the engine ----------------------------------------------------------------------------


async def test_a_timer_is_fired_before_its_time(path: Path) -> None:
    async with kettles(path) as engine:
        await engine.execute(SwitchOn("a", 15))
        await engine.execute(SwitchOn("b", 15))

        await engine.fire_timer("kettle:a", "off", reason="he called", principal="ann")
        await until(lambda: engine.statistics().timers.fired)

        assert (await engine.state(Kettle, "a")).is_on is False
        assert [timer.stream for timer in timers(path)] == ["kettle:b"]
        assert engine.statistics().timers.waiting == 1
        [entry] = (await engine.operations.audit()).entries
        assert (entry.action, entry.target, entry.principal) == (
            "fire-timer",
            "timer off of kettle:a",
            "ann",
        )
        assert (entry.reason, entry.position) == ("he called", 1)


def differences(path: Path) -> Sequence[object]:
    """Give what log and table of timers do not say alike, at the time of `START`."""
    with SqliteLogReader(str(path)) as log:
        return compare_timers(log, START).differences


async def test_one_that_is_fired_early_and_writes_nothing_is_neither_lost_nor_run_again(
    path: Path,
) -> None:
    """The log says that it waits, since a command that writes nothing leaves no trace there."""
    clock = ManualClock(START)
    async with kettles(path, clock) as engine:
        await engine.execute(SwitchOn("a", 15, off="b"))  # which is off
        await engine.fire_timer("kettle:a", "off")
        await until(lambda: engine.statistics().timers.fired)
        await until(lambda: timers(path)[0].cause)

        assert [key for _, key, _ in runs] == ["b"]
        assert differences(path) == ()
        assert "fired before its time" in timers(path)[0].cause

        await engine.fire_timer("kettle:a", "off")  # as often as somebody wants
        await until(lambda: engine.statistics().timers.fired == 2)
        await until(lambda: timers(path)[0].cause)
    runs.clear()
    clock.advance(16 * 60)
    async with kettles(path, clock) as engine:
        await until(lambda: not timers(path))
        assert (runs, engine.statistics().timers.fired) == ([], 0)
        await until(lambda: not engine.statistics().timers.waiting)


async def test_a_cancelled_timer_is_never_fired(path: Path) -> None:
    clock = ManualClock(START)
    async with kettles(path, clock) as engine:
        await engine.execute(SwitchOn("a", 15))
        await engine.execute(SwitchOn("b", 15))
        await engine.cancel_timer("kettle:a", "off", reason="paid in cash", principal="ann")
        clock.advance(16 * 60)
        await until(lambda: engine.statistics().timers.fired)

        numbers = engine.statistics().timers
        assert (numbers.fired, numbers.waiting, numbers.parked) == (1, 0, 0)
        assert await engine.retry_timers() == 0
        assert [key for _, key, _ in runs] == ["b"]
    async with kettles(path, clock) as engine:
        clock.advance(3600)
        await engine.execute(SwitchOn("c", 0))
        await until(lambda: engine.statistics().timers.fired)

        assert [key for _, key, _ in runs] == ["b", "c"]
        assert engine.statistics().timers.parked == 0
    [left] = timers(path)
    assert (left.cancelled, left.cause) == (True, "cancelled by ann: paid in cash")


async def test_a_cancelled_timer_is_fired_if_somebody_asks_for_it(path: Path) -> None:
    async with kettles(path) as engine:
        await engine.execute(SwitchOn("a", 15))
        await engine.cancel_timer("kettle:a", "off")
    async with kettles(path) as engine:
        await engine.fire_timer("kettle:a", "off")
        await until(lambda: engine.statistics().timers.fired)

        assert engine.statistics().timers.waiting == 0
    assert timers(path) == []


async def test_a_timer_that_is_set_again_waits_whatever_was_cancelled(path: Path) -> None:
    clock = ManualClock(START)
    async with kettles(path, clock) as engine:
        await engine.execute(SwitchOn("a", 15))
        await engine.cancel_timer("kettle:a", "off")
        await engine.execute(SwitchOn("a", 20))
        clock.advance(21 * 60)
        await until(lambda: engine.statistics().timers.fired)
    assert [key for _, key, _ in runs] == ["a"]


async def test_a_parked_timer_is_fired_again_alone(path: Path) -> None:
    failing.update("ab")
    clock = ManualClock(START)
    async with kettles(path, clock, limits=Limits(timer_retries=1)) as engine:
        for kettle in "ab":
            await engine.execute(SwitchOn(kettle, 0))
        await until(lambda: engine.statistics().timers.failed == 2)
        clock.advance(2)
        await until(lambda: engine.statistics().timers.parked == 2)
        failing.clear()
        await engine.fire_timer("kettle:a", "off")
        await until(lambda: engine.statistics().timers.fired)

        assert engine.statistics().timers.parked == 1
    assert [timer.stream for timer in timers(path)] == ["kettle:b"]


async def test_what_does_not_wait_is_refused(path: Path) -> None:
    async with kettles(path) as engine:
        await engine.execute(SwitchOn("a", 15))
        await engine.execute(Forget("a"))
        for stream, name in (("kettle:a", "off"), ("kettle:b", "off"), ("", ""), ("k", "é")):
            with pytest.raises(UsageError, match="has no timer"):
                await engine.cancel_timer(stream, name)
        with pytest.raises(InvalidInput):
            await engine.cancel_timer("kettle:\ud800", "off")
        assert (await engine.operations.audit()).total == 0


async def test_a_timer_whose_command_runs_is_left_alone(path: Path) -> None:
    """What was begun is not taken back, and nobody is told that it was."""
    ports = Ports(clock=ManualClock(START), watcher=None)
    async with Engine([Oven], store=f"sqlite:{path}", ports=ports) as engine:
        await engine.execute(Heat("a"))
        await until(lambda: BAKING)
        try:
            for act in (engine.fire_timer, engine.cancel_timer):
                with pytest.raises(UsageError, match="is being run at this moment"):
                    await act("oven:a", "bake")
        finally:
            BAKING.pop().set()
        await until(lambda: engine.statistics().timers.fired)
        assert (await engine.state(Oven, "a")).baked == 1


async def test_who_may_not_control_timers_changes_none(path: Path) -> None:
    def authorize(principal: str | None, action: str, target: object) -> bool:
        return action != "control" or principal == "ops"

    async with kettles(path, authorize=authorize) as engine:
        await engine.execute(SwitchOn("a", 15), principal="ann")
        with pytest.raises(Forbidden):
            await engine.fire_timer("kettle:a", "off", principal="ann")
        with pytest.raises(Forbidden):
            await engine.cancel_timer("kettle:a", "off", principal="ann")
        await engine.cancel_timer("kettle:a", "off", principal="ops")


# -- from outside -----------------------------------------------------------------------------


async def test_another_process_fires_and_cancels(path: Path) -> None:
    async with kettles(path, limits=Limits(control_poll_ms=10)) as engine:
        for kettle in "ab":
            await engine.execute(SwitchOn(kettle, 15))
        fire = ask(path, "fire-timer", "kettle:a")
        assert await answer(path, fire) == ("done", "its command is run now")
        cancel = ask(path, "cancel-timer", "kettle:b", reason="a mistake")
        assert await answer(path, cancel) == ("done", "its command is not run")
        await until(lambda: engine.statistics().timers.fired)

        entries = (await engine.operations.audit()).entries
    assert sorted((e.action, e.reason) for e in entries) == [
        ("cancel-timer", "a mistake"),
        ("fire-timer", ""),
    ]
    assert [key for _, key, _ in runs] == ["a"]
    with pytest.raises(UsageError, match="has no timer"):
        ask(path, "fire-timer", "kettle:a")


async def test_what_was_cancelled_at_rest_is_not_fired_by_the_engine_that_starts(
    path: Path,
) -> None:
    clock = ManualClock(START)
    async with kettles(path, clock) as engine:
        for kettle in "ab":
            await engine.execute(SwitchOn(kettle, 15))
    number = ask(path, "cancel-timer", "kettle:a")
    with SqliteOperations(str(path)) as outside:
        assert outside.do_at_rest()
    assert request(path, number).state == "waiting"
    clock.advance(3600)
    async with kettles(path, clock) as engine:
        await until(lambda: engine.statistics().timers.fired)
        assert await answer(path, number) == ("done", "its command is not run")
    assert [key for _, key, _ in runs] == ["b"]


@pytest.mark.parametrize("poll", [0, 100])
async def test_timers_are_fired_if_nobody_looks_for_requests(path: Path, poll: int) -> None:
    async with kettles(path, limits=Limits(control_poll_ms=poll)) as engine:
        await engine.execute(SwitchOn("a", 0))
        await until(lambda: engine.statistics().timers.fired)
