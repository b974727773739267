"""The SQLite log against forks, strangers, failing disks and damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import pytest_asyncio

from engine import Damaged, StoreFailed
from engine.model.stored import EventData
from engine.runtime.ports import Ports
from engine.stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    StreamConflict,
    StreamRead,
    Write,
)
from engine.stores.contract.tags import TagsChanged, Unchanged
from engine.stores.sqlite.log import pages as sqlite_pages
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import ADDED, ALL, append, feed, numbers, request
from tests.stores.sqlite_conformance import SqliteConformance
from tests.support.faults import FaultyVfs, VfsFiles


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports())
    yield made
    await made.close()


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


def about(tag: str, stream: str, expected: int, after: int | None = None) -> AppendRequest:
    """Append an event with a tag, if none came with it behind a position."""
    data = EventData(ADDED, b'{"amount":1}', b"", 0, (tag,))
    extras = [] if after is None else [Unchanged((tag,), (ADDED.name,), after, stream)]
    return AppendRequest([Write(stream, expected, [data])], extras)


async def test_an_event_that_came_with_the_last_batch_counts_for_a_condition(
    store: SqliteStore,
) -> None:
    await append(store, about("a:1", "s:1", 0), about("b:1", "s:2", 0))
    await append(store, about("a:1", "s:1", 1))
    outcomes = await append(store, about("a:1", "s:3", 0, 2), about("b:1", "s:4", 0, 2))

    assert outcomes == [TagsChanged(0), Appended(4, (1,))]


async def test_a_strangers_event_is_looked_for_by_its_tags(store: SqliteStore) -> None:
    """The writer knows of no event behind the second; the schema says that there is one."""
    await append(store, about("a:1", "s:1", 0), request("a:1", 0, 1))
    await append_as_a_stranger(store, 3, 2)
    with closing(apsw.Connection(store.path)) as outside:
        outside.execute("INSERT INTO tags SELECT 'a:1', 3, type FROM events WHERE position = 3")

    assert await append(store, about("a:1", "s:2", 0, 2)) == [TagsChanged(0)]
    assert await append(store, about("a:1", "s:2", 0, 3)) == [Appended(4, (1,))]


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
    await SqliteConformance().damage(store, 1, "payload")
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
