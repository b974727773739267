"""`engine.health()`: what it looks at, what it tells, and that it waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from engine import DefinitionError, EngineError, EngineFailed, Health
from engine.backups.format import MANIFEST, manifest_bytes, manifest_of
from engine.backups.places import FolderPlace
from engine.backups.writing import BackupTarget
from engine.health.looks import Growth
from engine.outside.copying import transfer
from engine.runtime.ports import Ports
from engine.stores.memory import MemoryStore
from engine.stores.urls import open_backend
from engine.testing.scenario import ManualClock
from tests.health.looking import DOWN, GIB, SomeDisk, check, engine_on, failing
from tests.support.counters import Add, counters
from tests.support.tallies import AILING
from tests.support.waiting import until

START = datetime(2026, 1, 31, 8, tzinfo=UTC)


@pytest.fixture(autouse=True)
def all_well() -> Iterator[None]:
    yield
    AILING.clear()
    DOWN.clear()


async def test_an_engine_at_work_is_live_and_ready_and_within_its_bounds(tmp_path: Path) -> None:
    engine = engine_on(f"sqlite:{tmp_path}/log.db")
    before = await engine.health()
    async with engine:
        await engine.execute(Add("a", 1))
        numbers = engine.statistics
        await until(lambda: all(p.lag_events == 0 for p in numbers().projectors.values()))
        report = await engine.health()
    after = await engine.health()

    assert (before.live, before.ready, before.state) == (True, False, "new")
    assert (report.live, report.ready, report.ok, report.position) == (True, True, True, 1)
    assert report.failing == ()
    assert report.role is None
    assert (after.live, after.ready, after.state) == (False, False, "stopped")
    assert check(report, "lag.seconds", "tallies").value == 0.0
    assert check(report, "undelivered.seconds", "outside").bound == 300.0
    assert check(report, "disk.bytes").value == 100 * GIB
    size = check(report, "wal.bytes", "log").value
    assert isinstance(size, int)
    assert 0 < size < GIB
    assert not [one for one in report.checks if one.name in ("owner", "lease", "backup.seconds")]


async def test_a_log_in_memory_has_no_disk_to_tell_of() -> None:
    async with counters(MemoryStore()) as engine:
        report = await engine.health()

    assert report.ok
    assert not [one for one in report.checks if one.name.startswith(("disk", "wal"))]


async def test_an_engine_that_failed_is_not_live(tmp_path: Path) -> None:
    engine = await engine_on(f"sqlite:{tmp_path}/log.db").__aenter__()
    Path(tmp_path, "log.db").unlink()
    with pytest.raises(EngineError):
        await engine.execute(Add("a", 1))
    await until(lambda: engine.failed is not None)
    report = await engine.health()
    with pytest.raises(EngineFailed):
        await engine.__aexit__(None, None, None)

    assert (report.live, report.ready) == (False, False)
    assert check(report, "state").decides == "live"
    assert "Start it again" in check(report, "state").says


async def test_a_stopped_projection_is_named_with_its_position_and_leaves_the_engine_ready(
    tmp_path: Path,
) -> None:
    AILING.add("a")
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        await engine.execute(Add("b", 1))
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["tallies"].failure is not None)
        report = await engine.health()
        strict = await engine.health(Health(unready=["projection"]))

    assert (report.ready, report.ok) == (True, False)
    found = check(report, "projection", "tallies")
    assert (found.ok, found.value) == (False, "stopped")
    assert "stopped at position 2" in found.says
    assert not strict.ready


async def test_what_a_sink_has_not_delivered_has_an_age(tmp_path: Path) -> None:
    clock = ManualClock(START)
    DOWN.append("no such host secret.example")
    async with engine_on(f"sqlite:{tmp_path}/log.db", clock=clock) as engine:
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["outside"].retrying is not None)
        clock.advance(301)
        report = await engine.health()

    found = check(report, "undelivered.seconds", "outside")
    assert (found.ok, found.value) == (False, 301.0)
    assert report.ready
    assert b"secret" not in msgspec.json.encode(report)


async def test_the_lag_of_a_projection_that_never_saw_its_events_is_known_too(
    tmp_path: Path,
) -> None:
    clock, store = ManualClock(START), f"sqlite:{tmp_path}/log.db"
    async with engine_on(store, clock=clock) as engine:
        await engine.projections.pause("tallies", reason="a test")
        await engine.execute(Add("a", 1))
        await engine.execute(Add("a", 1))
    clock.advance(90)
    async with engine_on(store, clock=clock) as engine:
        report = await engine.health()

    assert check(report, "lag.seconds", "tallies").value == 90.0
    assert check(report, "lag.events", "tallies").value == 2
    assert "lag.seconds tallies" in failing(report)


async def test_a_clock_behind_the_log_is_told(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with engine_on(f"sqlite:{tmp_path}/log.db", clock=clock) as engine:
        await engine.execute(Add("a", 1))
        clock.advance(-100)
        report = await engine.health()

    assert (check(report, "clock.behind").ok, check(report, "clock.behind").value) == (False, 100.0)


async def test_a_disk_that_hangs_is_told_of_and_holds_nothing_up(tmp_path: Path) -> None:
    clock, disk = ManualClock(START), SomeDisk()
    async with engine_on(f"sqlite:{tmp_path}/log.db", disk, clock) as engine:
        assert check(await engine.health(), "disk.answer").value == 0.0
        clock.advance(2)
        disk.answers.clear()
        first = await engine.health()
        clock.advance(10)
        second = await engine.health()
        assert engine.is_live
        disk.answers.set()
        await until(lambda: len(disk.asked_by) == 2)
        disk.room = 5
        clock.advance(2)
        third = await engine.health()
        clock.advance(2)
        fourth = await engine.health()

    assert first.ok, "a moment is no trouble"
    assert (second.live, second.ready, failing(second)) == (True, True, ["disk.answer"])
    assert check(second, "disk.answer").value == 10.0
    assert check(second, "disk.bytes").value == 100 * GIB, "as it was seen last"
    assert "disk.answer" not in failing(third)
    assert check(fourth, "disk.bytes").value == 5
    assert set(disk.asked_by) == {"foldline disk"}, "never the event loop's thread"


async def test_a_disk_is_not_asked_again_within_a_second(tmp_path: Path) -> None:
    clock, disk = ManualClock(START), SomeDisk()
    async with engine_on(f"sqlite:{tmp_path}/log.db", disk, clock) as engine:
        for _ in range(3):
            await engine.health()
        assert len(disk.asked_by) == 1
        await asyncio.gather(*(engine.health() for _ in range(20)))
        assert len(disk.asked_by) == 1
        clock.advance(1.5)
        await engine.health()
        assert len(disk.asked_by) == 2


def test_how_long_a_disk_lasts_is_told_from_how_fast_it_fills() -> None:
    growth = Growth()

    assert growth.seconds_left(0.0, 1_000) is None
    assert growth.seconds_left(30.0, 970) is None, "too short to say"
    assert growth.seconds_left(100.0, 900) == 900.0
    assert growth.seconds_left(200.0, 1_200) is None, "somebody has made room"
    assert growth.seconds_left(3_700.0, 800) == pytest.approx(800 * 3_600 / 100)


async def test_a_disk_that_will_be_full_is_told_of_before_it_is(tmp_path: Path) -> None:
    clock, disk = ManualClock(START), SomeDisk(200 * GIB)
    async with engine_on(f"sqlite:{tmp_path}/log.db", disk, clock) as engine:
        await engine.health()
        disk.room = 100 * GIB
        clock.advance(600)
        report = await engine.health()

    assert failing(report) == ["disk.seconds"]
    assert check(report, "disk.seconds").value == 600.0


def backed_up(path: Path, folder: Path, now: int) -> None:
    backend = open_backend(f"sqlite:{path}")
    transfer(
        backend.outside(Ports()).copy_source(),
        BackupTarget(FolderPlace(str(folder)), "log", lambda: now),
        lambda _: None,
        compared=False,
    )


async def test_the_age_of_the_backup_is_what_its_manifest_says(tmp_path: Path) -> None:
    clock, folder = ManualClock(START), tmp_path / "backup"
    bounds = Health(backup=str(folder), backup_seconds_max=3_600)
    async with engine_on(f"sqlite:{tmp_path}/log.db", clock=clock) as engine:
        missing = check(await engine.health(bounds), "backup.seconds")
        await engine.execute(Add("a", 1))
        await asyncio.to_thread(backed_up, tmp_path / "log.db", folder, clock.now())
        clock.advance(600)
        fresh = check(await engine.health(bounds), "backup.seconds")
        clock.advance(3_601)
        old = check(await engine.health(bounds), "backup.seconds")

        manifest = folder / MANIFEST
        found = manifest_of(manifest.read_bytes(), "")
        manifest.write_bytes(manifest_bytes(msgspec.structs.replace(found, log_id="other")))
        clock.advance(2)
        other = check(await engine.health(bounds), "backup.seconds")
        manifest.write_bytes(b"{}")
        clock.advance(2)
        damaged = check(await engine.health(bounds), "backup.seconds")

    assert (missing.ok, missing.value) == (False, None)
    assert "there is no backup" in missing.says
    assert (fresh.ok, fresh.value) == (True, 600.0)
    assert (old.ok, old.value) == (False, 4_201.0)
    assert not other.ok
    assert "another log" in other.says
    assert not damaged.ok
    assert "damaged" in damaged.says


@pytest.mark.parametrize(
    "wrong",
    [
        {"lag_seconds_max": -1},
        {"lag_seconds_max": float("nan")},
        {"disk_bytes_min": "1 GiB"},
        {"parked_max": True},
        {"backup": ""},
        {"unready": "lag.seconds"},
        {"unready": ["lag"]},
    ],
    ids=str,
)
def test_a_bound_that_is_none_is_refused_by_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(DefinitionError, match=rf"Health\.{name}"):
        Health(**wrong)  # type: ignore[arg-type]
