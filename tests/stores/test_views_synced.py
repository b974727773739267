"""Views in SQLite that are synced, killed, folded, or on a disk that fails."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.errors import StoreFailed, StoreRefused
from engine.limits import Limits
from engine.runtime.ports import Ports
from engine.stores.contract.views import Changes, Checkpoint, Parked, ProjectionDecision
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.views.catalog import Catalog
from engine.stores.sqlite.views.store import SqliteViews
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.machine import SimulatedFiles
from tests.support.shelf import Bought, Counts, Library, Log, Wired, part_of, written


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.views.db")


async def test_the_wal_is_folded_into_the_file_when_it_is_large(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", 100_000)
    log = Log()
    async with Wired(log, path, [Library]) as wired:
        sizes: list[int] = []
        for n in range(40):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
            sizes.append(Path(path + "-wal").stat().st_size)

        written = Path(path).stat().st_size
    assert sizes == sorted(sizes), "it is written over, and never cut"
    assert sizes[-1] < 200_000 < written


async def test_a_larger_wal_is_folded_where_folding_takes_much_of_the_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MIN", 50_000)
    monkeypatch.setattr(sqlite_wal, "_TIME_SHARE", 1e9)
    async with Wired(Log(), path, [Library]) as wired:
        for n in range(20):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
        assert wired.views._wal is not None
        assert wired.views._wal.bound.bytes > 50_000


def simulated(folder: Path) -> tuple[Disk, Ports]:
    disk = Disk(folder / "disk", random.Random(1))
    return disk, Ports(files=SimulatedFiles(disk))


async def open_views(disk: Disk, ports: Ports, log: Log) -> SqliteViews:
    views = SqliteViews(str(disk.folder / "shop.views.db"))
    await views.open(ports, Limits(), log, [Counts])
    return views


async def move(views: SqliteViews, log: Log, before: int, after: int) -> None:
    """Move the checkpoint, with no rows."""
    sums = [0, *(e.checksum for e in await log.read_feed(0, events_max=9, bytes_max=1 << 20))]
    there, then = (Checkpoint(n, sums[n]) if n else Checkpoint() for n in (before, after))
    await views.write(Changes(part_of(Counts), there, then, {}))


async def test_after_a_failed_sync_the_views_take_nothing_until_they_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    assert views._wal is not None
    views._wal.bound.next = 1  # let it fold, which is when views are synced
    disk.sync_failures = 1.0
    with pytest.raises(StoreFailed, match="could not be written"):
        await move(views, log, 1, 2)
    disk.sync_failures = 0.0

    with pytest.raises(
        StoreFailed, match="take nothing more since a sync of their file has failed"
    ):
        await move(views, log, 2, 3)
    disk.notes_calls = True
    await views.close()
    assert "delete shop.views.db-wal" not in disk.calls
    again = await open_views(disk, ports, log)
    assert (await again.checkpoint(part_of(Counts))).position == 2
    await again.close()
    disk.dispose()


async def test_what_somebody_decided_survives_a_loss_of_power(tmp_path: Path) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    await views.decide(ProjectionDecision("counts", "skip", 7, 1, 2, "a test", "ann", 77))
    await views.decide(ProjectionDecision("counts", "pause", 8, 1))
    await move(views, log, 1, 3)
    image = disk.survivors("nothing", random.Random(2))
    disk.dead = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart(image)

    views = await open_views(disk, ports, log)
    assert await views.decisions() == [
        ProjectionDecision("counts", "skip", 7, 1, 2, "a test", "ann", 77),
        ProjectionDecision("counts", "pause", 8, 1),
    ]
    assert await views.skipped(Counts.__definition__) == {2: 77}
    assert await views.is_paused("counts")
    assert (await views.checkpoint(part_of(Counts))).position == 1, "only decisions are synced"
    await views.close()
    disk.dispose()


async def test_after_a_fold_that_could_not_be_synced_nothing_is_written_in_the_same_turn(
    tmp_path: Path,
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    assert views._wal is not None
    assert views._writer is not None
    views._wal.bound.next = 1
    disk.sync_failures = 1.0
    with pytest.raises(StoreFailed, match="a sync has failed"):
        await views._writer.run(views._wrote, [])
    disk.sync_failures = 0.0

    assert views._stopped
    await views.close()
    disk.dispose()


async def test_views_whose_tables_cannot_be_synced_are_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ports = simulated(tmp_path)
    prepare = Catalog.prepare

    def failing(*args: Any) -> None:
        disk.sync_failures = 1.0
        disk.notes_calls = True
        prepare(*args)

    monkeypatch.setattr(Catalog, "prepare", failing)
    with pytest.raises(StoreFailed, match=r"could not be written: a sync has failed"):
        await open_views(disk, ports, written(1))

    assert disk.failed == ["sync shop.views.db-wal: EIO"]
    # What is not on the disk must not be folded into the file.
    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    disk.dispose()


async def test_views_that_a_killed_process_left_are_folded_in_before_they_are_used(
    tmp_path: Path,
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    disk.dead = disk.only_killed = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart()

    views = await open_views(disk, ports, log)
    shown = (await views.checkpoint(part_of(Counts))).position
    disk.dead = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart(disk.survivors("nothing", random.Random(2)))
    views = await open_views(disk, ports, log)

    assert shown == 1, "otherwise this test shows nothing"
    assert (await views.checkpoint(part_of(Counts))).position == 1
    await views.close()
    disk.dispose()


async def test_views_that_cannot_be_made_durable_are_refused(tmp_path: Path) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    disk.dead = disk.only_killed = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart()
    disk.sync_failures = 1.0
    disk.notes_calls = True

    with pytest.raises(StoreRefused, match=r"shop\.views\.db could not be opened"):
        await open_views(disk, ports, log)

    assert disk.failed == ["sync shop.views.db-wal: EIO"]
    disk.sync_failures = 0.0
    disk.close_connections()
    # What is not on the disk must not be folded into the file.
    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    views = await open_views(disk, ports, log)
    assert (await views.checkpoint(part_of(Counts))).position == 1
    await views.close()
    disk.dispose()


async def test_the_decision_to_skip_an_event_takes_it_out_of_what_is_parked(
    tmp_path: Path,
) -> None:
    """In its own transaction: whoever is killed behind it leaves nothing to be retried."""
    log = written(1, 2)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    part = part_of(Counts)
    at = await views.checkpoint(part)
    parked = Parked(1, "book:b", "bought v1", "book:b", 0, 1, "a test")
    await views.write(Changes(part, at, at, {}, (parked,)))
    assert await views.parked("counts") == [parked]
    await views.decide(ProjectionDecision("counts", "skip", 0, 1, 1, "a test", None))

    assert await views.parked("counts") == []
    await views.close()
    disk.dispose()


@pytest.mark.parametrize("failing", ["opening", "deciding"])
async def test_a_decision_that_could_not_be_synced_is_folded_nowhere(
    tmp_path: Path, failing: str
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await views.close()
    disk.notes_calls = True
    if failing == "opening":
        disk.sync_failures = 1.0
        again = SqliteViews(str(disk.folder / "shop.views.db"))
        with pytest.raises(StoreFailed, match="a sync has failed"):
            await again.open(ports, Limits(), log, [Counts, Library])
    else:
        views = await open_views(disk, ports, log)
        await move(views, log, 0, 1)
        disk.sync_failures = 1.0
        with pytest.raises(StoreFailed, match="whether this was kept shows when") as failed:
            await views.decide(ProjectionDecision("counts", "pause", 7, 1))
        assert failed.value.written is None
        with pytest.raises(StoreFailed, match="take nothing more"):
            await views.decide(ProjectionDecision("counts", "resume", 8, 1))
        await views.close()
    disk.sync_failures = 0.0
    disk.close_connections()

    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    views = await open_views(disk, ports, log)
    await views.close()
    disk.dispose()


async def test_a_reader_that_stays_does_not_stop_the_writer(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", 50_000)
    log = Log()
    async with Wired(log, path, [Library]) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        stranger = apsw.Connection(path)
        stranger.execute("begin")
        stranger.execute("select count(*) from library_books").fetchall()
        for n in range(20):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
        stranger.close()

        assert wired.projector.state == "live"
        assert wired.views._wal is not None
        assert wired.views._wal.bound.next > 50_000
