"""`python -m engine copy`: whole, of one moment, verified, and over nothing that is there."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Damaged, StoreRefused
from engine.model.stored import EventData
from engine.runtime.ports import Ports, SystemFiles
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.copy import copy_log
from engine.testing.conformance import ADDED, append, feed, numbers, request

SECONDS = 60
LARGE = EventData(ADDED, b'"' + b"x" * 20_000 + b'"')


async def made(folder: Path, events: int = 3) -> SqliteStore:
    store = SqliteStore(str(folder / "log.db"))
    await store.open(Ports())
    for number in range(events):
        await append(store, request("a:1", number, number + 1))
    return store


def copied(*arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "engine", "copy", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


async def test_a_copy_beside_a_writer_is_whole_and_an_engine_starts_on_it(tmp_path: Path) -> None:
    store = await made(tmp_path)
    over = asyncio.Event()

    async def write() -> int:
        version = 0
        while not over.is_set():
            await append(store, AppendRequest([Write("b:1", version, [LARGE] * 10)]))
            version += 10
        return version

    writing = asyncio.create_task(write())
    for number in range(3):
        to = str(tmp_path / f"copy-{number}.db")
        found = await asyncio.to_thread(copy_log, SystemFiles(), store.path, to)
        assert found.views is None
        again = SqliteStore(to)
        await again.open(Ports())
        assert (await again.head()) == found.head
        assert again.log_id == store.log_id
        assert await append(again, request("c:1", 0, 9)) == [
            Appended(found.head.position + 1, (1,))
        ]
        await again.close()
    over.set()
    assert await writing > 0
    await store.close()


async def test_the_views_come_along_and_both_are_the_owners_alone(tmp_path: Path) -> None:
    store = await made(tmp_path)
    with closing(apsw.Connection(store.views_path)) as views:
        views.execute("PRAGMA journal_mode = wal").fetchall()
        views.execute("CREATE TABLE t(x); INSERT INTO t VALUES (7)").fetchall()
    to = tmp_path / "there" / "copy.db"
    to.parent.mkdir()

    status, out, err = copied(store.path, str(to))

    assert (status, err) == (0, "")
    assert "copied to position 3, with its views in" in out
    with closing(apsw.Connection(str(to.parent / "copy.views.db"))) as views:
        assert views.execute("SELECT x FROM t").fetchall() == [(7,)]
    for file in (to, to.parent / "copy.views.db"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await store.close()


@pytest.mark.parametrize("there", ["copy.db", "copy.db-wal", "copy.views.db"])
async def test_nothing_is_written_over(tmp_path: Path, there: str) -> None:
    store = await made(tmp_path)
    (tmp_path / there).touch()

    with pytest.raises(StoreRefused, match=f"{there} is there already"):
        copy_log(SystemFiles(), store.path, str(tmp_path / "copy.db"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("copy")) == [there]
    await store.close()


async def test_a_copy_that_is_not_whole_is_taken_away(tmp_path: Path) -> None:
    store = await made(tmp_path)
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("DROP TRIGGER events_never_change; UPDATE events SET payload = x'37'")

    with pytest.raises(Damaged, match="position 1 "):
        copy_log(SystemFiles(), store.path, str(tmp_path / "copy.db"))
    assert not list(tmp_path.glob("copy*"))
    await store.close()


async def test_of_a_damaged_log_what_stands_before_is_copied_if_asked_for(tmp_path: Path) -> None:
    store = await made(tmp_path, 9)
    path = tmp_path / "left.db"
    path.write_bytes(Path(store.path).read_bytes())
    wal = bytearray(Path(f"{store.path}-wal").read_bytes())
    await store.close()
    wal[len(wal) * 3 // 4] ^= 1
    Path(f"{path}-wal").write_bytes(wal)
    to = str(tmp_path / "copy.db")

    status, _, err = copied(str(path), to)
    assert status == 1
    assert "is damaged" in err
    status, out, err = copied(str(path), to, "--damaged")

    assert (status, err) == (0, "")
    again = SqliteStore(to)
    await again.open(Ports())
    kept = numbers(await feed(again))
    await again.close()
    assert kept == list(range(1, len(kept) + 1))
    assert 0 < len(kept) < 9
    assert f"copied to position {len(kept)}" in out
    assert Path(f"{path}-wal").read_bytes() == wal


def test_what_is_no_log_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("x" * 10_000)
    for name in ("text.db", "none.db"):
        status, out, err = copied(str(tmp_path / name), str(tmp_path / "copy.db"))
        assert (status, out) == (1, "")
        assert name in err
    assert not list(tmp_path.glob("copy*"))
