"""`foldline health`: how a log and its engine are, seen from beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.__main__ import main
from tests.health.looking import engine_on
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.tallies import AILING
from tests.support.waiting import until

DONE, FAILED, USAGE, NOT_OK, NOT_READY = range(5)


@pytest.fixture(autouse=True)
def all_well() -> Iterator[None]:
    yield
    AILING.clear()


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str], log: str) -> None:
        self._capsys, self._log = capsys, log

    async def __call__(self, *options: str) -> tuple[int, dict[str, Any]]:
        # A command has an event loop of its own.
        status = await asyncio.to_thread(main, ["health", self._log, "--json", *options])
        report: dict[str, Any] = msgspec.json.decode(self._capsys.readouterr().out)
        return status, report


def failing(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(check["name"], check["of"]) for check in report["checks"] if not check["ok"]]


async def test_the_status_says_whether_somebody_should_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    command = Command(capsys, str(path))
    async with engine_on(f"sqlite:{path}") as engine:
        await engine.execute(Add("b", 1))
        await until(lambda: engine.statistics().projectors["tallies"].position == 1)
        well, report = await command("--disk", "1")
        AILING.add("a")
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["tallies"].failure is not None)
        ill, stopped = await command("--disk", "1", "--backup", str(tmp_path / "none"))
        full, room = await command("--disk", str(2**62))
    rests, at_rest = await command("--disk", "1")

    assert (well, report["live"], report["ready"], report["ok"]) == (DONE, True, True, True)
    assert (report["state"], report["position"], failing(report)) == ("running", 1, [])
    assert ill == NOT_OK
    assert failing(stopped) == [("projection", "tallies"), ("backup.seconds", "")]
    assert full == NOT_OK
    assert ("disk.bytes", "") in failing(room)
    assert (rests, at_rest["ready"], at_rest["state"]) == (NOT_READY, False, "at-rest")


async def test_a_table_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    async with engine_on(f"sqlite:{path}"):
        pass

    assert main(["health", str(path), "--disk", str(2**62)]) == NOT_READY
    told = capsys.readouterr().out
    assert "no engine has the log open" in told
    assert "free some of the disk" in told


def test_a_log_that_is_not_there_cannot_be_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", str(tmp_path / "log.db")]) == FAILED
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


async def test_a_log_in_postgresql_is_looked_at_beside_its_engine(
    postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url(postgres.new_schema())
    command = Command(capsys, url)
    async with engine_on(url) as engine:
        await engine.execute(Add("b", 1))
        await until(lambda: engine.statistics().projectors["tallies"].position == 1)
        well, report = await command()

    assert (well, failing(report), report["position"]) == (DONE, [], 1)
    (lease,) = [check for check in report["checks"] if check["name"] == "lease"]
    assert lease["value"] > 0


async def test_a_log_whose_views_are_elsewhere_is_looked_at_without_projections(
    postgres: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was told of it, and the status said that the log cannot be read."""
    url = postgres.url(postgres.new_schema())
    async with engine_on(url, views=f"sqlite:{tmp_path / 'views.db'}") as engine:
        await engine.execute(Add("b", 1))
        status = await asyncio.to_thread(main, ["health", url, "--json"])
    told = capsys.readouterr()
    report: dict[str, Any] = msgspec.json.decode(told.out)
    assert (status, report["state"], report["position"]) == (DONE, "running", 1)
    assert "projections are not looked at: there are no views" in told.err
    assert not [check for check in report["checks"] if check["name"] == "projection"]
