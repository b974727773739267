"""Timers that are set aside are counted as they stand, and tried by the release that knows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Limits,
    MemoryStore,
    Ports,
    Schedule,
    TimerStatistics,
    applies,
    handles,
)
from engine.stores.contract.timers import SettledTimer, WaitingTimer
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.scenario import ManualClock
from engine.timers.tally import Tally
from tests.backups.looked_at import verified
from tests.support.postgres import Server
from tests.support.waiting import settle, until

from .kettles import Forget, Kettle, SwitchOff, SwitchOn, Whistle, failing, runs

START = 1_000_000_000
FIRST = "kettle:a", "off"
TEXTS = ("command", "cause", "name", "stream")
LIMITS = Limits(timer_retries=1)


class Begin(Command):
    lamp: Id


class Begun(Event, name="lamp-begun"):
    pass


class Lamp(Aggregate, kind="lamp"):
    """Its timer is for a kettle, which an older release does not have."""

    @handles
    def begin(self, command: Begin) -> Decision[Begun]:
        return Decision(Begun(), timers=[After(SwitchOff(self.id), "off", seconds=1)])

    @applies
    def begun(self, event: Begun) -> None: ...


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    failing.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def opened(store: Any, clock: ManualClock, *kinds: type[Aggregate]) -> Engine:
    ports = Ports(clock=clock, watcher=None)
    return Engine(list(kinds) or [Kettle], store=store, ports=ports, limits=LIMITS)


@pytest_asyncio.fixture(params=["memory", "sqlite", "postgres"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Engine]:
    store: Any = MemoryStore() if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        store = server.url(server.new_schema())
    async with opened(store, clock) as engine:
        yield engine


def numbers(engine: Engine) -> TimerStatistics:
    return engine.statistics().timers


async def stands(engine: Engine, clock: ManualClock, *, waiting: int, parked: int) -> None:
    """Wait until the numbers are these, and in no doubt; nothing overlaps with a count then."""
    tally: Any = engine._wiring.firing._tally  # pyright: ignore[reportPrivateUsage]

    def is_settled() -> bool:
        if tally._counts:
            return False  # it would take as long as the clock jumps meanwhile
        clock.advance(tally.seconds or 0)
        found = numbers(engine).waiting, numbers(engine).parked
        return tally.seconds is None and found == (waiting, parked)

    await until(is_settled, seconds=15)
    clock.advance(2)


async def set_aside(engine: Engine, clock: ManualClock, *kettles: str) -> None:
    failing.update(kettles)
    for kettle in kettles:
        await engine.execute(SwitchOn(kettle, 0))
    await until(lambda: numbers(engine).failed == len(kettles))
    clock.advance(2)
    await until(lambda: numbers(engine).parked == len(kettles))
    await stands(engine, clock, waiting=0, parked=len(kettles))
    failing.clear()


async def test_one_that_was_set_aside_and_is_cancelled_or_set_again_is_counted_no_more(
    engine: Engine, clock: ManualClock
) -> None:
    await set_aside(engine, clock, "a", "b", "c")

    await engine.execute(Forget("a"))
    await stands(engine, clock, waiting=0, parked=2)
    await engine.execute(SwitchOn("b", 10))
    await stands(engine, clock, waiting=1, parked=1)
    clock.advance(601)
    await stands(engine, clock, waiting=0, parked=1)

    assert await engine.retry_timers() == 1
    await stands(engine, clock, waiting=0, parked=0)
    checks = (await engine.health()).checks
    assert next(check for check in checks if check.name == "timers.parked").ok


async def test_one_that_an_operator_cancelled_and_is_set_again_waits(
    engine: Engine, clock: ManualClock
) -> None:
    await engine.execute(SwitchOn("a", 10))
    await engine.cancel_timer("kettle:a", "off")
    await stands(engine, clock, waiting=0, parked=0)

    await engine.execute(SwitchOn("a", 10))
    await stands(engine, clock, waiting=1, parked=0)


async def test_what_an_older_release_set_aside_is_run_by_the_newer_one(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = f"sqlite:{tmp_path / 'log.db'}"
    async with opened(path, clock, Lamp, Kettle) as engine:
        await engine.execute(Begin("l"))
    clock.advance(1)
    async with opened(path, clock, Lamp) as older:
        await until(lambda: numbers(older).failed == 1)
        clock.advance(2)
        await until(lambda: numbers(older).parked == 1)
    async with opened(path, clock, Lamp) as older:
        clock.advance(60)
        await until(lambda: numbers(older).parked == 1)
    async with opened(path, clock, Lamp, Kettle) as engine:
        await until(lambda: numbers(engine).fired == 1)
        await stands(engine, clock, waiting=0, parked=0)

    assert [kettle for _, kettle, _ in runs] == ["l"]


async def test_a_schedule_that_an_older_release_set_aside_goes_on_in_the_newer_one(
    tmp_path: Path, clock: ManualClock
) -> None:
    """The command of its timer is the schedule's own, which both know; they differ in the other."""
    path = f"sqlite:{tmp_path / 'log.db'}"
    async with opened(path, clock, Kettle, Schedule) as engine:
        await engine.schedule(Whistle("k"), "hourly", every=timedelta(hours=1))
    clock.advance(3_600)
    async with opened(path, clock, Lamp, Schedule) as older:
        await until(lambda: numbers(older).failed == 1)
        clock.advance(2)
        await until(lambda: numbers(older).parked == 1)
    with SqliteLogReader(str(tmp_path / "log.db")) as log:
        [timer] = log.read_timers(timers_max=9)
    assert "of another release): the command 'whistle' of a timer is handled by 0" in timer.cause
    async with opened(path, clock, Kettle, Schedule) as engine:
        await until(lambda: len(runs) == 1)
        clock.advance(3_600)
        await until(lambda: len(runs) == 2)
        await stands(engine, clock, waiting=1, parked=0)


async def test_what_this_release_failed_at_stays_set_aside_over_a_start(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = f"sqlite:{tmp_path / 'log.db'}"
    async with opened(path, clock) as engine:
        await set_aside(engine, clock, "a")
        tries = len(runs)
    async with opened(path, clock) as engine:
        await engine.execute(SwitchOn("b", 0))
        await until(lambda: numbers(engine).fired == 1)

        assert numbers(engine).parked == 1
    assert [kettle for _, kettle, _ in runs[tries:]] == ["b"]


class Counting(MemoryStore):
    """It tells how often it has counted, and may be told to see what nobody has noted yet."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def count_timers(self) -> tuple[int, int, int]:
        self.counts += 1
        found = await super().count_timers()
        self.meanwhile()
        return found


async def test_none_is_counted_again_as_long_as_none_is_set_aside(clock: ManualClock) -> None:
    store = Counting()
    async with opened(store, clock) as engine:
        await engine.execute(SwitchOn("a", 10))
    store.counts = 0
    async with opened(store, clock) as engine:
        for n in range(5):
            await engine.execute(SwitchOn(f"b{n}", 10))
            clock.advance(2)
        clock.advance(601)
        await until(lambda: numbers(engine).fired == 6)
    assert store.counts == 1


@pytest.mark.parametrize("others", ["", "b"], ids=["alone", "beside-another"])
async def test_one_that_was_cancelled_before_a_restart_and_is_set_again_is_counted(
    others: str, clock: ManualClock
) -> None:
    store = MemoryStore()
    async with opened(store, clock) as engine:
        for kettle in f"a{others}":
            await engine.execute(SwitchOn(kettle, 10))
        await engine.cancel_timer("kettle:a", "off")
    async with opened(store, clock) as engine:
        assert numbers(engine).waiting == len(others)
        await engine.execute(SwitchOn("a", 20))
        await stands(engine, clock, waiting=1 + len(others), parked=0)


async def test_a_count_is_not_taken_if_something_changes_meanwhile(clock: ManualClock) -> None:
    store = Counting()
    tally = Tally(store, clock)
    tally.begin(5, 1, 0)
    store.meanwhile = lambda: tally.changed(-2)

    def told() -> tuple[int, int, float | None]:
        return tally.waiting, tally.parked, tally.seconds

    await tally.count()
    assert told() == (2, 1, 1)
    store.meanwhile = lambda: None
    clock.advance(1)
    assert told() == (2, 1, 0)
    await tally.count()
    assert told() == (0, 0, None)
    # What was under way may have been counted, and is noted after that.
    tally.changed(1)
    assert told() == (1, 0, 1)


class ReadTogether(MemoryStore):
    """Gives a page of timers when as many have asked for one as are expected to."""

    expected = 0

    async def read_timers(
        self, after: tuple[str, str] = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        found = await super().read_timers(after, timers_max=timers_max)
        self.expected -= 1
        await until(lambda: self.expected <= 0)
        return found


async def test_what_is_let_wait_and_fired_at_once_is_counted_once(clock: ManualClock) -> None:
    store = ReadTogether()
    async with opened(store, clock) as engine:
        await set_aside(engine, clock, "a", "b")
        store.expected = 2
        await asyncio.gather(engine.retry_timers(), engine.fire_timer(*FIRST))
        assert numbers(engine).parked == 0, "and not one less than none"
        await stands(engine, clock, waiting=0, parked=0)


class SettlesLate(MemoryStore):
    """Settles when others have had their turn, and when it is let."""

    is_held = False
    asked = 0

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        self.asked += 1
        await settle()
        await until(lambda: not self.is_held)
        return await super().settle_timers(settled)


async def test_what_two_people_let_wait_at_once_is_counted_once(clock: ManualClock) -> None:
    async with opened(SettlesLate(), clock) as engine:
        await set_aside(engine, clock, "a", "b")
        assert sorted(await asyncio.gather(engine.retry_timers(), engine.retry_timers())) == [0, 2]
        await stands(engine, clock, waiting=0, parked=0)


async def test_what_is_set_anew_before_it_is_let_wait_is_counted_once(clock: ManualClock) -> None:
    store = SettlesLate()
    async with opened(store, clock) as engine:
        await set_aside(engine, clock, "a", "b")
        store.is_held, before = True, store.asked
        retried = asyncio.ensure_future(engine.retry_timers())
        await until(lambda: store.asked > before)
        await engine.execute(SwitchOn("a", 0))
        await stands(engine, clock, waiting=0, parked=1)
        store.is_held = False
        await retried
        await stands(engine, clock, waiting=0, parked=0)


class ToldLate(MemoryStore):
    """What it has settled stands there some turns before it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.settled = 0

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        gone = await super().settle_timers(settled)
        await settle()
        self.settled += len(settled)
        return gone


async def test_what_is_set_aside_is_told_before_it_is_counted(clock: ManualClock) -> None:
    store = ToldLate()
    failing.update("ab")
    async with opened(store, clock) as engine:
        await engine.execute(SwitchOn("a", 0))
        await until(lambda: store.settled == 1)
        clock.advance(0.5)
        await engine.execute(SwitchOn("b", 0))
        await until(lambda: store.settled == 2)
        clock.advance(0.5)
        await until(lambda: numbers(engine).failed == 3)
        clock.advance(0.5)  # the other one fails while the first is settled
        await until(lambda: store.settled == 4)
        await settle()
        assert (numbers(engine).waiting, numbers(engine).parked) == (0, 2)


DAMAGE = ["metadata = x'ff'", "payload = x'ff'", *(f"{c} = CAST(x'ff' AS TEXT)" for c in TEXTS)]


@pytest.mark.parametrize("damage", DAMAGE, ids=[each.split()[0] for each in DAMAGE])
async def test_a_timer_that_is_damaged_keeps_no_other_from_its_time(
    tmp_path: Path, clock: ManualClock, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:{path}", clock) as engine:
        await engine.execute(SwitchOn("a", 1))
        await engine.execute(SwitchOn("b", 1))
    with closing(apsw.Connection(str(path))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.execute(f"UPDATE timers SET {damage} WHERE stream = 'kettle:a'")
    clock.advance(timedelta(minutes=2))
    if damage.startswith(("command", "payload", "metadata")):
        assert "another time, command or metadata of it" in verified(f"sqlite:{path}")[1][0]

    async with opened(f"sqlite:{path}", clock) as engine:
        await until(lambda: engine.failed or ("off", "b") in [run[:2] for run in runs])
        assert engine.failed is None
        await engine.execute(SwitchOn("c", 1))
        for _ in range(5):
            clock.advance(2)  # all are asked for again
            await engine.execute(SwitchOn("d", 0))
        await until(lambda: ("off", "d") in [run[:2] for run in runs])
        assert engine.failed is None
    if damage.startswith(("name", "stream")):
        assert caplog.text.count("a text in it is no UTF-8. Run `foldline verify`") == 1
        assert "is tried again" not in caplog.text
