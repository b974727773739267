"""A clock that cannot be right is told of: before it does harm, while it does, and afterwards."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from engine import Ports
from engine.write.recorded_time import Timekeeper
from tests.support.counters import Add, Counter, counters

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_790_000_000 * SECOND


class Clock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.wall = NOW
        self.steady = 50.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def passes(self, microseconds: int) -> None:
        self.wall += microseconds
        self.steady += microseconds / SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timekeeper(clock: Clock) -> Timekeeper:
    return Timekeeper(clock, logging.getLogger("foldline"))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    caplog.clear()
    return texts


@pytest.mark.parametrize("recorded", [0, NOW, NOW - 9 * 365 * DAY, NOW + 59 * SECOND])
def test_a_clock_that_may_be_right_is_not_told_of(
    recorded: int, clock: Clock, timekeeper: Timekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    timekeeper.begin(recorded)
    for step in (0, 1, 3_600 * SECOND, 400 * DAY):
        clock.passes(step)
        assert timekeeper.now() == clock.wall
    clock.wall += 29 * DAY  # the machine has slept
    timekeeper.now()
    clock.wall -= 30 * SECOND
    timekeeper.now()

    assert told(caplog) == []


def test_a_clock_that_jumps_ahead_is_told_of_before_anything_is_recorded(
    clock: Clock, timekeeper: Timekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    timekeeper.begin(NOW)
    timekeeper.now()
    clock.wall += 40 * DAY

    assert timekeeper.now() == clock.wall
    [text] = told(caplog)
    assert "2026-10-31T" in text
    assert "cannot be taken back" in text
    timekeeper.now()
    assert told(caplog) == []


def test_a_log_that_rested_for_decades_is_told_of_at_the_start(
    timekeeper: Timekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    timekeeper.begin(NOW - 11 * 365 * DAY)

    assert len(told(caplog)) == 1


def test_a_clock_behind_the_log_is_told_of_once_each_time(
    clock: Clock, timekeeper: Timekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    timekeeper.begin(NOW + 2 * DAY)
    [text] = told(caplog)
    assert "2026-09-23T" in text
    for _ in range(3):
        timekeeper.now()
    assert told(caplog) == []
    clock.passes(3 * DAY)
    timekeeper.now()
    clock.wall -= DAY
    timekeeper.now()

    assert len(told(caplog)) == 1


def test_a_time_that_no_date_can_say_is_told_as_a_number(
    timekeeper: Timekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    timekeeper.begin(2**62)

    assert "4611686018427387904 µs since 1970" in told(caplog)[0]


async def test_one_batch_at_a_wrong_time_is_told_of_at_each_later_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, store = Clock(), f"sqlite:{tmp_path}/log.db"
    years: list[list[int]] = []
    texts: list[int] = []
    for ahead in (0, 20_000 * DAY, 0, 0):
        clock.wall = NOW + ahead
        async with counters(store, ports=Ports(clock=clock)) as engine:
            await engine.execute(Add("a", 1))
            page = await engine.history(Counter, "a")
            years.append([logged.meta.time.year for logged in page.events])
        texts.append(len(told(caplog)))

    assert years[-1] == [2026, 2081, 2081, 2081]
    assert texts == [0, 1, 1, 1]


async def test_a_log_handler_that_raises_costs_no_command(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("the log is full")

    clock, logger = Clock(), logging.getLogger("foldline.raising")
    logger.addFilter(Raising())
    async with counters(ports=Ports(clock=clock), logger=logger) as engine:
        await engine.execute(Add("a", 1))
        clock.wall += 300 * DAY
        await engine.execute(Add("a", 1))
        clock.wall -= 300 * DAY

        assert (await engine.execute(Add("a", 1))).version == 3


def test_the_clock_of_this_machine_may_be_right(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Timekeeper(Ports().clock, logging.getLogger("foldline"))
    keeper.begin(time.time_ns() // 1_000)
    keeper.now()

    assert told(caplog) == []
