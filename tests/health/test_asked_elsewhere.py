"""Health that is asked from another loop or process, and of files and clocks that were moved."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import Engine, Health
from engine.backups.places import FolderPlace
from engine.backups.writing import BackupTarget
from engine.health import watch
from engine.health.looks import Looks, look_at_backup
from engine.health.watch import HealthWatch
from engine.host.entrance import Entrance
from engine.host.supervisor import Life
from engine.outside.copying import transfer
from engine.runtime.ports import Ports
from engine.stores.contract.disk import DiskSpace
from engine.stores.urls import open_backend
from engine.testing.scenario import ManualClock
from tests.health.looking import check, engine_on
from tests.strangers.forking import status_of_fork
from tests.support.counters import Add, Counter, counters

START = datetime(2026, 1, 31, 8, tzinfo=UTC)


def test_who_asks_from_another_loop_is_answered_by_the_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_LOOP_SECONDS", 60)
    engine = Engine([Counter], store="memory:")
    with engine.portal() as portal:
        portal.execute(Add("a", 1))
        for _ in range(2):
            report = asyncio.run(engine.health())
            assert (report.ready, report.ok, report.position) == (True, True, 1)


def test_an_event_loop_that_stands_still_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOP_SECONDS", 0.05)
    engine, goes_on = Engine([Counter], store="memory:"), threading.Event()
    with engine.portal():
        engine.usable_loop().call_soon_threadsafe(goes_on.wait)
        try:
            report = asyncio.run(engine.health())
        finally:
            goes_on.set()
    assert (report.live, report.ready, report.ok, report.state) == (True, False, False, "blocked")
    assert "does not answer" in check(report, "state").says


def test_an_event_loop_that_was_closed_under_its_engine_is_not_live() -> None:
    life = Life()
    entrance = Entrance(life)

    async def start() -> None:
        entrance.open()
        life.state = "running"

    asyncio.run(start())
    engine = Engine([Counter], store="memory:")
    facts = engine._health._facts  # pyright: ignore[reportPrivateUsage]
    alone = HealthWatch(life, entrance, Ports(), None, str, facts, lambda: None)
    report = asyncio.run(alone.report(Health()))
    assert (report.live, report.ready, report.state) == (False, False, "abandoned")


async def test_a_process_that_forked_from_the_engines_is_not_live(tmp_path: Path) -> None:
    async with counters(f"sqlite:{tmp_path}/log.db") as engine:

        def child() -> bool:
            asyncio._set_running_loop(None)
            report = asyncio.new_event_loop().run_until_complete(engine.health())
            return not (engine.is_live or report.live or report.ready) and report.state == "forked"

        assert status_of_fork(child) == 0
        assert (await engine.health()).live


async def test_a_log_that_was_moved_is_told_of_before_the_next_commit(tmp_path: Path) -> None:
    clock, log = ManualClock(START), tmp_path / "log.db"
    async with engine_on(f"sqlite:{log}", clock=clock) as engine:
        log.rename(tmp_path / "elsewhere.db")
        moved = check(await engine.health(), "disk.bytes")
        (tmp_path / "elsewhere.db").rename(log)
        clock.advance(2)
        back = check(await engine.health(), "disk.bytes")
    assert (moved.ok, moved.value) == (False, None)
    assert "see where it is" in moved.says
    assert back.ok


def test_a_backup_of_tomorrow_has_no_age(tmp_path: Path) -> None:
    folder, now = tmp_path / "backup", ManualClock(START).now()

    async def write() -> None:
        async with counters(f"sqlite:{tmp_path}/log.db") as engine:
            await engine.execute(Add("a", 1))

    asyncio.run(write())
    transfer(
        open_backend(f"sqlite:{tmp_path}/log.db").outside(Ports()).copy_source(),
        BackupTarget(FolderPlace(str(folder)), "log", lambda: now),
        lambda _: None,
        compared=False,
    )
    assert look_at_backup(str(folder), "", now - 30_000_000).says == ""
    early = look_at_backup(str(folder), "", now - 86_400_000_000)
    assert early.seconds is None
    assert "86,400 s from now" in early.says


class Breaking:
    """A store whose disk can be looked at once."""

    looked = False

    def disk(self, ports: Ports) -> DiskSpace:
        if self.looked:
            raise MemoryError
        self.looked = True
        return DiskSpace(1, 1, {})


async def test_what_was_seen_before_a_look_failed_is_not_told_on() -> None:
    clock, store = ManualClock(START), Breaking()
    looks = Looks(Ports(clock=clock))
    seen = await looks.disk(store)
    clock.advance(2)
    unseen = await looks.disk(store)
    await looks.close()
    assert seen[0] is not None
    assert unseen[0] is None
