"""The write-ahead log is folded beside the writer, and a fold that fails stops the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from engine import StoreFailed
from engine.model.stored import EventData
from engine.runtime.machine import SystemClock, SystemWorkers
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Write
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.wal import WalInTurn, WalMerger
from engine.testing.conformance import ADDED, append, feed, request
from tests.support.faults import FaultyVfs, Hold, VfsFiles

BOUND = 200_000
LARGE = EventData(ADDED, b'"' + b"x" * 50_000 + b'"')


@pytest_asyncio.fixture
async def faulty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[SqliteStore, FaultyVfs]]:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", BOUND)
    vfs = FaultyVfs()
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports(files=VfsFiles(vfs.name)))
    vfs.calls.clear()
    yield made, vfs
    vfs.faults.clear()
    await made.close()
    vfs.unregister()


@pytest.fixture
def store(faulty: tuple[SqliteStore, FaultyVfs]) -> SqliteStore:
    return faulty[0]


def folder_of(store: SqliteStore) -> WalMerger:
    assert store._merger is not None
    return store._merger


async def folded(store: SqliteStore) -> None:
    """Wait for the fold that is under way."""
    task = folder_of(store).task
    if task is not None:
        await task


async def append_large(store: SqliteStore, first: int, last: int) -> None:
    for number in range(first, last):
        await append(store, AppendRequest([Write("a:1", number, [LARGE])]))
        await folded(store)


async def fill(store: SqliteStore) -> None:
    """Append until a fold begins."""
    number = 0
    while folder_of(store).task is None:
        await append(store, AppendRequest([Write("a:1", number, [LARGE])]))
        number += 1


def wal_bytes(store: SqliteStore) -> int:
    return Path(store.path + "-wal").stat().st_size


async def test_what_has_been_folded_is_written_over(store: SqliteStore) -> None:
    sizes = set()
    for number in range(0, 100, 10):
        await append_large(store, number, number + 10)
        sizes.add(wal_bytes(store))

    assert len(await feed(store)) == 100
    assert len(sizes) == 1, "a log that is overwritten keeps its size"
    assert BOUND <= sizes.pop() < 2 * BOUND
    assert store.statistics().wal_merges > 10
    assert store.statistics().wal_merges_put_off == 0


async def test_a_reader_that_stays_does_not_stop_the_writer(store: SqliteStore) -> None:
    await append_large(store, 0, 1)
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("BEGIN")
        outside.execute("SELECT count(*) FROM events").fetchall()
        await append_large(store, 1, 20)
        assert store.statistics().wal_merges_put_off > 0
        assert wal_bytes(store) > 4 * BOUND
    await append_large(store, 20, 40)

    assert wal_bytes(store) <= 2 * BOUND, "what it grew by goes back to the disk"
    assert len(await feed(store)) == 40


async def test_the_writer_goes_on_while_the_log_is_folded(
    faulty: tuple[SqliteStore, FaultyVfs],
) -> None:
    store, vfs = faulty
    hold = vfs.holds["sync log.db"] = Hold()
    try:
        await fill(store)
        task = folder_of(store).task
        await hold.reached()
        await append(store, request("b:1", 0, 1), request("b:1", 1, 2))
        assert task is not None
        assert not task.done()
    finally:
        hold.release()
    await task
    assert store.statistics().wal_merges == 1


@pytest.mark.parametrize("whose", ["folder", "writer"])
async def test_a_failed_sync_of_the_file_itself_stops_the_store(
    faulty: tuple[SqliteStore, FaultyVfs], whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vfs = faulty
    if whose == "writer":
        monkeypatch.setattr(sqlite_wal, "_PASSES_MAX", 0)
    vfs.faults["sync log.db"] = apsw.SQLITE_IOERR
    await fill(store)
    await folded(store)
    vfs.faults.clear()

    assert vfs.calls.count("sync log.db") == 1, "a sync that failed is never tried again"
    with pytest.raises(StoreFailed, match="takes nothing more since IOError") as failed:
        await append(store, request("b:1", 0, 3))
    assert failed.value.written is False, "no transaction was begun for it"
    assert failed.value.stopped


@pytest.mark.parametrize("whose", ["folder", "writer"])
async def test_a_full_disk_puts_a_fold_off(
    faulty: tuple[SqliteStore, FaultyVfs], whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vfs = faulty
    if whose == "writer":
        monkeypatch.setattr(sqlite_wal, "_PASSES_MAX", 0)
    vfs.faults["write log.db"] = apsw.SQLITE_FULL
    await fill(store)
    await folded(store)
    assert store.statistics().wal_merges_put_off == 1

    await append_large(store, version := len(await feed(store)), version + 1)
    vfs.faults.clear()
    await append_large(store, version + 1, version + 10)

    assert store.statistics().wal_merges >= 1
    assert len(await feed(store)) == version + 10


async def test_a_full_disk_puts_a_fold_in_turn_off(tmp_path: Path) -> None:
    vfs = FaultyVfs()
    path = str(tmp_path / "views.db")
    with closing(VfsFiles(vfs.name).connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal; CREATE TABLE t(x)").fetchall()
        wal = WalInTurn(connection, SystemClock())
        wal.bound.bytes = wal.bound.next = 1
        vfs.faults["write views.db"] = apsw.SQLITE_FULL
        connection.execute("INSERT INTO t VALUES (1)").fetchall()
        wal.merge_if_large()
        assert wal.bound.next > wal.bound.bytes, "the next try comes with growth"

        vfs.faults.clear()
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))").fetchall()
        wal.merge_if_large()
        assert wal.bound.next == wal.bound.bytes, "it is folded"
    vfs.unregister()


async def test_what_a_stopped_store_holds_is_not_folded(
    faulty: tuple[SqliteStore, FaultyVfs],
) -> None:
    store, vfs = faulty
    hold = vfs.holds["sync log.db"] = Hold()
    try:
        await fill(store)
        task = folder_of(store).task
        await hold.reached()
        vfs.faults["sync log.db-wal"] = apsw.SQLITE_IOERR
        with pytest.raises(StoreFailed, match="nobody knows"):
            await append(store, request("b:1", 0, 3))
    finally:
        hold.release()
    assert task is not None
    await task

    assert vfs.calls.count("sync log.db") == 1
    assert store.statistics().wal_merges == 0


class SteppingClock(SystemClock):
    """Every look at it takes a second."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 1.0
        return self.seconds


@pytest.mark.parametrize(("rest", "expected"), [(0.0, [1, 2, 4, 8, 8]), (100.0, [1, 1, 1, 1, 1])])
async def test_larger_logs_are_folded_where_folding_takes_much_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: float, expected: list[int]
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MIN", BOUND)
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", 8 * BOUND)
    clock, store = SteppingClock(), SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports(clock=clock))
    bounds, number = [], 0
    for _ in expected:
        before, largest = store.statistics().wal_merges, 0
        clock.seconds += rest
        while store.statistics().wal_merges == before:
            await append(store, AppendRequest([Write("a:1", number, [LARGE])]))
            largest = max(largest, folder_of(store).bytes)
            await folded(store)
            number += 1
        bounds.append(largest // BOUND)
    await store.close()

    assert bounds == expected


async def test_without_a_connection_beside_it_the_writer_folds_it_all(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_folder: WalMerger) -> None:
        raise apsw.CantOpenError("unable to open database file")

    monkeypatch.setattr(WalMerger, "_connect", refuse)
    await append_large(store, 0, 20)

    assert wal_bytes(store) < 2 * BOUND
    assert store.statistics().wal_merges > 1


async def test_without_a_thread_beside_it_the_writer_folds_it_all(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may have all the threads that it may have: a log must not grow for ever by that."""

    def refuse(_workers: SystemWorkers, _name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(SystemWorkers, "start", refuse)
    await append_large(store, 0, 20)

    assert wal_bytes(store) < 2 * BOUND
    assert store.statistics().wal_merges > 1


async def test_a_store_that_closes_ends_the_fold_first(
    faulty: tuple[SqliteStore, FaultyVfs],
) -> None:
    store, vfs = faulty
    hold = vfs.holds["sync log.db"] = Hold()
    await fill(store)
    await hold.reached()
    closed = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    assert not closed.done()
    hold.release()
    await closed

    assert sorted(path.name for path in Path(store.path).parent.iterdir()) == [
        "log.db",
        "log.db.lock",
    ]


def test_a_log_that_somebody_else_began_anew_is_folded_by_its_bound_again(tmp_path: Path) -> None:
    """A long reader made it grow, and the bound with it; then another connection folds it."""
    path = str(tmp_path / "views.db")
    with closing(apsw.Connection(path)) as writer, closing(apsw.Connection(path)) as other:
        writer.pragma("journal_mode", "wal")
        wal = WalInTurn(writer, SystemClock())
        for statement in ("CREATE TABLE t (b)", "INSERT INTO t VALUES (zeroblob(100000))"):
            writer.execute(statement)
        wal.bound.put_off(1_000_000)
        other.execute("SELECT count(*) FROM t").fetchall()
        other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        writer.execute("INSERT INTO t VALUES (1)")

        assert wal.bound.next == wal.bound.bytes
