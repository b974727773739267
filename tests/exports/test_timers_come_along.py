"""Timers that wait are imported with the events that set them, and what was fired is not."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine import Engine, Ports
from engine.__main__ import main
from engine.testing.scenario import ManualClock
from tests.exports.reminding import Bell, Wind, make_engine
from tests.support.waiting import until

APP = ("--app", "tests.exports.reminding:make_engine")


@pytest.fixture
async def log(tmp_path: Path) -> str:
    path = tmp_path / "bells.db"
    async with make_engine(f"sqlite:{path}") as engine, asyncio.timeout(10):
        await engine.execute(Wind("b"))
        async for logged in engine.feed(follow=True):
            if logged.meta.position == 2:  # it has rung
                break
    return str(path)


def test_a_timer_that_waits_is_imported_and_one_that_was_fired_is_not(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, again = str(tmp_path / "bells.jsonl"), str(tmp_path / "again.db")
    assert main(["export", log, "--to", lines]) == 0
    assert main(["import", lines, again, *APP]) == 0
    capsys.readouterr()

    assert main(["timers", again, "--json"]) == 0

    waiting = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(timer["stream"], timer["name"]) for timer in waiting] == [("bell:b", "later")]
    assert main(["timers", again, "--verify"]) == 0


def test_timers_whose_time_has_come_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines, again = (str(tmp_path / name) for name in ("a.db", "a.jsonl", "b.db"))
    asyncio.run(cancelled(path))
    assert main(["export", path, "--to", lines]) == 0

    assert main(["import", lines, again, *APP]) == 0

    assert "an engine fires 1 timer when it starts" in capsys.readouterr().err


async def cancelled(path: str) -> None:
    """Let an operator cancel a timer whose time is two days ago."""
    clock = ManualClock(datetime.now(UTC) - timedelta(days=3))
    async with Engine([Bell], store=f"sqlite:{path}", ports=Ports(clock=clock)) as engine:
        await engine.execute(Wind("b"))
        await until(lambda: engine.statistics().timers.fired == 1)
        await engine.cancel_timer("bell:b", "later", reason="it is broken")
