"""`python -m engine timers`: what waits for its time, and whether the log says so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from engine import Engine, Ports
from engine.stores.contract.timers import SettledTimer
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.scenario import ManualClock
from tests.cli.looking import outside, shown
from tests.support.waiting import until
from tests.timers.kettles import Forget, Kettle, SwitchOn, failing

START = 1_700_000_000_000_000


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> Path:
    """Four timers: one was cancelled, one was fired, one waits, and one is parked."""
    failing.clear()
    clock = ManualClock(START)
    path = tmp_path / "log.db"
    ports = Ports(clock=clock, watcher=None)
    async with Engine([Kettle], store=f"sqlite:{path}", ports=ports) as engine:
        await engine.execute(SwitchOn("a", 1), correlation="c")
        await engine.execute(SwitchOn("b", 60 * 24 * 365 * 50))
        await engine.execute(SwitchOn("c", 1))
        await engine.execute(Forget("c"))
        clock.advance(60)
        await until(lambda: engine.statistics().timers.fired)
        await engine.execute(SwitchOn("d", 60 * 24 * 365 * 50))
    store = SqliteStore(str(path))
    await store.open(Ports())
    parked = SettledTimer("kettle:d", "off", 6, START, 6, parked=True, cause="HandlerFailed: no")
    await store.settle_timers([parked])
    await store.close()
    return path


def test_timers_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, "timers", path)
    assert (status, err) == (0, "")
    head, first, second = out.splitlines()
    assert head.split() == ["DUE", "STREAM", "NAME", "COMMAND", "STATE", "POSITION"]
    assert first.split() == [*first.split()[:1], "kettle:b", "off", "switch-off", "waits", "2"]
    assert "parked: HandlerFailed: no" in second

    _, out, _ = shown(capsys, "timers", path, "--parked", "--json")
    line = msgspec.json.decode(out)
    assert (line["stream"], line["attempts"], line["parked"]) == ("kettle:d", 6, True)
    assert "payload" not in line


def test_timers_are_paged(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = shown(capsys, "timers", path, "--limit", "1", "--json")
    assert msgspec.json.decode(out)["stream"] == "kettle:b"
    assert err == "more after kettle:b off: --after kettle:b off\n"
    assert "kettle:d" in shown(capsys, "timers", path, "--after", "kettle:b", "off")[1]
    assert shown(capsys, "timers", path, "--name", "x") == (0, "", "no timer matches\n")


def test_timers_are_verified(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "verified: 2 timers, up to position 6\n"
    assert shown(capsys, "timers", path, "--verify") == (0, "", told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM timers WHERE stream = 'kettle:b'", "and the table that it is not there"),
        ("UPDATE timers SET due = due + 1 WHERE stream = 'kettle:b'", "off of kettle:b: the log"),
        ("UPDATE timers SET payload = x'00' WHERE stream = 'kettle:d'", "off of kettle:d: the log"),
        ("UPDATE timers SET name = 'x' WHERE stream = 'kettle:d'", "x of kettle:d: the log says"),
    ],
)
def test_a_table_that_the_log_does_not_say_is_told(
    path: Path, capsys: pytest.CaptureFixture[str], change: str, told: str
) -> None:
    outside(path, change, guarded=False)
    status, _, err = shown(capsys, "timers", path, "--verify")

    assert status == 1
    assert told in err
    assert "timers are not what the log says at position 6" in err


def test_a_timer_is_cancelled_by_the_engine_that_starts(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = shown(capsys, "timers", path, "--cancel", "kettle:b", "off", "--reason", "old")
    assert status == 3
    assert "An engine does it when it starts" in err
    status, _, err = shown(capsys, "timers", path, "--fire", "kettle:b", "on")
    assert (status, "has no timer 'on'" in err) == (1, True)

    async def life() -> None:
        ports = Ports(clock=ManualClock(START), watcher=None)
        async with Engine([Kettle], store=f"sqlite:{path}", ports=ports) as engine:
            await until(lambda: engine.statistics().timers.waiting == 0)

    asyncio.run(life())
    _, out, _ = shown(capsys, "timers", path, "--name", "off")
    assert re.search(r"kettle:b +off +switch-off +cancelled by cli:.*: old", out)
    assert shown(capsys, "timers", path, "--verify")[0] == 0
