"""Timers that wait are imported with the events that set them, and what was fired is not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine.__main__ import main
from tests.exports.reminding import Wind, make_engine

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
