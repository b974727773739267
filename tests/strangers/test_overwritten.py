"""A log whose files somebody writes over while an engine runs: a backup copied over it, a cut.

The file is the same one, by device and number, so that its place tells nothing. What is written
behind that would be lost with the rest, and must not be acknowledged.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Archive, Engine, EngineError, EngineFailed, Limits, Receipt, StoreFailed
from engine.runtime.ports import Ports
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import append, feed, numbers, request
from tests.support.counters import Add, Counter

WAL_BYTES = 64 * 1024
FEW = 8
"""Commands that leave the write-ahead log with much in it."""


async def add(engine: Engine, count: int) -> list[Receipt]:
    """Run so many commands one after the other; give the receipts until one has another answer."""
    receipts: list[Receipt] = []
    for number in range(count):
        try:
            receipts.append(await engine.execute(Add(f"a-{number % 40}", 1)))
        except EngineError:
            break
    return receipts


async def fill(path: Path, count: int) -> None:
    """Run so many commands at once, and let all of it be folded as the engine ends."""
    async with Engine([Counter], store=path) as engine:
        commands = [Add(f"a-{number % 40}", 1) for number in range(count)]
        answers = [answer async for answer in engine.execute_many(commands)]
        assert all(isinstance(answer, Receipt) for answer in answers)


async def prepared(path: Path) -> None:
    """Make a log with backups of two days beside it."""
    await fill(path, 20)
    shutil.copyfile(path, path.with_name("backup.db"))
    await fill(path, 1_000)
    shutil.copyfile(path, path.with_name("yesterday.db"))
    await fill(path, 40)
    with closing(sqlite3.connect(path.with_name("other.db"))) as connection:
        connection.execute("CREATE TABLE mine (a)")
        connection.commit()


_RESTORE = "import sqlite3; sqlite3.connect('backup.db').backup(sqlite3.connect('log.db'))"
HARM: Mapping[str, str] = {
    "an old backup": "cp backup.db log.db",
    "an old backup with its time": "cp -p backup.db log.db",
    "a backup that lacks little": "cat yesterday.db >log.db",
    "another database": "cp other.db log.db",
    "an empty file": ": >log.db",
    "a cut": "truncate -s 16384 log.db",
    "an empty write-ahead log": ": >log.db-wal",
    "a cut write-ahead log": "truncate -s 4096 log.db-wal",
    "an old backup by a transaction": f'{sys.executable} -c "{_RESTORE}"',
}
"""What is done from a shell: in the engine's own process it would let go of the locks too."""


def shell(path: Path, command: str) -> None:
    subprocess.run(["/bin/sh", "-c", command], cwd=path.parent, check=True, timeout=20)


@pytest.mark.parametrize("writer", ["thread", "process"])
@pytest.mark.parametrize("harm", HARM, ids=[name.replace(" ", "-") for name in HARM])
async def test_nothing_is_acknowledged_behind_what_was_written_over(
    tmp_path: Path, harm: str, writer: str
) -> None:
    path = tmp_path / "log.db"
    await prepared(path)
    with pytest.raises(EngineFailed, match="not have any more what was written to it"):
        async with Engine([Counter], store=f"sqlite:{path}?writer={writer}") as engine:
            assert len(await add(engine, FEW)) == FEW
            shell(path, HARM[harm])
            assert await add(engine, FEW) == []


async def test_an_emptied_file_keeps_the_write_ahead_log_that_belongs_to_it(tmp_path: Path) -> None:
    """SQLite removes it where a connection is opened to an empty file."""
    path = tmp_path / "log.db"
    with pytest.raises(EngineFailed, match=r"is empty, and .*-wal has"):
        async with Engine([Counter], store=path) as engine:
            await add(engine, FEW)
            shell(path, "cp log.db kept.db; : >log.db")
            await add(engine, 1)
    shell(path, "cat kept.db >log.db")

    async with Archive([Counter], store=path) as archive:
        assert (await archive.state(Counter, "a-3")).total == 1


LOOKS = (
    "log log.db",
    "tail log.db",
    "verify log.db",
    "health log.db",
    "timers log.db",
    "sql log.db 'SELECT 1'",
    "projections list log.db",
    "export log.db --to events.jsonl",
    "backup log.db backups",
    "copy log.db copy.db",
    "personal list log.db",
)


@pytest.mark.parametrize("look", LOOKS, ids=[look.split()[0] for look in LOOKS])
async def test_who_only_looks_at_an_emptied_file_leaves_its_write_ahead_log(
    tmp_path: Path, look: str
) -> None:
    path = tmp_path / "log.db"
    at_work = tmp_path / "at-work.db"
    async with Engine([Counter], store=at_work) as engine:
        await add(engine, FEW)
        shutil.copyfile(f"{at_work}-wal", f"{path}-wal")  # as a kill leaves it
    path.write_bytes(b"")
    before = Path(f"{path}-wal").read_bytes()
    command = f"{sys.executable} -m engine {look}"
    looked = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (looked.returncode, len(before) > WAL_BYTES) == (1, True), looked
    assert "log.db-wal has" in looked.stdout + looked.stderr
    assert Path(f"{path}-wal").read_bytes() == before


# -- what does no harm ---------------------------------------------------------------------------


def touch(path: Path) -> None:
    os.utime(path)


def fold_from_a_shell(path: Path) -> None:
    run_sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")


def vacuum(path: Path) -> None:
    run_sql(path, "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")


def fill_a_table_of_his_own(path: Path) -> None:
    run_sql(
        path,
        "CREATE TABLE IF NOT EXISTS mine (a TEXT)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) "
        "INSERT INTO mine SELECT hex(randomblob(4000)) FROM n",
        "DELETE FROM mine",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    )


def run_sql(path: Path, *statements: str) -> None:
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for s in sys.argv[2:]: c.execute(s).fetchall()"
    )
    subprocess.run([sys.executable, "-c", code, str(path), *statements], check=True, timeout=20)


@pytest.mark.parametrize("writer", ["thread", "process"])
@pytest.mark.parametrize("act", [touch, fold_from_a_shell, vacuum, fill_a_table_of_his_own])
async def test_who_does_no_harm_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], writer: str
) -> None:
    monkeypatch.setattr("engine.stores.sqlite.wal.WAL_BYTES_MIN", WAL_BYTES)
    path = tmp_path / "log.db"
    async with Engine([Counter], store=f"sqlite:{path}?writer={writer}") as engine:
        for _ in range(4):
            assert len(await add(engine, 10)) == 10
            act(path)
        assert len(await add(engine, 10)) == 10
    async with Archive([Counter], store=path) as archive:
        totals = [(await archive.state(Counter, f"a-{number}")).total for number in range(10)]
    assert sum(totals) == 50


async def test_folds_of_the_engines_own_are_looked_into_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stores.sqlite.wal.WAL_BYTES_MIN", WAL_BYTES)
    looked: list[object] = []
    monkeypatch.setattr(
        "engine.stores.sqlite.log.contents.Contents._look_into", lambda self: looked.append(self)
    )
    limits = Limits(batch_events=1)
    async with Engine([Counter], store=tmp_path / "log.db", limits=limits) as engine:
        rounds = 0
        while _merges(engine) <= 3:  # how soon it merges depends on how busy the disk is
            rounds += 1
            assert rounds < 20
            await add(engine, 60)
    assert looked == []


def _merges(engine: Engine) -> int:
    stored = engine.statistics().store
    assert stored is not None
    return stored.wal_merges


class Full(SystemFiles):
    """A process that may open no further file for a while."""

    is_full = False

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        if self.is_full:
            raise apsw.CantOpenError("unable to open database file")
        return super().connect(path, readonly=readonly)


async def test_where_it_cannot_be_looked_into_a_batch_is_put_off(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    files = Full()
    store = SqliteStore(str(path))
    await store.open(Ports(files=files))
    await append(store, request("a:1", 0, 1))
    touch(path)
    files.is_full = True
    for _ in range(2):
        with pytest.raises(StoreFailed, match="cannot be looked at now") as failed:
            await append(store, request("a:1", 1, 2))
        assert failed.value.written is False
        assert not failed.value.stopped
    files.is_full = False
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]
    await store.close()
