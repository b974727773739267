"""A disk, a quota or a bound of the process that is full costs what finds no room, and no more.

Real files: of a process whose files may only grow so far, and where the system has no folder for
files that pass.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Engine, Query, StoreFailed, Views, answers
from engine.__main__ import main
from engine.runtime.ports import Ports
from engine.stores.contract.archiving import Archived, ArchiveRule
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.archiving import SqliteArchiver
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import feed
from tests.strangers.writing import LIMITS, Fills, Put, Shelf, engine_on
from tests.support.processes import ROOT, SECONDS


class NoFolders(apsw.VFS):
    """The system's files, and none that pass: as where every folder for them is read-only."""

    name = "no-folders"

    def __init__(self) -> None:
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        if name is None:
            error = apsw.IOError("there is no folder for it")
            error.extendedresult = apsw.SQLITE_IOERR_GETTEMPPATH  # type: ignore[attr-defined]
            raise error
        return apsw.VFSFile("", name, flags)


class Sorted(Query[int]):
    """How many rows there are, behind a read that takes a file for what it sorts."""

    reads_on: bool = False


class Plain(Query[int]):
    """How many rows there are."""


SORTS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    SELECT count(*) FROM (SELECT DISTINCT shelf_id || printf('%0500d', i) FROM n, fills_rows)
"""


@answers
async def sorted_(query: Sorted, views: Views) -> int:
    try:
        await views.sql(SORTS)
    except StoreFailed:
        if not query.reads_on:
            raise
    return await views.count(Fills.rows)


@answers
async def plain(query: Plain, views: Views) -> int:
    return await views.count(Fills.rows)


class Hardened(SystemFiles):
    """The file system of a container whose root is read-only."""

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        super().connect(path, readonly=readonly).close()  # makes it where it is not there
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        return apsw.Connection(path, flags=flags, vfs=NoFolders.name)


def lives(program: str, path: Path) -> tuple[int, list[int]]:
    """Run a program of `no_room` to its end; give its status and the numbers that it told."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.strangers.no_room", program, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return told.returncode, [int(line) for line in told.stdout.split()]


async def test_an_engine_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    status, told = lives("engine", tmp_path / "log.db")
    assert status == 0
    async with engine_on(f"sqlite:{tmp_path / 'log.db'}") as engine:
        assert (await engine.execute(Put("before", "y"))).position == told[0] + 1
        assert (await engine.state(Shelf, "after")).count == 1


def test_views_that_found_no_room_go_on_by_themselves_when_there_is_some(tmp_path: Path) -> None:
    assert lives("views", tmp_path / "log.db") == (0, [1, 1_000])


async def test_a_log_needs_no_folder_of_the_systems(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = NoFolders()
    engine = Engine(
        [Shelf],
        projections=[Fills],
        store=f"sqlite:{tmp_path / 'log.db'}",
        limits=LIMITS,
        ports=Ports(files=Hardened()),
    )
    async with engine:
        for _ in range(3):  # what a statement keeps is the pages that it changes
            sent = [engine.execute(Put(f"{n:0200}", "x")) for n in range(1_000)]
            await asyncio.gather(*sent)
        assert engine.statistics().journal.voided == 0
    assert not caplog.records, "the views need none either"
    del shown


async def test_a_read_that_finds_no_folder_fails_for_its_own_caller_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite ends the transaction of such a read by itself: the answer behind it failed too."""
    shown = NoFolders()
    engine = Engine(
        [Shelf],
        projections=[Fills],
        answers=[sorted_, plain],
        store=f"sqlite:{tmp_path / 'log.db'}",
        limits=LIMITS,
        ports=Ports(files=Hardened()),
    )
    async with engine:
        for count in range(1, 4):
            receipt = await engine.execute(Put(f"s-{count}", "x"))
            assert await engine.query(Plain(), at=receipt) == count
            with pytest.raises(StoreFailed, match="can write to none: let it write to /var/tmp"):
                await engine.query(Sorted())
            assert await engine.query(Plain()) == count
            with pytest.raises(StoreFailed, match="the state of the views .* is gone"):
                await engine.query(Sorted(reads_on=True))
    assert not caplog.records, "nothing was left to be told of"
    del shown


async def test_without_a_folder_the_archive_moves_all_and_leaves_the_log_large(
    tmp_path: Path,
) -> None:
    """The command ended with an I/O error, which was said of the cold file."""
    path, shown = str(tmp_path / "log.db"), NoFolders()
    async with engine_on(f"sqlite:{path}") as engine:
        sent = [engine.execute(Put(f"s-{n}", f"{n}" * 25_000)) for n in range(400)]
        await asyncio.gather(*sent)

    async def is_even(stream: str) -> bool:
        return int(stream[-1]) % 2 == 0

    rule = ArchiveRule("shelf", ("was-put",), 1 << 60, is_even)
    done: list[Archived] = []
    for files in (Hardened(), SystemFiles()):
        async with SqliteArchiver(path, Ports(files=files)) as archiver:
            done.append(await archiver.archive(rule, lambda _moved, _events: None))
    assert [(one.events, one.is_shrunk) for one in done] == [(200, False), (0, True)]
    assert done[1].after < done[0].after
    del shown


async def test_who_reads_a_log_on_a_full_disk_is_told_that_it_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite calls it a disk I/O error, as it calls a disk that is broken."""
    import resource

    path = tmp_path / "log.db"
    async with engine_on(f"sqlite:{path}") as engine:
        await engine.execute(Put("one", "x"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        status = await asyncio.to_thread(main, ["log", str(path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    assert "there is no room on its disk for the index (-shm)" in capsys.readouterr().err


async def test_what_found_no_room_is_no_damage_for_the_next_start(tmp_path: Path) -> None:
    status, told = lives("commits", tmp_path / "log.db")
    assert (status, told) == (9, [1, 1])
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    assert [event.stream for event in await feed(store)] == ["counter:a", "counter:c"]
    await store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors of POSIX")
def test_where_no_descriptors_are_left_that_is_the_reason(tmp_path: Path) -> None:
    import resource

    files, path = SystemFiles(), str(tmp_path / "log.db")
    files.connect(path).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        with pytest.raises(apsw.CantOpenError, match=r"too many open files.*`ulimit -n`"):
            files.connect(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files.connect(path).close()
