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

from engine import Damaged, DefinitionError, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import EventData
from engine.runtime.ports import Ports, SystemFiles
from engine.stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    StreamConflict,
    StreamRead,
    Write,
)
from engine.stores.sqlite.log import pages as sqlite_pages
from engine.stores.sqlite.log.schema import APPLICATION_ID, MIGRATIONS, migrate, read_schema_version
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.urls import open_url, views_path
from engine.testing.conformance import (
    ADDED,
    ALL,
    append,
    feed,
    numbers,
    request,
)
from tests.simulation.disk import Disk
from tests.simulation.machine import SimulatedFiles
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


# -- the file -------------------------------------------------------------------------------


async def test_the_file_and_what_lies_beside_it_are_the_owners_alone(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    folder = Path(store.path).parent
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}

    assert modes == dict.fromkeys(["log.db", "log.db-wal", "log.db-shm", "log.db.lock"], 0o600)


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
        migrate(connection, 1, [*MIGRATIONS, bad])
    assert read_schema_version(connection, store.path, 9) == 1
    assert not connection.table_exists("main", "extra")

    migrate(connection, 1, [*MIGRATIONS, good])

    assert read_schema_version(connection, store.path, 9) == 2
    assert connection.table_exists("main", "extra")
    assert connection.execute("SELECT count(*) FROM events").fetchall() == [(1,)]
    connection.close()


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
        with pytest.raises(StoreLocked, match=f"held by process {holder.pid}"):
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
        assert (deep.path, views_path(deep)) == ("/tmp/a.b/shop", "/tmp/a.b/shop.views")
    for bad in ("", "shop.db", "memory:x", "sqlite:", "postgresql://x", "sqlite::memory:"):
        with pytest.raises(DefinitionError, match="none that this release knows"):
            open_url(bad)


# -- the schema's own word ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("INSERT INTO events VALUES (3, 1, 2, 1, 1, 0, x'', x'', 0)", "taken once"),
        ("INSERT INTO events VALUES (2, 1, 3, 1, 1, 0, x'', x'', 0)", "taken once"),
        ("INSERT OR REPLACE INTO events VALUES (2, 1, 2, 1, 1, 0, x'', x'', 0)", "taken once"),
        ("INSERT OR REPLACE INTO events VALUES (3, 1, 2, 1, 1, 0, x'', x'', 0)", "taken once"),
        ("INSERT OR REPLACE INTO events VALUES (2, 2, 1, 1, 1, 0, x'', x'', 0)", "taken once"),
        ("INSERT INTO events VALUES (3, 1, 4, 1, 1, 0, x'', x'', 0)", "have no holes"),
        ("INSERT INTO events VALUES (4, 1, 3, 1, 1, 0, x'', x'', 0)", "have no holes"),
        ("INSERT INTO events VALUES (3, 1, 0, 1, 1, 0, x'', x'', 0)", "have no holes"),
        ("INSERT INTO events VALUES (0, 2, 1, 1, 1, 0, x'', x'', 0)", "have no holes"),
        ("UPDATE events SET payload = x'00'", "never changed"),
        ("DELETE FROM events WHERE position = 2", "never deleted"),
    ],
)
async def test_forks_holes_and_changes_are_refused_by_the_schema(
    store: SqliteStore, statement: str, word: str
) -> None:
    await append(store, request("a:1", 0, 1, 2))
    await store.close()
    with (
        closing(apsw.Connection(store.path)) as outside,
        pytest.raises(apsw.ConstraintError, match=word),
    ):
        outside.execute(statement)


@pytest.mark.parametrize(
    "values", ["(2, 1, 3, 1, 1, 0, x'', x'', 0)", "(3, 1, 2, 1, 1, 0, x'', x'', 0)"]
)
async def test_the_unique_keys_refuse_a_fork_by_themselves(store: SqliteStore, values: str) -> None:
    """The second fence stands where the first, a trigger, is gone."""
    await append(store, request("a:1", 0, 1, 2))
    await store.close()
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("DROP TRIGGER events_have_no_holes")
        with pytest.raises(apsw.ConstraintError, match="UNIQUE"):
            outside.execute(f"INSERT INTO events VALUES {values}")


async def append_as_a_stranger(store: SqliteStore, position: int, version: int) -> None:
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute(
            "INSERT INTO events SELECT ?, stream, ?, type, recorded, encoding, payload, metadata, "
            "checksum FROM events WHERE position = 1",
            (position, version),
        )


async def test_a_strangers_write_is_noticed_and_not_forked(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    await append_as_a_stranger(store, 2, 2)

    assert await append(store, request("a:1", 2, 9)) == [Appended(3, (3,))]


async def test_a_stale_cache_ends_in_a_conflict_of_its_own_stream_alone(
    store: SqliteStore,
) -> None:
    """The last fence: the schema's violation is turned into an answer for the right request."""
    await append(store, request("a:1", 0, 1), request("b:1", 0, 1))
    await append_as_a_stranger(store, 3, 2)

    outcomes = await append(store, request("b:1", 1, 2), request("a:1", 1, 9))

    assert outcomes == [Appended(4, (2,)), StreamConflict("a:1", 1, 2)]


async def test_a_stream_that_is_begun_twice_is_a_conflict_of_its_own_stream_alone(
    store: SqliteStore,
) -> None:
    """A writer that remembers nothing takes whoever begins a stream at his word, and asks then."""
    await append(store, request("a:1", 0, 1, 2))
    again = SqliteStore(store.path)
    await store.close()
    await again.open(Ports())
    try:
        outcomes = await append(
            again, request("b:1", 0, 1), request("a:1", 0, 9), request("a:1", 1, 8)
        )

        assert outcomes == [
            Appended(3, (1,)),
            StreamConflict("a:1", 0, 2),
            StreamConflict("a:1", 1, 2),
        ]
        assert await append(again, request("a:1", 2, 9)) == [Appended(4, (3,))]
    finally:
        await again.close()


# -- failures -------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def faulty(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, FaultyVfs]]:
    vfs = FaultyVfs()
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports(files=VfsFiles(vfs.name)))
    await append(made, request("a:1", 0, 1))
    yield made, vfs
    vfs.faults.clear()
    await made.close()
    vfs.unregister()


@pytest.mark.parametrize("call", ["sync log.db-wal", "write log.db-wal"])
async def test_a_failure_in_the_commit_is_unknown_and_stops_the_store(
    faulty: tuple[SqliteStore, FaultyVfs], call: str
) -> None:
    store, vfs = faulty
    vfs.faults[call] = apsw.SQLITE_IOERR
    with pytest.raises(StoreFailed) as failed:
        await append(store, request("a:1", 1, 2))
    assert failed.value.written is None
    vfs.faults.clear()
    with pytest.raises(StoreFailed, match="takes nothing more since"):
        await append(store, request("b:1", 0, 3))
    await store.close()
    await store.open(Ports())

    kept = numbers(await feed(store))
    assert kept in ([1], [1, 2])
    assert await append(store, request("b:1", 0, 3)) == [Appended(len(kept) + 1, (1,))]


async def test_a_disk_that_is_full_before_the_commit_costs_the_batch_alone(
    faulty: tuple[SqliteStore, FaultyVfs],
) -> None:
    store, vfs = faulty
    # A cache so small that the batch spills into the write-ahead log before its commit.
    store._connection.execute("PRAGMA cache_size = 10").fetchall()
    large = EventData(ADDED, b'"' + b"x" * 100_000 + b'"')
    vfs.faults["write log.db-wal"] = apsw.SQLITE_FULL
    with pytest.raises(StoreFailed) as failed:
        await append(store, AppendRequest([Write("b:1", 0, [large] * 20)]), request("c:1", 0, 1))
    assert failed.value.written is False
    assert numbers(await feed(store)) == [1]
    vfs.faults.clear()

    assert await append(store, request("a:1", 1, 2), request("b:1", 0, 3)) == [
        Appended(2, (2,)),
        Appended(3, (1,)),
    ]


async def test_a_writer_that_others_hold_up_says_so_and_goes_on(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(store, request("a:1", 0, 1))
    store._connection.set_busy_timeout(1)
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="[Bb]usy|locked") as failed:
            await append(store, request("a:1", 1, 2))
        outside.execute("ROLLBACK")

    assert failed.value.written is False
    assert await append(store, request("a:1", 1, 2)) == [Appended(2, (2,))]


async def test_a_crash_between_insert_and_commit_leaves_nothing(tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    armed = False

    def crash(name: str) -> None:
        if armed and name == "store.inserted":
            raise Crash

    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports(failpoint=crash))
    await append(store, request("a:1", 0, 1))
    armed = True
    with pytest.raises(Crash):
        await append(store, request("a:1", 1, 2), request("b:1", 0, 3))
    armed = False

    assert numbers(await feed(store)) == [1]
    assert await append(store, request("b:1", 0, 3)) == [Appended(2, (1,))]
    await store.close()


@pytest.mark.parametrize("position", [1, 2, 3])
async def test_a_missing_event_stops_its_readers(store: SqliteStore, position: int) -> None:
    await append(store, request("a:1", 0, 1, 2, 3, 4))
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("DROP TRIGGER events_never_go")
        outside.execute("DELETE FROM events WHERE position = ?", (position,))

    with pytest.raises(Damaged, match=f"position {position} .* missing"):
        await feed(store)
    with pytest.raises(Damaged, match=f"has version {position + 1} where {position} belongs"):
        await store.read_streams([StreamRead("a:1")], events_max=9, bytes_max=ALL)


class Counting:
    """A connection that counts what it is asked, and whose index of versions says what it is told.

    Nothing told, it says what is there.
    """

    def __init__(self, connection: apsw.Connection, versions: str = "") -> None:
        self._connection = connection
        self._versions = versions
        self.statements = 0

    def execute(self, sql: str, values: tuple[Any, ...]) -> Any:
        self.statements += 1
        if self._versions:
            damaged = f"SELECT {self._versions} WHERE ?1 > 0"
            sql = sql.replace(sqlite_pages._VERSIONS, damaged)
        return self._connection.execute(sql, values)

    def limit(self, what: int, value: int) -> int:
        return self._connection.limit(what, value)


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ("'[3]'", "version 3 of a:1 is lost"),
        ("""'["x"]'""", "the index of versions holds what is none"),
        ("json_group_array(x'ff')", "the index of versions holds what is none"),
    ],
    ids=["beyond", "text", "blob"],
)
async def test_a_stream_whose_index_is_damaged_ends_by_an_error(
    store: SqliteStore, versions: str, told: str
) -> None:
    await append(store, request("a:1", 0, 1, 2))
    with closing(apsw.Connection(store.path)) as connection:
        damaged, reads = Counting(connection, versions), [StreamRead("a:1", 2)]
        with pytest.raises(Damaged, match=told):
            sqlite_pages.read_streams(damaged, lambda _: ("e", 1), reads, 9, ALL)


@pytest.mark.parametrize("streams", [["new:1", "new:2"], ["a:1", "new:1"], ["a:1"]])
async def test_a_page_of_streams_takes_one_statement(
    store: SqliteStore, streams: list[str]
) -> None:
    """Each hands the interpreter's lock over and back, which a busy loop makes dear."""
    await append(store, request("a:1", 0, 1, 2))
    with closing(apsw.Connection(store.path)) as connection:
        counting, reads = Counting(connection), [StreamRead(stream) for stream in streams]
        pages = sqlite_pages.read_streams(counting, lambda _: ("e", 1), reads, 9, ALL)

    assert counting.statements == 1
    assert [len(page.events) for page in pages] == [2 * (name == "a:1") for name in streams]


async def test_a_damaged_last_event_refuses_to_open(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    await TestSqliteStore().damage(store, 1, "payload")
    await store.close()
    with pytest.raises(Damaged, match="position 1 cannot be used"):
        await store.open(Ports())


# -- the end of it --------------------------------------------------------------------------


async def test_closing_leaves_one_file_and_the_lock(store: SqliteStore) -> None:
    await append(store, request("a:1", 0, 1))
    await store.close()

    names = sorted(path.name for path in Path(store.path).parent.iterdir())
    assert names == ["log.db", "log.db.lock"]


async def test_a_page_of_large_events_is_cut_before_they_are_read(store: SqliteStore) -> None:
    large = EventData(ADDED, b'"' + b"x" * 1_000_000 + b'"')
    for number in range(30):
        await append(store, AppendRequest([Write("a:1", number, [large])]))
    before = apsw.memory_high_water(True)
    page = await store.read_feed(0, events_max=1_000, bytes_max=2_000_010)

    assert len(page) == 2
    assert apsw.memory_high_water(True) - before < 20_000_000
    assert len(await store.read_feed(0, events_max=1_000, bytes_max=ALL)) == 30


async def test_batches_are_recorded_as_one_transaction_each(store: SqliteStore) -> None:
    seen: list[str] = []
    store._connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda call: seen.append(call["sql"]))
    await store.append(Batch([request(f"a:{n}", 0, n) for n in range(40)], 1))
    store._connection.trace_v2(0, None)

    words = [sql.split()[0] for sql in seen if not sql.startswith("--")]
    assert words.count("BEGIN") == words.count("COMMIT") == 1
    assert words.index("BEGIN") < words.index("INSERT") < words.index("COMMIT")


async def test_what_cannot_be_bound_costs_its_own_batch(store: SqliteStore) -> None:
    """Whatever prevents a batch before its commit: nothing of it was written, and others are."""
    far = EventData(msgspec.structs.replace(ADDED, name="far", version=2**63), b"{}")
    with pytest.raises(StoreFailed, match="OverflowError") as failed:
        await store.append(Batch([AppendRequest([Write("b:1", 0, [far])])], 1))

    assert (failed.value.written, failed.value.stopped) == (False, False)
    assert await append(store, request("a:1", 0, 7)) == [Appended(1, (1,))]
    assert [event.name for event in await feed(store)] == [ADDED.name]
