"""`python -m engine copy`: whole, of one moment, verified, and over nothing that is there."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Damaged, StoreRefused
from engine.__main__ import main
from engine.cli import copy
from engine.model.stored import EventData
from engine.runtime.ports import Ports
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.copy import copy_log
from engine.testing.conformance import ADDED, append, feed, numbers, request
from tests.support import warm

SECONDS = 60
LARGE = EventData(ADDED, b'"' + b"x" * 20_000 + b'"')


async def made(folder: Path, events: int = 3) -> SqliteStore:
    store = SqliteStore(str(folder / "log.db"))
    await store.open(Ports())
    for number in range(events):
        await append(store, request("a:1", number, number + 1))
    return store


def copied(*arguments: str) -> tuple[int, str, str]:
    ran = warm.run(
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


KILLED = """
import os, sys
from engine.stores.sqlite.system_files import SystemFiles
from engine.stores.sqlite.outside.copy import copy_log

left = int(sys.argv[3])

class Killed(SystemFiles):
    def step(self):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
    def connect(self, path, *, readonly=False):
        self.step()
        return super().connect(path, readonly=readonly)
    def place(self, path, to):
        self.step()
        super().place(path, to)

copy_log(Killed(), sys.argv[1], sys.argv[2])
"""


async def test_a_copy_that_was_killed_is_no_log_that_an_engine_would_begin_anew(
    tmp_path: Path,
) -> None:
    store = await made(tmp_path)
    with closing(apsw.Connection(store.views_path)) as views:
        views.execute("CREATE TABLE t(x)").fetchall()
    for step in range(20):
        to = tmp_path / str(step) / "copy.db"
        to.parent.mkdir()
        arguments = [sys.executable, "-c", KILLED, store.path, str(to), str(step)]
        status = warm.run(arguments, timeout=SECONDS, check=False).returncode
        if status == 0:
            break
        assert not to.exists(), "only what is whole has its name"
        if any(to.parent.glob("*.partial")):
            with pytest.raises(StoreRefused, match=r"(partial|views.db) is there already"):
                copy_log(SystemFiles(), store.path, str(to))
    assert step > 5, "it was killed at each step of the way"
    assert {file.name for file in to.parent.iterdir()} == {"copy.db", "copy.views.db"}
    await store.close()


class Ended(SystemFiles):
    """A file system under which somebody sends a signal as the log is to have its name."""

    def place(self, path: str, to: str) -> None:
        if to.endswith("copy.db"):
            os.kill(os.getpid(), signal.SIGTERM)
        super().place(path, to)


async def test_a_copy_that_a_timer_ends_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await made(tmp_path)
    with closing(apsw.Connection(store.views_path)) as views:
        views.execute("CREATE TABLE t(x)").fetchall()
    monkeypatch.setattr(copy, "Ports", lambda: Ports(files=Ended()))

    with pytest.raises(SystemExit) as ended:
        main(["copy", store.path, str(tmp_path / "copy.db")])
    assert ended.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("copy*"))
    await store.close()


class Small(SystemFiles):
    """A file system whose new files have room for three pages."""

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        connection = super().connect(path, readonly=readonly)
        if not readonly:
            connection.execute("PRAGMA max_page_count = 3").fetchall()
        return connection


async def test_a_copy_says_that_there_is_no_room(tmp_path: Path) -> None:
    store = await made(tmp_path)
    with pytest.raises(StoreRefused, match="there is no room"):
        copy_log(Small(), store.path, str(tmp_path / "copy.db"))
    assert not list(tmp_path.glob("copy*"))
    await store.close()


async def test_a_copy_is_named_like_a_store(tmp_path: Path) -> None:
    store = await made(tmp_path)
    status, _, err = copied(f"sqlite:{store.path}", f"sqlite:{tmp_path / 'copy.db'}")
    assert (status, err) == (0, "")
    assert (tmp_path / "copy.db").exists()
    await store.close()
