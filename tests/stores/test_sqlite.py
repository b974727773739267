"""The SQLite store passes the suite of all stores, and keeps its own promises about the file."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import apsw
import msgspec
import pytest
import pytest_asyncio

from engine import DefinitionError, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import EventData
from engine.runtime.ports import Ports
from engine.stores.contract.claims import HeldClaim, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.schema import APPLICATION_ID, MIGRATIONS, migrate, read_schema_version
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.urls import open_url
from engine.testing.conformance import ADDED, append, event, feed, numbers, request
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.machine import SimulatedFiles
from tests.stores.sqlite_conformance import SqliteConformance
from tests.support.faults import FaultyVfs, VfsFiles

ROOT = Path(__file__).parent.parent.parent


class TestSqliteStore(SqliteConformance):
    pass


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports())
    yield made
    await made.close()


async def test_the_file_and_what_lies_beside_it_are_the_owners_alone(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    folder = Path(store.path).parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert modes == dict.fromkeys(
        ["log.db", "log.db-wal", "log.db-shm", "log.db.end", "log.db.lock"], 0o600
    )


async def test_every_setting_took(store: SqliteStore) -> None:
    assert store.durable
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "page_size": 8192,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "mmap_size": 0,
        "application_id": APPLICATION_ID,
        "user_version": len(MIGRATIONS),
    }
    found = {name: store._connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in wanted}

    assert found == wanted


class Deaf:
    """A connection on which one setting does not take, without a word."""

    def __init__(self, connection: apsw.Connection, pragma: str) -> None:
        self._connection = connection
        self._pragma = pragma

    def execute(self, sql: str, *values: Any) -> Any:
        if sql.startswith(f"PRAGMA {self._pragma}="):
            sql = "SELECT 1"
        return self._connection.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class DeafFiles(SystemFiles):
    def __init__(self, pragma: str) -> None:
        self._pragma = pragma

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        connection = super().connect(path, readonly=readonly)
        return connection if readonly else Deaf(connection, self._pragma)


@pytest.mark.parametrize("pragma", ["journal_mode", "wal_autocheckpoint", "trusted_schema"])
async def test_a_setting_that_does_not_take_is_noticed(tmp_path: Path, pragma: str) -> None:
    refused = SqliteStore(str(tmp_path / "log.db"))
    with pytest.raises(StoreRefused, match=f"PRAGMA {pragma}=.* did not take"):
        await refused.open(Ports(files=DeafFiles(pragma)))
    await refused.open(Ports())
    await refused.close()


async def test_a_commit_is_synced_before_it_is_answered(tmp_path: Path) -> None:
    """The system calls themselves are counted, through a VFS that sees every sync."""
    seen = FaultyVfs()
    counted = SqliteStore(str(tmp_path / "log.db"))
    await counted.open(Ports(files=VfsFiles(seen.name)))
    before = seen.calls.count("sync log.db-wal")
    for number in range(10):
        await append(counted, request("a:1", number, number))
        assert seen.calls.count("sync log.db-wal") >= before + number + 1
    await counted.close()
    seen.unregister()


async def test_what_a_killed_process_left_is_durable_before_it_is_shown(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", Random(1))
    ports = Ports(files=SimulatedFiles(disk))
    killed = SqliteStore(str(disk.folder / "log.db"))
    await killed.open(ports)
    await append(killed, request("a:1", 0, 1))
    disk.sync_failures = 1.0  # written, and never synced
    with pytest.raises(StoreFailed):
        await append(killed, request("a:1", 1, 2))
    disk.dead = disk.only_killed = True
    with suppress(StoreFailed):
        await killed.close()
    disk.restart()

    restarted = SqliteStore(str(disk.folder / "log.db"))
    await restarted.open(ports)
    shown = await feed(restarted)
    disk.dead = True
    with suppress(StoreFailed):
        await restarted.close()
    disk.restart(disk.survivors("nothing", Random(2)))
    after = SqliteStore(str(disk.folder / "log.db"))
    await after.open(ports)

    assert numbers(shown) == [1, 2], "otherwise this test shows nothing"
    assert numbers(await feed(after)) == [1, 2]
    await after.close()
    disk.dispose()


async def test_a_reader_in_the_way_does_not_keep_a_log_from_its_start(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    with closing(apsw.Connection(store.path)) as reader:
        reader.execute("BEGIN").fetchall()
        assert reader.execute("SELECT count(*) FROM events").fetchall() == [(1,)]
        await append(store, request("a:1", 1, 2))
        await store.close()  # leaves its write-ahead log, as a killed process does

        await store.open(Ports())
        assert numbers(await feed(store)) == [1, 2]
    await store.close()


def test_what_is_rewritten_is_what_it_was_and_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db-wal"
    content = Random(1).randbytes(2_500_000)
    path.write_bytes(content)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))

    SystemFiles().rewrite(str(path))

    assert path.read_bytes() == content
    assert synced == [path.stat().st_ino]


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreRefused, match=r"3\.51\.2 can corrupt a log .* 3\.51\.3 or newer"):
        await SqliteStore(str(tmp_path / "log.db")).open(Ports())


async def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.db").touch()
    (tmp_path / "log.db").symlink_to(tmp_path / "real.db")
    with pytest.raises(StoreRefused, match="not a plain file"):
        await SqliteStore(str(tmp_path / "log.db")).open(Ports())


async def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    (tmp_path / "log.db").chmod(0o666)
    with pytest.raises(StoreRefused, match="chmod o-w"):
        await SqliteStore(str(tmp_path / "log.db")).open(Ports())


async def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="No such file"):
        await SqliteStore(str(tmp_path / "nowhere" / "log.db")).open(Ports())


async def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"not a database, but somebody's letter " * 50)
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="no SQLite database"):
        await SqliteStore(str(path)).open(Ports())

    assert path.read_bytes() == before


async def test_a_database_of_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(apsw.Connection(str(path))) as other:
        other.execute("CREATE TABLE notes(text)")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="a database of something else"):
        await SqliteStore(str(path)).open(Ports())

    assert path.read_bytes() == before


async def test_a_schema_of_a_later_release_is_refused(store: SqliteStore) -> None:
    await store.close()
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreRefused, match="a later release has migrated it"):
        await store.open(Ports())


async def test_a_migration_goes_forward_whole_or_not_at_all(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    await store.close()
    good = ("CREATE TABLE extra(x INTEGER) STRICT", "ALTER TABLE about ADD COLUMN note TEXT")
    bad = ("CREATE TABLE extra(x INTEGER) STRICT", "SELECT nothing FROM nowhere")
    connection = apsw.Connection(store.path)
    with pytest.raises(apsw.SQLError):
        migrate(connection, len(MIGRATIONS), [*MIGRATIONS, bad])
    assert read_schema_version(connection, store.path, 9) == len(MIGRATIONS)
    assert not connection.table_exists("main", "extra")

    migrate(connection, len(MIGRATIONS), [*MIGRATIONS, good])

    assert read_schema_version(connection, store.path, 9) == len(MIGRATIONS) + 1
    assert connection.table_exists("main", "extra")
    assert connection.execute("SELECT count(*) FROM events").fetchall() == [(1,)]
    connection.close()


async def test_a_log_without_claims_gets_them(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    await store.close()
    with closing(apsw.Connection(store.path)) as former:
        former.execute(
            "DROP TABLE archives; DROP TABLE tags; DROP TABLE tag_forms; DROP TABLE timers; "
            "DROP TABLE claims; PRAGMA user_version = 1"
        )

    await store.open(Ports())

    assert await store.read_claims(claims_max=1) == []
    taking = AppendRequest([Write("a:1", 1, [event(2)])], [TakeClaim("email", "ann", "a:1")])
    assert await append(store, taking) == [Appended(2, (2,))]
    assert await store.read_claims(claims_max=2) == [HeldClaim("email", "ann", "a:1", 2)]


async def test_a_claim_that_a_shell_has_taken_is_no_success(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("INSERT INTO claims VALUES ('email', 'ann', 77, 1)")
    taking = AppendRequest([Write("a:2", 0, [event(2)])], [TakeClaim("email", "ann", "a:2")])

    with pytest.raises(StoreFailed) as failed:
        await append(store, taking)

    assert failed.value.written is False
    assert numbers(await feed(store)) == [1]


HOLDER = """
import asyncio, sys
from engine.runtime.ports import Ports
from engine.stores.sqlite.log.store import SqliteStore

async def main():
    await SqliteStore(sys.argv[1]).open(Ports())
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def test_a_second_process_is_told_who_has_the_log_until_that_one_is_killed(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "log.db")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin
    assert holder.stdout
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"open\n"
        second = SqliteStore(path)
        with pytest.raises(
            StoreLocked, match=rf"held by process {holder.pid}: .* Engine\(join=True\)"
        ):
            await second.open(Ports())
        waiting = SqliteStore(path, open_timeout=60)
        holder.send_signal(signal.SIGKILL)
        await waiting.open(Ports())
        holder.wait()
    await append(waiting, request("a:1", 0, 1))
    await waiting.close()


SHELL = """
import json, sqlite3, sys
log = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
found = log.execute("SELECT * FROM log ORDER BY position")
print(json.dumps([[column[0] for column in found.description], *found]))
"""


async def test_people_read_the_log_in_any_sqlite_shell(store: SqliteStore) -> None:
    data = EventData(ADDED, '{"to":"ü"}'.encode(), b'{"key":"k"}')
    await append(store, AppendRequest([Write("a:1", 0, [data])]), recorded=1_500_000)
    await append(store, request("b:1", 0, 2), recorded=1_500_001)
    # A process of its own: two SQLite libraries in one process break each other's file locks.
    done = subprocess.run(
        [sys.executable, "-c", SHELL, store.path], capture_output=True, text=True, check=True
    )
    columns, *rows = msgspec.json.decode(done.stdout, type=list[list[Any]])
    assert await append(store, request("c:1", 0, 3)) == [Appended(3, (1,))]

    assert columns == [
        "position",
        "stream",
        "version",
        "event",
        "event_version",
        "recorded",
        "payload",
        "metadata",
    ]
    first = "1970-01-01T00:00:01.500000Z"
    assert rows[0] == [1, "a:1", 1, "added", 1, first, '{"to":"ü"}', '{"key":"k"}']
    assert rows[1][5:] == ["1970-01-01T00:00:01.500001Z", '{"number":2}', None]


def test_urls_name_stores() -> None:
    assert type(open_url("memory:")).__name__ == "MemoryStore"
    shop = open_url("sqlite:shop.db")
    assert isinstance(shop, SqliteStore)
    here = Path.cwd().resolve()
    assert (shop.path, shop.views_path) == (str(here / "shop.db"), str(here / "shop.views.db"))
    for url in ("sqlite:///tmp/a.b/shop", "sqlite:/tmp/a.b/shop"):
        deep = open_url(url)
        assert isinstance(deep, SqliteStore)
        assert (deep.path, deep.views_path) == ("/tmp/a.b/shop", "/tmp/a.b/shop.views")
    for bad in ("", "shop.db", "memory:x", "sqlite:", "mysql://x", "sqlite::memory:"):
        with pytest.raises(DefinitionError, match="none that this release knows"):
            open_url(bad)
