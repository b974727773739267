"""A log read from outside: beside its engine, after a kill, and where it is no log at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from engine import Damaged, StoreFailed, StoreRefused
from engine.model.stored import EventType
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Head, StreamRead, Write
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import ALL, append, event, feed, numbers, request

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports())
    for number in range(5):
        await append(made, request("a:1", number, number), request(f"b:{number}", 0, 10 + number))
    yield made
    await made.close()


def outside(path: str, *statements: str) -> None:
    """Run statements as somebody with a SQLite shell could."""
    with closing(apsw.Connection(path)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


def everything(reader: SqliteLogReader) -> list[int]:
    """Give the positions of the whole feed."""
    positions: list[int] = []
    while page := reader.read_feed(len(positions), events_max=3, bytes_max=ALL):
        positions += [stored.position for stored in page]
    return positions


async def test_it_reads_what_the_store_reads_while_the_store_is_open(store: SqliteStore) -> None:
    with SqliteLogReader(store.path) as reader:
        assert reader.log_id == store.log_id
        assert reader.head() == await store.head()
        assert reader.event_types() == tuple(await store.event_types())
        assert list(reader.read_feed(0, events_max=99, bytes_max=ALL)) == list(await feed(store))
        reads = [StreamRead("a:1", 2), StreamRead("none:1"), StreamRead("b:3")]
        assert reader.read_streams(reads, events_max=2, bytes_max=ALL) == list(
            await store.read_streams(reads, events_max=2, bytes_max=ALL)
        )
        assert [reader.version_of(s) for s in ("a:1", "b:3", "none:1")] == [5, 1, 0]


async def test_it_sees_what_is_committed_later_and_new_types_too(store: SqliteStore) -> None:
    with SqliteLogReader(store.path) as reader:
        before = reader.change_count()
        assert reader.change_count() == before
        assert everything(reader) == [*range(1, 11)]
        assert reader.change_count() == before
        kind = EventType("moved", 1, "beef")
        await append(store, AppendRequest([Write("c:1", 0, [event(7, kind)])]))

        assert reader.change_count() != before
        assert [stored.name for stored in reader.read_feed(10, events_max=9, bytes_max=ALL)] == [
            "moved"
        ]
        assert kind in reader.event_types()


async def test_it_takes_no_lock_and_survives_the_stores_restart(store: SqliteStore) -> None:
    with SqliteLogReader(store.path) as reader:
        await store.close()
        assert everything(reader) == [*range(1, 11)]
        await store.open(Ports())
        await append(store, request("a:1", 5, 5))

        assert everything(reader) == [*range(1, 12)]


async def test_a_page_is_a_whole_read_transaction(store: SqliteStore) -> None:
    """A reader at rest never keeps the write-ahead log from being folded in."""
    with SqliteLogReader(store.path) as reader:
        reader.read_feed(0, events_max=3, bytes_max=ALL)
        reader.read_streams([StreamRead("a:1")], events_max=3, bytes_max=ALL)
        reader.head()
        reader.change_count()
        with closing(apsw.Connection(store.path)) as connection:
            found = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    assert found == [(0, 0, 0)]


async def test_it_cannot_write(store: SqliteStore) -> None:
    with SqliteLogReader(store.path) as reader, pytest.raises(apsw.ReadOnlyError):
        reader._connection.execute("DELETE FROM snapshots").fetchall()


# -- after the engine -----------------------------------------------------------------------

KILLED = """
import asyncio, os, signal, sys
from engine import Engine
from tests.support.counters import Add, Counter

async def main():
    async with Engine([Counter], store="sqlite:" + sys.argv[1]) as engine:
        for number in range(40):
            await engine.execute(Add(f"c-{number}", number))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: blake2b(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.endswith("-shm")  # an index over the write-ahead log, made by any reader
    }


@pytest.mark.parametrize("without_index", [False, True])
def test_a_killed_engines_log_is_read_whole_and_stays_as_it_is(
    tmp_path: Path, without_index: bool
) -> None:
    path = tmp_path / "log.db"
    died = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "log.db-wal").stat().st_size > 0
    if without_index:
        (tmp_path / "log.db-shm").unlink()
    before = digests(tmp_path)
    with SqliteLogReader(str(path)) as reader:
        assert everything(reader) == [*range(1, 41)]

    assert digests(tmp_path) == before


async def test_a_closed_log_is_read_and_holds_nothing_new(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.close()
    before = digests(tmp_path)
    with SqliteLogReader(store.path) as reader:
        assert everything(reader) == [*range(1, 11)]
    after = digests(tmp_path)

    assert (tmp_path / "log.db-wal").stat().st_size == 0
    assert {name: digest for name, digest in after.items() if name in before} == before
    assert set(after) - set(before) == {"log.db-wal"}


# -- what is no log -------------------------------------------------------------------------


def test_where_no_file_is_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="no log .*none.db: no such file"):
        SqliteLogReader(str(tmp_path / "none.db")).open()
    with pytest.raises(StoreRefused, match="no log .*none.db: no such file"):
        SqliteLogReader(str(tmp_path / "no" / "none.db")).open()

    assert list(tmp_path.iterdir()) == []


async def test_what_is_no_log_of_this_release_is_refused(
    store: SqliteStore, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("no database\n" * 99)
    (tmp_path / "empty").touch(0o600)
    outside(str(tmp_path / "other"), "CREATE TABLE x(y)")
    (tmp_path / "link").symlink_to(store.path)
    for name, message in (
        ("text", "no SQLite database"),
        ("empty", "is empty: no engine has made a log"),
        ("other", "a database of something else"),
        ("link", "not a plain file"),
        ("text/log.db", "Not a directory"),
    ):
        with pytest.raises(StoreRefused, match=message):
            SqliteLogReader(str(tmp_path / name)).open()

    outside(store.path, "PRAGMA user_version = 99")
    with pytest.raises(StoreRefused, match="schema version 99, and this release knows up to 5"):
        SqliteLogReader(store.path).open()


async def test_a_log_of_an_older_release_is_read_as_without_claims(store: SqliteStore) -> None:
    await store.close()
    outside(
        store.path,
        "DROP TABLE tags",
        "DROP TABLE tag_forms",
        "DROP TABLE timers",
        "DROP TABLE claims",
        "PRAGMA user_version = 1",
    )

    with SqliteLogReader(store.path) as reader:
        assert everything(reader) == list(range(1, 11))
        assert reader.read_claims(claims_max=9) == []
        assert reader.read_timers(timers_max=9) == []


class ReadOnlyFolder(SystemFiles):
    """Answers as SQLite does where the folder of a closed log cannot be written to."""

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        raise apsw.ReadOnlyError("attempt to write a readonly database")


async def test_a_folder_that_cannot_be_written_to_is_told_with_the_mend(store: SqliteStore) -> None:
    with pytest.raises(StoreRefused, match="log.db cannot be opened: .* copy the log elsewhere"):
        SqliteLogReader(store.path, ReadOnlyFolder()).open()


async def test_an_empty_log_has_nothing_and_says_so(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    with SqliteLogReader(store.path) as reader:
        assert reader.head() == Head()
        assert reader.event_types() == ()
        assert everything(reader) == []
    await store.close()


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    reader = SqliteLogReader(str(tmp_path / "log.db"))
    reader.close()
    with pytest.raises(StoreFailed, match="is closed"):
        reader.head()


# -- damage ---------------------------------------------------------------------------------


async def test_damage_is_met_after_what_stands_before_it(store: SqliteStore) -> None:
    outside(
        store.path,
        "DROP TRIGGER events_never_change",
        "UPDATE events SET recorded = recorded + 1 WHERE position = 7",
    )
    with SqliteLogReader(store.path) as reader:
        before = reader.read_feed(0, events_max=99, bytes_max=ALL)
        assert [stored.position for stored in before] == [*range(1, len(before) + 1)]
        assert 1 <= len(before) <= 6
        with pytest.raises(Damaged, match="position 7 .*checksum"):
            everything(reader)
        with pytest.raises(Damaged, match="position 7"):
            reader.read_feed(6, events_max=99, bytes_max=ALL)
        [page] = reader.read_streams([StreamRead("a:1")], events_max=99, bytes_max=ALL)
        assert (page.more, numbers(page.events)) == (True, [*range(len(page.events))])
        [after] = reader.read_streams([StreamRead("a:1", 4)], events_max=99, bytes_max=ALL)
        assert numbers(after.events) == [4]


async def test_a_hole_is_damage(store: SqliteStore) -> None:
    outside(store.path, "DROP TRIGGER events_never_go", "DELETE FROM events WHERE position = 3")
    with (
        SqliteLogReader(store.path) as reader,
        pytest.raises(Damaged, match="position 3 .*missing"),
    ):
        everything(reader)


async def test_a_truncated_file_is_refused_or_fails_and_never_ends_early(
    store: SqliteStore, tmp_path: Path
) -> None:
    for number in range(300):
        await append(store, request("long:1", number, number))
    await store.close()
    size = Path(store.path).stat().st_size
    whole = Path(store.path).read_bytes()
    for kept in (100, 8_192, size // 2, size - 8_192, size - 1):
        Path(store.path).write_bytes(whole[:kept])
        with (
            pytest.raises((StoreRefused, StoreFailed, Damaged)),
            SqliteLogReader(store.path) as reader,
        ):
            everything(reader)
