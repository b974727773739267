"""A command is scheduled without an aggregate of the host's, once or again and again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine import Engine, InvalidInput, MemoryStore, Ports, Rejected, Schedule
from engine.testing.scenario import ManualClock
from engine.timers.schedule import next_run
from tests.support.waiting import settle, until

from .kettles import Kettle, Strange, Whistle, failing, runs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BERLIN = "Europe/Berlin"


@pytest.fixture
def clock() -> ManualClock:
    runs.clear()
    failing.clear()
    return ManualClock(NOW)


def kettles(clock: ManualClock, store: Any = None) -> Engine:
    ports = Ports(clock=clock, watcher=None)
    return Engine([Kettle, Schedule], store=store or MemoryStore(), ports=ports)


async def whistled(engine: Engine, times: int) -> None:
    await until(lambda: len(runs) == times and not engine.statistics().timers.due)


async def test_a_command_is_run_once_at_a_time(clock: ManualClock) -> None:
    async with kettles(clock) as engine:
        await engine.schedule(Whistle("a"), "first", at=NOW + timedelta(hours=1))
        await engine.schedule(Whistle("b"), "second", after=timedelta(minutes=30))
        clock.advance(1_800)
        await whistled(engine, 1)
        clock.advance(1_800)
        await whistled(engine, 2)
        assert [kettle for _, kettle, _ in runs] == ["b", "a"]
        assert engine.statistics().timers.waiting == 0


async def test_a_command_is_run_again_and_again(tmp_path: Path, clock: ManualClock) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with kettles(clock, store) as engine:
        await engine.schedule(Whistle("k"), "hourly", every=timedelta(hours=1))
        for hour in range(1, 4):
            clock.advance(3_599)
            await settle()
            assert len(runs) == hour - 1
            clock.advance(1)
            await whistled(engine, hour)
    clock.advance(10 * 3_600 + 1_800)
    async with kettles(clock, store) as engine:
        await whistled(engine, 4)  # those that were missed are made up for by one
        clock.advance(1_800)
        await whistled(engine, 5)  # and the beat is kept
        assert (await engine.state(Kettle, "k")).whistles == 5


async def test_a_schedule_is_replaced_and_dropped(clock: ManualClock) -> None:
    async with kettles(clock) as engine:
        await engine.schedule(Whistle("a"), "one", every=timedelta(hours=1))
        await engine.schedule(Whistle("b"), "one", after=timedelta(hours=2))
        clock.advance(7_200)
        await whistled(engine, 1)
        assert runs[0][1] == "b"
        await engine.schedule(Whistle("a"), "one", cron="0 * * * *")
        await engine.unschedule("one")
        with pytest.raises(Rejected, match="nothing is scheduled as one"):
            await engine.unschedule("one")
        clock.advance(100_000)
        await settle()
        assert len(runs) == 1
        assert engine.statistics().timers.waiting == 0


def at(*fields: int, zone: str = BERLIN, fold: int = 0) -> int:
    moment = datetime(*fields, tzinfo=ZoneInfo(zone), fold=fold)  # type: ignore[misc, arg-type]
    return round(moment.timestamp() * 1e6)


@pytest.mark.parametrize(
    ("cron", "now", "expected"),
    [
        ("30 3 * * *", at(2026, 3, 1, 12, 0), at(2026, 3, 2, 3, 30)),
        ("30 2 * * *", at(2026, 3, 28, 12, 0), at(2026, 3, 29, 3, 0)),  # the hour is missing
        ("30 2 * * *", at(2026, 10, 24, 12, 0), at(2026, 10, 25, 2, 30)),  # it comes twice
        ("30 2 * * *", at(2026, 10, 25, 2, 30), at(2026, 10, 26, 2, 30)),  # it is run once
        # What is repeated follows the time that passes.
        ("*/30 * * * *", at(2026, 10, 25, 2, 30), at(2026, 10, 25, 2, 0, fold=1)),
        ("*/30 2 * * *", at(2026, 10, 25, 2, 30), at(2026, 10, 25, 2, 0, fold=1)),
        # Behind its time of the first round, it is not run in the second one.
        ("45 2 * * *", at(2026, 10, 25, 2, 20, fold=1), at(2026, 10, 26, 2, 45)),
        ("10,50 1-2 * * *", at(2026, 10, 25, 2, 5, fold=1), at(2026, 10, 26, 1, 10)),
        ("0 * * * *", at(2026, 3, 29, 1, 0), at(2026, 3, 29, 3, 0)),
        ("*/30 2 * * *", at(2026, 3, 28, 12, 0), at(2026, 3, 30, 2, 0)),
    ],
)
def test_times_of_a_zone_are_found(cron: str, now: int, expected: int) -> None:
    assert next_run(now, now, 0, cron, BERLIN) == expected


async def test_a_run_that_is_made_up_for_in_the_hour_that_comes_twice_has_a_next_one() -> None:
    """Its next time was an hour past: no timer takes that, and the schedule was parked for good."""
    clock = ManualClock(datetime(2026, 10, 24, 12, tzinfo=UTC))
    store = MemoryStore()
    runs.clear()
    async with kettles(clock, store) as engine:
        await engine.schedule(Whistle("k"), "nightly", cron="45 2 * * *", zone=BERLIN)
    clock.advance(13.5 * 3_600)  # 01:30 UTC: 02:30 in Berlin for the second time
    async with kettles(clock, store) as engine:
        await whistled(engine, 1)
        assert await engine.next_timer() == at(2026, 10, 26, 2, 45)
        told = await engine.schedule(Whistle("k"), "another", cron="40 2 * * *", zone=BERLIN)
        assert told.version == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "say when"),
        ({"at": NOW, "after": timedelta(1)}, "not two of a pair"),
        ({"every": timedelta(1), "cron": "* * * * *"}, "not two of a pair"),
        ({"at": datetime(2026, 3, 2)}, "with a time zone"),
        ({"at": NOW - timedelta(hours=1)}, "-3,600 s from now"),
        ({"after": timedelta(days=36_525)}, "within 36,500 days"),
        ({"after": 15}, "is a timedelta"),
        ({"every": timedelta(milliseconds=1)}, "at least 1 s"),
        ({"cron": "often"}, "cron='often' is none"),
        ({"cron": "0 0 30 2 *"}, "cron="),
        ({"cron": "* * * * *", "zone": "Europe/Nowhere"}, "names a time zone"),
        ({"command": Strange("k"), "after": timedelta(1)}, "which no aggregate"),
        ({"name": "No Name", "after": timedelta(1)}, "a stored name is"),
    ],
)
async def test_what_cannot_be_scheduled_is_refused(
    clock: ManualClock, given: dict[str, Any], told: str
) -> None:
    async with kettles(clock) as engine:
        with pytest.raises(InvalidInput, match=told):
            await engine.schedule(
                given.pop("command", Whistle("k")), given.pop("name", "n"), **given
            )
        assert engine.statistics().position == 0
