"""The store whose log a child process writes: the contract, and what becomes of either's death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from engine import Engine, EngineFailed, OutcomeUnknown
from engine.errors import Damaged, EngineError, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import Snapshot
from engine.runtime.ports import Ports
from engine.stores.contract.log import Batch, Committed, Head, Store, plan
from engine.stores.sqlite.files import FileLock
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.process.protocol import (
    Added,
    Append,
    Failed,
    added_of,
    committed_of,
    decode_answer,
    decode_call,
    encode,
    error_of,
    failed_of,
)
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.stores.urls import open_url
from engine.testing.conformance import ALL, append, feed, numbers, request
from tests.stores.sqlite_conformance import SqliteConformance
from tests.support.counters import Add, Counter
from tests.support.faults import VfsFiles


class TestSqliteProcessStore(SqliteConformance):
    def new_store(self, folder: Path) -> Store:
        return SqliteProcessStore(str(folder / "log.db"))

    def same_log(self, store: Store) -> Store:
        assert isinstance(store, SqliteProcessStore)
        return SqliteProcessStore(store.path)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteProcessStore]:
    made = SqliteProcessStore(str(tmp_path / "log.db"))
    await made.open(Ports())
    yield made
    await made.close()


def child_of(store: SqliteProcessStore) -> subprocess.Popen[bytes]:
    assert store._child is not None
    return store._child


# -- by its URL -----------------------------------------------------------------------------


def test_the_url_says_who_writes() -> None:
    apart = open_url("sqlite:shop.db?writer=process")
    assert type(apart) is SqliteProcessStore
    here = Path.cwd().resolve()
    assert (apart.path, apart.views_path) == (str(here / "shop.db"), str(here / "shop.views.db"))

    within = open_url("sqlite:shop.db?writer=thread")
    assert type(within) is SqliteStore
    assert within.path == apart.path


async def test_either_writer_goes_on_with_the_log_of_the_other(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    for number, make in enumerate((SqliteProcessStore, SqliteStore, SqliteProcessStore)):
        store = make(path)
        await store.open(Ports())
        assert (await store.head()).position == number
        await append(store, request("a:1", number, number))
        await store.close()

    again = SqliteStore(path)
    await again.open(Ports())
    assert numbers(await feed(again)) == [0, 1, 2]
    await again.close()


async def test_an_engine_runs_on_it_and_finds_it_all_again(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}?writer=process"
    async with Engine([Counter], store=url) as running:
        receipts = await asyncio.gather(*(running.execute(Add(f"c{n}", 1)) for n in range(50)))
        assert sorted(receipt.position for receipt in receipts) == list(range(1, 51))
        files = running.statistics().store
        assert files is not None
        assert files.file_bytes > 0

    async with Engine([Counter], store=url) as running:
        assert (await running.execute(Add("c7", 1))).version == 2


# -- who ends first -------------------------------------------------------------------------


async def test_an_append_whose_writer_is_killed_is_unknown_and_nothing_more_is_taken(
    store: SqliteProcessStore,
) -> None:
    await append(store, request("a:1", 0, 1))
    child = child_of(store)
    child.send_signal(signal.SIGSTOP)
    on_its_way = asyncio.ensure_future(append(store, request("a:1", 1, 2)))
    await asyncio.sleep(0)
    child.kill()

    with pytest.raises(StoreFailed, match=f"process {child.pid} that writes it has ended") as one:
        await on_its_way
    assert one.value.written is None
    with pytest.raises(StoreFailed) as two:
        await append(store, request("b:1", 0, 3))
    assert (two.value.written, two.value.stopped) == (False, True)
    # What was acknowledged can still be read.
    assert numbers(await feed(store))[:1] == [1]


async def test_after_its_writer_was_killed_a_store_opens_again(store: SqliteProcessStore) -> None:
    await append(store, request("a:1", 0, 1))
    child_of(store).kill()
    await store.close()

    await store.open(Ports())
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]


async def test_an_engine_whose_writer_is_killed_stops_and_says_that_nobody_knows(
    tmp_path: Path,
) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    with pytest.raises(EngineFailed):
        async with Engine([Counter], store=store) as running:
            await running.execute(Add("c", 1))
            child_of(store).send_signal(signal.SIGSTOP)
            asked = asyncio.ensure_future(running.execute(Add("c", 1)))
            while not store._unanswered:
                await asyncio.sleep(0)
            child_of(store).kill()
            with pytest.raises(OutcomeUnknown):
                await asked
    assert store._child is None


_KILLED = """
import asyncio, os, signal, sys
from engine.runtime.ports import Ports
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.testing.conformance import append, request

async def main():
    store = SqliteProcessStore(sys.argv[1])
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    print(store._child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_log_whose_engine_was_killed_is_free_as_soon_as_its_writer_has_seen_it(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "log.db")
    killed = subprocess.run([sys.executable, "-c", _KILLED, path], stdout=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL
    try:
        store = SqliteStore(path)
        await store.open(Ports())
        assert numbers(await feed(store)) == [1]
        await store.close()
    finally:
        # Where it has outlived its engine after all, it shall not outlive this test.
        with suppress(ProcessLookupError):
            os.kill(int(killed.stdout), signal.SIGKILL)


async def test_what_was_appended_counts_when_its_caller_was_cancelled(
    store: SqliteProcessStore,
) -> None:
    asked = asyncio.ensure_future(append(store, request("a:1", 0, 1, 2)))
    await asyncio.sleep(0)
    asked.cancel()
    await append(store, request("b:1", 0, 3))
    assert (await store.head()).position == 3
    asked = asyncio.ensure_future(append(store, request("a:1", 2, 4)))
    await asyncio.sleep(0)
    asked.cancel()
    await store.event_types()  # which is answered after it
    assert (await store.head()).position == 4


async def test_a_program_without_an_interpreter_beside_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A frozen one would start itself, and that one itself.
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(StoreRefused, match="no Python interpreter"):
        await SqliteProcessStore(str(tmp_path / "log.db")).open(Ports())


async def test_signals_for_everybody_are_the_engines_to_obey(store: SqliteProcessStore) -> None:
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child_of(store).send_signal(which)
    await append(store, request("a:1", 0, 1))
    assert numbers(await feed(store)) == [1]


async def test_the_writer_is_gone_when_the_store_is_closed(store: SqliteProcessStore) -> None:
    child = child_of(store)
    await store.close()
    assert child.returncode == 0
    with pytest.raises(StoreFailed, match="is closed"):
        await append(store, request("a:1", 0, 1))
    await store.close()


# -- the lock -------------------------------------------------------------------------------


async def test_the_lock_names_the_engine_and_keeps_others_out(store: SqliteProcessStore) -> None:
    for other in (SqliteProcessStore(store.path), SqliteStore(store.path)):
        with pytest.raises(StoreLocked, match=f"held by this very process \\({os.getpid()}\\)"):
            await other.open(Ports())
    await append(store, request("a:1", 0, 1))


def test_a_lock_that_is_held_for_a_process_that_is_dead_is_held_briefly(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db.lock")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid, briefly in ((dead.pid, True), (os.getpid(), False)):
        lock = FileLock(path, pid=pid)
        with pytest.raises(StoreLocked) as refused:
            FileLock(path)
        assert refused.value.briefly is briefly
        lock.release()


async def test_files_that_are_not_the_machines_own_are_refused(tmp_path: Path) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    with pytest.raises(StoreRefused, match="leave \\?writer=process away"):
        await store.open(Ports(files=VfsFiles("unix")))


async def test_a_file_that_is_no_log_is_refused_as_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no database" * 1000)
    path.chmod(0o600)
    with pytest.raises(StoreRefused, match="no SQLite database"):
        await SqliteProcessStore(str(path)).open(Ports())


# -- the messages ---------------------------------------------------------------------------


def test_what_an_append_did_comes_back_as_the_store_would_have_given_it() -> None:
    batch = Batch([request("a:1", 0, 1, 2), request("b:1", 5, 3), request("a:1", 2, 4)], 7)
    call = decode_call(encode(Append(batch)))
    assert isinstance(call, Append)
    planned = plan(call.batch, {"b:1": 4}, Head(10, 1, 9))
    assert planned.refused == 1
    committed = Committed(planned.outcomes, planned.events)

    told = decode_answer(encode(added_of(committed, 3, 4)))

    assert isinstance(told, Added)
    assert (told.wal_merges, told.wal_merges_put_off) == (3, 4)
    assert committed_of(batch, told) == committed


@pytest.mark.parametrize(
    ("error", "comes"),
    [
        (StoreFailed("full", written=False), StoreFailed("full", written=False)),
        (StoreFailed("lost", written=None), StoreFailed("lost", written=None)),
        (
            StoreFailed("over", written=False, stopped=True),
            StoreFailed("over", written=False, stopped=True),
        ),
        (StoreLocked("mine", briefly=True), StoreLocked("mine", briefly=True)),
        (StoreRefused("new"), StoreRefused("new")),
        (Damaged(3, "torn"), Damaged(3, "torn")),
        (
            ValueError("odd"),
            StoreFailed("the log's writer failed with ValueError: odd", written=None),
        ),
    ],
)
def test_an_error_comes_back_as_it_was_raised(error: Exception, comes: EngineError) -> None:
    failed = decode_answer(encode(failed_of(error)))
    assert isinstance(failed, Failed)
    came = error_of(failed)
    assert type(came) is type(comes)
    assert (str(came), vars(came)) == (str(comes), vars(comes))


async def test_snapshots_are_kept_by_the_writer_and_read_here(store: SqliteProcessStore) -> None:
    await append(store, request("a:1", 0, 1))
    kept = Snapshot("a:1", 1, 1, 5, 1, b"{}")
    await store.write_snapshots([kept])
    assert list(await store.read_snapshots(["a:1"])) == [kept]
    pages = await store.read_feed(0, events_max=1, bytes_max=ALL)
    assert len(pages) == 1
