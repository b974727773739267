"""A file is believed by what it is and not by its name: moved, replaced, linked, or named anew."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine import Archive, Closed, Engine, EngineFailed, StoreLocked, StoreRefused, Voided
from engine.runtime.ports import Ports
from engine.stores.sqlite import held_files
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.stores.sqlite.views.store import SqliteViews
from engine.testing.conformance import append, feed, numbers, request
from tests.support.counters import Add, Counter

STORES = [SqliteStore, SqliteProcessStore]


def a_strangers_database(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (a)")
        connection.commit()
    path.chmod(0o600)
    return path.read_bytes()


async def made(path: Path, *values: int) -> None:
    store = SqliteStore(str(path))
    await store.open(Ports())
    for version, value in enumerate(values):
        await append(store, request("a:1", version, value))
    await store.close()


# -- the folder of the process --------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_a_path_means_the_folder_in_which_the_engine_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    here, there, later = (tmp_path / name for name in ("here", "there", "later"))
    for folder in (here, there, later):
        folder.mkdir()
    before = a_strangers_database(there / "log.db")
    monkeypatch.setattr("engine.stores.sqlite.wal.WAL_BYTES_MIN", 64 * 1024)
    monkeypatch.chdir(here)
    engine = Engine([Counter], store=f"sqlite:log.db?writer={writer}")
    monkeypatch.chdir(later)
    async with engine:
        monkeypatch.chdir(there)
        for number in range(60):
            await engine.execute(Add("a", number))
        stored = engine.statistics().store
        assert stored is not None
        assert stored.file_bytes > 0
    assert (there / "log.db").read_bytes() == before
    assert [p.name for p in there.iterdir()] == ["log.db"]
    assert list(later.iterdir()) == []
    async with Archive([Counter], store=here / "log.db") as archive:
        assert (await archive.state(Counter, "a")).total == sum(range(60))


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_who_takes_a_log_over_takes_the_one_that_was_meant_when_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Else it would begin an empty log where the process is by then, and acknowledge into that."""
    here, later = tmp_path / "here", tmp_path / "later"
    here.mkdir()
    later.mkdir()
    monkeypatch.chdir(here)
    store = f"sqlite:log.db?writer={writer}"
    owner, member = (Engine([Counter], store=store, join=True) for _ in range(2))
    async with owner:
        await member.__aenter__()
        await member.execute(Add("a", 1))
        monkeypatch.chdir(later)
    receipt = await asyncio.wait_for(member.execute(Add("a", 2)), 30)
    await member.__aexit__(None, None, None)

    assert receipt.version == 2
    assert list(later.iterdir()) == []
    async with Archive([Counter], store=here / "log.db") as archive:
        assert (await archive.state(Counter, "a")).total == 3


async def test_a_link_to_the_folder_that_leads_elsewhere_later_changes_nothing(
    tmp_path: Path,
) -> None:
    first, second, link = (tmp_path / name for name in ("first", "second", "current"))
    first.mkdir()
    second.mkdir()
    link.symlink_to(first)
    store = SqliteStore(str(link / "log.db"))
    await store.open(Ports())
    link.unlink()
    link.symlink_to(second)
    await append(store, request("a:1", 0, 1))
    await store.close()
    assert list(second.iterdir()) == []
    await store.open(Ports())
    assert numbers(await feed(store)) == [1]
    await store.close()


# -- under a running engine -----------------------------------------------------------------------


def move(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copyfile(path, other)
    other.replace(path)


def point_elsewhere(path: Path) -> None:
    moved = path.with_name("moved.db")
    path.rename(moved)
    path.symlink_to(moved)


def lose_the_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def lose_the_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


CHANGES = [move, remove, replace, point_elsewhere, lose_the_wal, lose_the_index]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", STORES)
async def test_nothing_goes_into_a_file_that_is_not_at_its_path_any_more(
    tmp_path: Path, make: type[SqliteStore], change: object
) -> None:
    assert callable(change)
    path = tmp_path / "log.db"
    store = make(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    change(path)
    before = {p: p.stat().st_size for p in tmp_path.iterdir() if p.suffix != ".lock"}

    for _ in range(2):
        with pytest.raises(Exception, match="is not the file any more|takes nothing more"):
            await append(store, request("a:1", 1, 2))

    assert {p: p.stat().st_size for p in before} == before
    await store.close()


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_an_engine_stops_and_says_that_nothing_was_written(
    tmp_path: Path, writer: str
) -> None:
    path = tmp_path / "log.db"
    with pytest.raises(EngineFailed, match="moved, removed or replaced"):
        async with Engine([Counter], store=f"sqlite:{path}?writer={writer}") as engine:
            await engine.execute(Add("a", 1))
            move(path)
            with pytest.raises(Voided, match="Nothing was written"):
                await engine.execute(Add("a", 2))
            with pytest.raises(Closed):
                await engine.execute(Add("a", 3))


async def test_a_fold_touches_no_other_file_that_lies_there_now(tmp_path: Path) -> None:
    """The path leads to somebody else's database when the fold's connection is opened."""
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    move(path)
    before = a_strangers_database(path)
    assert store._merger is not None
    assert store._merger._checkpoint_beside() is None
    assert path.read_bytes() == before
    await store.close()


async def test_a_file_that_is_exchanged_during_a_commit_is_not_acknowledged(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"

    def at(step: str) -> None:
        if step == "store.inserted" and not (tmp_path / "moved.db").exists():
            move(path)

    store = SqliteStore(str(path))
    await store.open(Ports(failpoint=at))
    with pytest.raises(Exception, match="is not the file any more") as failed:
        await append(store, request("a:1", 0, 1))
    assert getattr(failed.value, "written", False) is None
    await store.close()


async def test_a_reader_does_not_believe_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await made(path, 1, 2)
    with SqliteLogReader(str(path)) as reader:
        assert reader.head().position == 2
        replace(path)
        with pytest.raises(StoreRefused, match="is not the file any more"):
            reader.head()
    with SqliteLogReader(str(path)) as reader:
        assert reader.head().position == 2


async def test_views_that_were_moved_are_not_written(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    views = SqliteViews(store.views_path)
    from engine import Limits

    await views.open(Ports(), Limits(), store, [])
    move(Path(store.views_path))
    with pytest.raises(StoreRefused, match="is not the file any more"):
        await views.put_back_request(1)
    await views.close()
    await store.close()


# -- one file with two names ----------------------------------------------------------------------


async def test_a_second_name_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    first, second = tmp_path / "log.db", tmp_path / "snapshot.db"
    await made(first, 1)
    os.link(first, second)
    for _ in range(2):  # nor does the first try leave anything that the second believes
        with pytest.raises(StoreRefused, match="2 names"):
            await SqliteStore(str(second)).open(Ports())
    with pytest.raises(StoreRefused, match="2 names"):
        SqliteLogReader(str(second)).open()

    store = SqliteStore(str(first))
    await store.open(Ports())
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]
    await store.close()
    with SqliteLogReader(str(first)) as reader:
        assert reader.head().position == 2


async def test_a_whole_folder_of_links_is_refused_and_the_first_one_goes_on(
    tmp_path: Path,
) -> None:
    live, snapshot = tmp_path / "live", tmp_path / "snapshot"
    live.mkdir()
    store = SqliteStore(str(live / "log.db"))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    shutil.copytree(live, snapshot, copy_function=os.link)
    with pytest.raises(StoreLocked):
        await SqliteStore(str(snapshot / "log.db")).open(Ports())
    await append(store, request("a:1", 1, 2))
    await store.close()
    with pytest.raises(StoreRefused, match="2 names"):
        await SqliteStore(str(snapshot / "log.db")).open(Ports())
    await store.open(Ports())
    assert numbers(await feed(store)) == [1, 2]
    await store.close()


async def test_a_file_that_was_never_opened_here_is_refused_by_all_its_names(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    await made(path, 1)
    (tmp_path / "log.db.lock").unlink()
    os.link(path, tmp_path / "other.db")
    with pytest.raises(StoreRefused, match="remove the other"):
        await SqliteStore(str(path)).open(Ports())
    (tmp_path / "other.db").unlink()
    await made(path)


async def test_a_folder_that_was_moved_is_at_home_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    await made(tmp_path / "old" / "log.db", 1)
    (tmp_path / "old").rename(tmp_path / "new")
    await made(tmp_path / "new" / "log.db")
    os.link(tmp_path / "new" / "log.db", tmp_path / "other.db")
    await made(tmp_path / "new" / "log.db")


async def test_a_removed_lock_lets_no_second_engine_in(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    (tmp_path / "log.db.lock").unlink()

    with pytest.raises(StoreLocked, match="in another engine of this very process"):
        await SqliteStore(str(path)).open(Ports())
    other = SqliteProcessStore(str(path))
    with pytest.raises(StoreLocked, match=rf"another engine \(process {os.getpid()}\)"):
        await other.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()


_BIND = """
import asyncio, os, subprocess, sys
from engine.runtime.ports import Ports
from engine.stores.sqlite.log.store import SqliteStore

async def main():
    subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[2]], check=True)
    try:
        await SqliteStore(sys.argv[2]).open(Ports())
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="only root can bind a path here",
)
async def test_a_bound_path_gives_no_second_engine(tmp_path: Path) -> None:
    first, second = tmp_path / "log.db", tmp_path / "bound.db"
    store = SqliteStore(str(first))
    await store.open(Ports())
    second.touch(0o600)
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", _BIND, str(first), str(second)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "StoreLocked" in done.stdout, done.stderr
    assert f"(process {os.getpid()})" in done.stdout
    await append(store, request("a:1", 0, 1))
    await store.close()


def test_a_file_that_is_replaced_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apsw

    path = tmp_path / "log.db"
    path.touch(0o600)
    plain = apsw.Connection

    def connection(*args: object, **more: object) -> object:
        replace(path)
        return plain(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(apsw, "Connection", connection)
    with pytest.raises(StoreRefused, match="was replaced while it was opened"):
        SystemFiles().connect(str(path))


def test_a_file_is_held_by_the_descriptor_of_its_connection_and_no_other_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with two hundred tenants has thousands, and each was asked for each opening."""
    path, looked = str(tmp_path / "log.db"), list[object]()
    search = held_files._descriptor_of

    def searched(known: Any, **how: Any) -> int | None:
        looked.append(known)
        return search(known, **how)

    monkeypatch.setattr(held_files, "_descriptor_of", searched)
    files = SystemFiles()
    for _ in range(2):
        with closing(files.connect(path)) as connection:
            hold = files.hold(path, connection)
            assert looked == []
            assert held_by(path) == os.getpid()
            hold.release()
            assert held_by(path) is None
            hold = files.hold(path, connection)
        hold.release()  # behind its connection, with which it has ended
        assert held_by(path) is None
    assert looked == []
    reader = files.connect(path, readonly=True)
    with closing(files.connect(path)) as connection:
        held_files._descriptors.clear()
        files.hold(path, connection).release()
    assert len(looked) == 1, "where its descriptor is not known, it is looked for"
    reader.close()


def held_by(path: str) -> int | None:
    """Ask another process, since a process is never kept out by itself."""
    code = (
        "import fcntl, os, struct, sys; d = os.open(sys.argv[1], os.O_RDWR); "
        "asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 1 << 62, 1, 0); "
        "k, _, _, _, pid = struct.unpack('hhqqi4x', fcntl.fcntl(d, fcntl.F_GETLK, asked)); "
        "print(0 if k == fcntl.F_UNLCK else pid)"
    )
    found = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True)
    return int(found.stdout) or None
