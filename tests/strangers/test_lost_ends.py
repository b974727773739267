"""A log that was not closed in peace, whose write-ahead log is lost or cut before the next start.

The database alone looks like one that was closed. What its last writer noted beside it tells.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from engine import Archive, Engine, Ports, StoreRefused
from engine.__main__ import main
from engine.stores.sqlite.log import schema, store
from engine.stores.sqlite.wal import PAGE_BYTES
from engine.testing.conformance import append, request
from tests.support.counters import Add, Counter

COUNT = 12
FRAME = 24 + PAGE_BYTES


async def killed(folder: Path, *, fresh: bool = False) -> Path:
    """Give a log as a killed engine leaves it; with `fresh` one that was never folded."""
    path = folder / "live" / "log.db"
    path.parent.mkdir()
    if not fresh:
        async with Engine([Counter], store=path) as engine:
            await engine.execute(Add("a", 1))
    async with Engine([Counter], store=path) as engine:
        for _ in range(COUNT):
            await engine.execute(Add("a", 1))
        shutil.copytree(path.parent, folder / "left")
    return folder / "left" / "log.db"


async def total(path: Path) -> int:
    async with Engine([Counter], store=path) as engine:
        return (await engine.state(Counter, "a")).total


def wal_of(path: Path) -> Path:
    return path.with_name("log.db-wal")


def remove(wal: Path) -> None:
    wal.unlink()


def empty(wal: Path) -> None:
    os.truncate(wal, 0)


def cut(wal: Path) -> None:
    os.truncate(wal, wal.stat().st_size - FRAME)


def cut_half(wal: Path) -> None:
    frames = (wal.stat().st_size - 32) // FRAME
    os.truncate(wal, 32 + frames // 2 * FRAME)


def blank_the_end(wal: Path) -> None:
    size = wal.stat().st_size
    os.truncate(wal, size - 3 * FRAME)
    os.truncate(wal, size)


def blank_the_beginning(wal: Path) -> None:
    with wal.open("r+b") as file:
        file.write(bytes(8 * FRAME))


@pytest.mark.parametrize("fresh", [False, True], ids=["folded-before", "fresh"])
@pytest.mark.parametrize("harm", [remove, empty, cut, cut_half, blank_the_end, blank_the_beginning])
async def test_a_lost_end_of_a_log_that_was_left_is_refused_and_nothing_is_changed(
    tmp_path: Path, harm: Callable[[Path], None], fresh: bool
) -> None:
    path = await killed(tmp_path, fresh=fresh)
    assert await total(Path(shutil.copytree(path.parent, tmp_path / "whole")) / "log.db") == (
        COUNT + (not fresh)
    )
    harm(wal_of(path))
    wal = wal_of(path).read_bytes() if wal_of(path).exists() else b""
    before = path.read_bytes()

    for _ in range(2):
        with pytest.raises(
            StoreRefused, match=r"its events were acknowledged.*remove .*log.db.end"
        ):
            await total(path)
    assert path.read_bytes() == before
    assert (wal_of(path).read_bytes() if wal_of(path).exists() else b"") == wal

    path.with_name("log.db.end").unlink()
    assert await total(path) < COUNT + (not fresh), "who takes the note away goes on without them"


@pytest.mark.parametrize("harm", [remove, cut])
async def test_who_reads_a_log_without_its_end_is_told_so(
    tmp_path: Path, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = await killed(tmp_path)
    harm(wal_of(path))
    backup, copy, jsonl = (str(tmp_path / name) for name in ("backup", "copy.db", "log.jsonl"))

    for command in (
        ["verify"],
        ["copy", copy],
        ["backup", backup],
        ["log"],
        ["export", "--to", jsonl],
    ):
        status = main([command[0], str(path), *command[1:]])
        told = capsys.readouterr()
        assert status == 1, command
        assert "events were acknowledged" in told.out + told.err, command
    assert not list(tmp_path.glob("copy.db*"))
    with pytest.raises(StoreRefused, match="events were acknowledged"):
        async with Archive([Counter], store=path):
            pass

    # What there is can be had all the same.
    assert main(["copy", "--damaged", str(path), copy]) == 0
    assert await total(Path(copy)) < COUNT + 1


async def test_a_backup_in_its_place_is_believed(tmp_path: Path) -> None:
    path = await killed(tmp_path)
    shutil.copy(path, tmp_path / "backup.db")
    wal_of(path).unlink()
    shutil.copyfile(tmp_path / "backup.db", path)

    assert await total(path) == 1


async def test_a_log_that_a_shell_has_folded_since_is_whole(tmp_path: Path) -> None:
    path = await killed(tmp_path)
    code = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('SELECT * FROM events')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    assert not wal_of(path).exists(), "it was folded by the last connection"

    assert await total(path) == COUNT + 1


async def test_a_later_release_goes_on_with_a_log_that_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await killed(tmp_path)
    later = (*schema.MIGRATIONS, ("CREATE TABLE later(one INTEGER) STRICT",))
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    monkeypatch.setattr(store, "MIGRATIONS", later)

    assert await total(path) == COUNT + 1


async def test_a_log_may_be_put_back_between_two_lives_of_one_store(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = store.SqliteStore(str(path))
    await log.open(Ports())
    await append(log, request("a:1", 0, 1))
    await log.close()
    shutil.copyfile(path, tmp_path / "backup.db")
    await log.open(Ports())
    await append(log, request("a:1", 1, 2))
    await log.close()
    shutil.copyfile(tmp_path / "backup.db", path)

    await log.open(Ports())
    assert (await log.head()).position == 1
    await log.close()


async def test_a_log_that_was_closed_in_peace_has_no_note(tmp_path: Path) -> None:
    path = await killed(tmp_path)
    assert path.with_name("log.db.end").exists()

    await total(path)
    assert not path.with_name("log.db.end").exists()
    assert not (tmp_path / "live" / "log.db.end").exists()


async def test_the_note_of_another_log_says_nothing(tmp_path: Path) -> None:
    path = await killed(tmp_path)
    other = tmp_path / "log.db"
    async with Engine([Counter], store=other) as engine:
        await engine.execute(Add("a", 5))
    said = path.with_name("log.db.end").read_bytes()
    stamp = path.stat()
    other.with_name("log.db.end").write_bytes(said)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("VACUUM")
    os.truncate(other, stamp.st_size)
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert await total(other) == 5


@pytest.mark.parametrize("what", ["text", "short", "folder", "link", "pipe", "torn"])
async def test_what_is_no_note_is_neither_believed_nor_in_the_way(
    tmp_path: Path, what: str
) -> None:
    note, aim = tmp_path / "log.db.end", tmp_path / "aim"
    text = {"text": "foldline " * 100, "torn": "foldline end 99 of m"}.get(what, "mine\n")
    aim.write_text(text)
    if what == "folder":
        note.mkdir()
    elif what == "link":
        note.symlink_to(aim)
    elif what == "pipe":
        os.mkfifo(note)
    else:
        note.write_text(text)
    path = tmp_path / "log.db"

    async with Engine([Counter], store=path) as engine:
        await engine.execute(Add("a", 3))
    assert await total(path) == 3
    assert aim.read_text() == text
    assert os.path.lexists(note) is (what != "torn")
    assert what != "short" or note.read_text() == text
