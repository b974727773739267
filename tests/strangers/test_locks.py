"""An engine's locks: no reader takes them, no fork keeps them, and no stranger's file is one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from engine import Archive, Engine, Onlooker, StoreFailed, StoreLocked, StoreRefused
from engine.runtime.ports import Ports
from engine.stores.sqlite.files import FileLock, SystemFiles
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.operations import SqliteOperations
from engine.testing.conformance import append, feed, numbers, request
from tests.strangers.forking import begin_fork, status_of_fork
from tests.strangers.locks import locks_on, run
from tests.strangers.writing import Fills, Put, Shelf, engine_on
from tests.support.counters import Add, Counter

SELECT = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("SELECT count(*) FROM sqlite_schema").fetchall()
c.close()
"""


def read_from_outside(path: Path) -> None:
    assert run("-I", "-S", "-c", SELECT, str(path)) == ""


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_readers_of_ours_in_the_same_process_leave_the_locks(
    tmp_path: Path, writer: str
) -> None:
    """Each opens and closes the log or the views while the engine has them open."""
    path = tmp_path / "shop.db"
    url = f"sqlite:{path}?writer={writer}"
    async with engine_on(url) as engine:
        await engine.execute(Put("a", "x"))
        before = locks_on(path), locks_on(tmp_path / "shop.views.db")
        async with Archive([Shelf], store=url) as archive:
            await archive.state(Shelf, "a")
        async with Onlooker(projections=[Fills], answers=[], store=url) as onlooker:
            await onlooker.positions()
        with SqliteOperations(str(path), readonly=True) as outside:
            assert outside.is_in_use()
        with SqliteOperations(str(path)) as outside:
            assert not outside.do_at_rest()

        for name, held in zip(("shop.db", "shop.views.db"), before, strict=True):
            assert locks_on(tmp_path / name) == held > 0
            read_from_outside(tmp_path / name)
            assert (tmp_path / f"{name}-wal").exists()
        await engine.execute(Put("a", "y"))


async def test_a_start_beside_a_reader_of_the_same_process_takes_its_locks(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    url = f"sqlite:{path}"
    async with Engine([Counter], store=url) as engine:
        await engine.execute(Add("a", 1))
    async with Archive([Counter], store=url) as archive:
        await archive.state(Counter, "a")
        async with Engine([Counter], store=url) as engine:
            await engine.execute(Add("a", 1))
            assert locks_on(path)
            read_from_outside(path)
            assert (tmp_path / "log.db-wal").exists()
        # Nor does the end of the engine leave the reader without its own, or keep the file.
        assert locks_on(path)
        async with Engine([Counter], store=url) as engine:
            assert (await engine.execute(Add("a", 1))).version == 3


async def test_a_log_that_goes_under_the_engine_acknowledges_nothing(tmp_path: Path) -> None:
    """Whoever takes the locks of this process by other means, the loss is seen in time."""
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    os.close(os.open(path, os.O_RDONLY))  # as a host that copies its files by itself
    read_from_outside(path)
    assert not (tmp_path / "log.db-wal").exists()

    with pytest.raises(StoreFailed, match="log.db-wal is not the file any more") as failed:
        await append(store, request("a:1", 1, 2))
    assert (failed.value.written, failed.value.stopped) == (False, True)
    await store.close()
    await store.open(Ports())
    assert numbers(await feed(store)) == [1]
    await store.close()


# -- forks ----------------------------------------------------------------------------------------

_FORKS = textwrap.dedent(
    """
    import asyncio, os, sys
    from engine import Engine
    from tests.support.counters import Add, Counter

    async def main():
        async with Engine([Counter], store=sys.argv[1]) as engine:
            await engine.execute(Add("a", 1))
            helper = os.fork()
            if helper == 0:
                os.read(int(sys.argv[2]), 1)  # for as long as the test has the other end
                os._exit(0)
            print(helper, flush=True)
            await asyncio.sleep(600)
    asyncio.run(main())
    """
)


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_what_a_killed_host_had_forked_keeps_no_lock(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}?writer={writer}"
    held, kept = os.pipe()
    host = subprocess.Popen(
        [sys.executable, "-c", _FORKS, url, str(held)],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(held,),
    )
    assert host.stdout is not None
    helper = int(host.stdout.readline())
    try:
        host.kill()
        host.wait()
        os.kill(helper, 0)
        async with Engine([Counter], store=url) as engine:
            assert (await engine.execute(Add("a", 1))).version == 2
    finally:
        os.kill(helper, 9)
        host.stdout.close()
        os.close(held)
        os.close(kept)


def test_a_fork_that_ends_leaves_its_parent_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db.lock")
    lock = SystemFiles().lock(path)

    def release_and_look() -> bool:
        lock.release()
        return SystemFiles().is_locked(path)

    for _ in range(2):
        assert status_of_fork(release_and_look) == 0
    assert SystemFiles().holder(path) == os.getpid()
    lock.release()
    assert not SystemFiles().is_locked(path)


async def test_a_fork_takes_the_lock_when_its_parent_has_ended_its_engine(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    reading, writing = os.pipe()

    def wait_and_take() -> object:
        os.read(reading, 1)
        return SystemFiles().lock(f"{store.path}.lock")

    child = begin_fork(wait_and_take)
    await store.close()
    os.write(writing, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


async def test_a_fork_writes_no_file_that_was_open_as_it_was_made(tmp_path: Path) -> None:
    """SQLite would take its parent's locks for its own, and a reader its write-ahead log away."""
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())

    def refuses() -> object:
        SystemFiles().connect(str(tmp_path / "other.db")).close()
        SystemFiles().connect(str(path), readonly=True).close()
        with pytest.raises(StoreRefused, match="when this process was forked"):
            SystemFiles().connect(str(path))
        return status_of_fork(refuses_too) == 0

    def refuses_too() -> object:
        with pytest.raises(StoreRefused, match="when this process was forked"):
            SystemFiles().connect(str(path))
        return True

    assert status_of_fork(refuses) == 0
    await append(store, request("a:1", 0, 1))
    await store.close()

    def opens() -> object:
        SystemFiles().connect(str(path)).close()
        return True

    assert status_of_fork(opens) == 0


async def test_a_lock_that_only_a_child_keeps_names_that_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stores.sqlite.lock._BRIEF_TRIES", 2)
    path = tmp_path / "log.db.lock"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = FileLock(str(path), pid=ended.pid)
    with pytest.raises(StoreLocked) as refused:
        await SqliteStore(str(tmp_path / "log.db")).open(Ports())
    told = str(refused.value)
    assert f"process {ended.pid} that took it has ended" in told
    assert f"It is kept by: {os.getpid()}" in told
    lock.release()


async def test_a_second_engine_of_this_process_is_told_so(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=url):
        with pytest.raises(StoreLocked, match="very process .* Close that one .* loop was closed"):
            async with Engine([Counter], store=url):
                pass


# -- files that are no locks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"# lock of somebody\n", b"12 monkeys\n", b"\x00" * 64, b"7\n7\n", b"-1\n", b"1" * 9_000],
)
async def test_a_strangers_file_of_that_name_is_left_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "uv.lock"
    path.write_bytes(content)
    with pytest.raises(StoreRefused, match=r"uv.lock has \d+ bytes of something else"):
        await SqliteStore(str(tmp_path / "uv")).open(Ports())

    assert path.read_bytes() == content
    assert not (tmp_path / "uv").exists()


def test_links_pipes_and_folders_are_no_locks(tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    aim.write_text("mine")
    (tmp_path / "link.lock").symlink_to(aim)
    os.mkfifo(tmp_path / "pipe.lock")
    (tmp_path / "folder.lock").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises((StoreRefused, OSError)):
            SystemFiles().lock(str(tmp_path / f"{name}.lock"))
        assert SystemFiles().holder(str(tmp_path / f"{name}.lock")) is None
    assert aim.read_text() == "mine"


@pytest.mark.parametrize("note", ["", "4194400\n", "4194400 briefly\n"])
def test_a_lock_of_an_older_release_is_taken(tmp_path: Path, note: str) -> None:
    path = tmp_path / "log.db.lock"
    path.write_text(note)
    lock = SystemFiles().lock(str(path))
    assert SystemFiles().holder(str(path)) == os.getpid()
    lock.release()
    assert SystemFiles().holder(str(path)) is None


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two engines could each have locked a file, one of them gone."""
    path = tmp_path / "log.db.lock"
    removed: list[int] = []
    plain = os.path.samestat

    def samestat(one: os.stat_result, other: os.stat_result) -> bool:
        if not removed:
            removed.append(other.st_ino)
            path.unlink()
            path.touch()
            return plain(os.lstat(path), other)
        return plain(one, other)

    monkeypatch.setattr(os.path, "samestat", samestat)
    lock = SystemFiles().lock(str(path))
    monkeypatch.undo()
    assert removed
    assert SystemFiles().is_locked(str(path))
    lock.release()


@pytest.mark.parametrize("how", ["take", "give-back"])
def test_a_lock_whose_note_cannot_be_written_is_kept_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The disk is full for a moment; a host that tries again has to get it."""
    path = str(tmp_path / "log.db.lock")
    files = SystemFiles()
    lock = files.lock(path) if how == "give-back" else None

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="space"):
            files.lock(path) if lock is None else lock.release()

    files.lock(path).release()
