"""What others do to a SQLite log from outside, and what goes wrong around a store, is contained."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from engine import Damaged, StoreFailed, StoreRefused
from engine.model.stored import ENCODING_JSON, EventType, checksum_of
from engine.runtime.ports import Ports
from engine.stores.contract.log import Appended, AppendRequest, StreamConflict, StreamRead, Write
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import ALL, append, event, feed, numbers, request, stream


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(str(tmp_path / "log.db"))
    await made.open(Ports())
    await append(made, request("a:1", 0, 1), request("b:1", 0, 2))
    yield made
    await made.close()


def outside(store: SqliteStore, *statements: str) -> None:
    """Run statements as somebody with a SQLite shell could."""
    with closing(apsw.Connection(store.path)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


# -- damage that takes an event out of sight ------------------------------------------------


@pytest.mark.parametrize("position", [1, 2])
async def test_an_event_of_no_stream_is_damaged_and_not_the_end(
    store: SqliteStore, position: int
) -> None:
    outside(
        store,
        "DROP TRIGGER events_never_change",
        f"UPDATE events SET stream = 99 WHERE position = {position}",
    )

    with pytest.raises(Damaged, match=f"position {position} .* no name"):
        await feed(store)


async def test_a_last_event_of_no_stream_refuses_to_open(store: SqliteStore) -> None:
    outside(store, "DROP TRIGGER streams_never_go", "DELETE FROM streams WHERE name = 'b:1'")
    await store.close()

    with pytest.raises(Damaged, match="position 2 .* no name"):
        await store.open(Ports())


async def test_a_stream_whose_name_is_no_text_is_damaged(store: SqliteStore) -> None:
    await append(store, request("c:1", 0, 3))
    name = "UPDATE streams SET name = CAST(x'62ff31' AS TEXT) WHERE name = 'b:1'"
    outside(store, "DROP TRIGGER streams_never_change", name)

    with pytest.raises(Damaged, match="position 2 .* no text"):
        await feed(store)
    assert numbers(await store.read_feed(2, events_max=9, bytes_max=ALL)) == [3]
    assert numbers(await stream(store, "a:1")) == [1]


async def test_an_event_type_whose_name_is_no_text_refuses_to_open(store: SqliteStore) -> None:
    await store.close()
    name = "UPDATE event_types SET name = CAST(x'62ff31' AS TEXT)"
    outside(store, "DROP TRIGGER types_never_change", name)

    with pytest.raises(StoreRefused, match="cannot be opened"):
        await store.open(Ports())


async def test_an_unknown_event_type_is_damaged(store: SqliteStore) -> None:
    outside(store, "DROP TRIGGER types_never_go", "DELETE FROM event_types")

    fresh = SqliteStore(store.path)
    await store.close()
    with pytest.raises(Damaged, match="unknown event type number 1"):
        await fresh.open(Ports())


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("version", "1.5", "float"),
        ("recorded", "'yesterday'", "str"),
        ("checksum", "NULL", "NoneType"),
        ("payload", "1.5", "float"),
        ("metadata", "7", "int"),
    ],
)
async def test_a_value_of_another_class_than_its_column_is_damaged(
    store: SqliteStore, column: str, value: str, found: str
) -> None:
    """A flipped bit in the header of a record makes a number of a blob: no constraint sees it."""
    sql = "UPDATE sqlite_schema SET sql = replace(replace(sql, ') STRICT', ')'), ' NOT NULL', '')"
    outside(store, "PRAGMA writable_schema = ON", f"{sql} WHERE name = 'events'")
    outside(
        store,
        "DROP TRIGGER events_never_change",
        f"UPDATE events SET {column} = {value} WHERE position = 2",
    )

    with pytest.raises(Damaged, match=f"position 2 .*its {column} is {found}"):
        await feed(store)
    assert numbers(await stream(store, "a:1")) == [1]


# -- a second writer that keeps to the rules ------------------------------------------------


def moved_by_a_stranger(store: SqliteStore, position: int) -> None:
    checksum = checksum_of("a:1", 2, "moved", 1, 5, ENCODING_JSON, b'{"number":8}', b"")
    outside(
        store,
        "INSERT INTO event_types VALUES (7, 'moved', 1, 'beef')",
        f"INSERT INTO events VALUES ({position}, 1, 2, 7, 5, 0, CAST('{{\"number\":8}}' AS BLOB), "
        f"x'', {checksum})",
    )


async def test_a_strangers_event_of_a_new_type_is_read(store: SqliteStore) -> None:
    moved_by_a_stranger(store, 3)

    assert [e.name for e in await feed(store)] == ["added", "added", "moved"]
    pages = await store.read_streams([StreamRead("a:1")], events_max=9, bytes_max=ALL)
    assert numbers(pages[0].events) == [1, 8]


async def test_new_types_get_numbers_behind_a_strangers(store: SqliteStore) -> None:
    moved_by_a_stranger(store, 3)
    kinds = [EventType("moved", 1, "beef"), EventType("x", 1, "1"), EventType("y", 1, "2")]
    for number, kind in enumerate(kinds):
        write = Write(f"c:{number}", 0, [event(number, kind)])
        assert await append(store, AppendRequest([write])) == [Appended(number + 4, (1,))]

    assert [e.name for e in await feed(store)][2:] == ["moved", "moved", "x", "y"]


async def test_a_strangers_stream_is_taken_over(store: SqliteStore) -> None:
    outside(store, "INSERT INTO streams VALUES (3, 'c:1'), (9, 'd:1')")

    requests = [request("e:1", 0, 5), request("d:1", 0, 4), request("c:1", 0, 3)]
    assert await append(store, *requests) == [Appended(n, (1,)) for n in (3, 4, 5)]
    assert numbers(await stream(store, "d:1")) == [4]


async def test_a_stranger_that_writes_again_and_again_costs_no_other_stream_anything(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between a violation and the second try."""
    versions = iter(range(2, 9))

    def append_outside() -> None:
        version = next(versions)
        outside(
            store,
            "INSERT INTO events SELECT (SELECT max(position) + 1 FROM events), stream, "
            f"{version}, type, recorded, encoding, payload, metadata, checksum FROM events "
            "WHERE position = 1",
        )

    real = store._roll_back

    def roll_back(connection: Any) -> None:
        real(connection)
        append_outside()

    monkeypatch.setattr(store, "_roll_back", roll_back)
    append_outside()

    outcomes = await append(store, request("b:1", 1, 2), request("c:1", 0, 3))

    assert outcomes == [Appended(5, (2,)), Appended(6, (1,))]
    append_outside()
    outcomes = await append(store, request("b:1", 2, 4), request("a:1", 1, 9))

    assert outcomes == [Appended(8, (3,)), StreamConflict("a:1", 1, 4)]


# -- failures beside the transaction --------------------------------------------------------


async def test_a_store_that_cannot_see_the_truth_again_stops(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a violation the heads are read again; where that fails, nothing more is planned."""
    outside(
        store,
        "INSERT INTO events SELECT 3, stream, 2, type, recorded, encoding, payload, metadata, "
        "checksum FROM events WHERE position = 1",
    )

    def broken(connection: Any) -> None:
        raise apsw.IOError("the disk is gone")

    monkeypatch.setattr(store._known, "refresh", broken)
    with pytest.raises(StoreFailed) as failed:
        await append(store, request("b:1", 1, 9))
    monkeypatch.undo()
    with pytest.raises(StoreFailed, match="open it again"):
        await append(store, request("b:1", 1, 9))

    assert failed.value.written is None
    with closing(apsw.Connection(store.path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(3,)]


class Failing:
    """A connection whose close fails after it is closed."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        self._connection.close()
        raise apsw.IOError("the disk is gone")


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("foldline")]


@pytest.mark.parametrize("which", ["_connection", "_reading"])
async def test_a_close_that_fails_leaves_no_thread_and_no_lock(
    store: SqliteStore, which: str
) -> None:
    setattr(store, which, Failing(getattr(store, which)))
    with pytest.raises(StoreFailed, match="was not closed"):
        await store.close()

    assert threads() == []
    await store.open(Ports())


async def test_a_close_that_is_cancelled_ends_all_the_same(store: SqliteStore) -> None:
    closing_ = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing_.cancel()
    await asyncio.wait([closing_])

    assert threads() == []
    assert store._connection is store._reading is None
    await store.open(Ports())


async def test_a_closed_store_does_nothing_and_opens_again(store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(StoreFailed, match="closed") as failed:
        await append(store, request("c:1", 0, 3))
    with pytest.raises(StoreFailed, match="closed"):
        await feed(store)
    assert failed.value.written is False
    await store.open(Ports())

    assert await append(store, request("c:1", 0, 3)) == [Appended(3, (1,))]


# -- how many statements --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "most"), [(1, 1), (63, 1), (64, 1), (255, 2), (511, 2), (1_100, 4)]
)
async def test_a_batch_takes_few_statements(store: SqliteStore, count: int, most: int) -> None:
    """Each one may hand the interpreter's lock over, up to 5 ms beside a busy event loop."""
    seen: list[str] = []
    store._connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda call: seen.append(call["sql"]))
    await append(store, request("c:1", 0, *range(count)))
    store._connection.trace_v2(0, None)

    inserts = [sql for sql in seen if sql.startswith("INSERT INTO events")]
    assert 1 <= len(inserts) <= most
    assert numbers(await stream(store, "c:1")) == list(range(count))


@pytest.mark.parametrize("count", [*range(504, 601, 8), 4_096])
async def test_a_batch_around_the_largest_statement_is_whole(
    store: SqliteStore, count: int
) -> None:
    await append(store, request("c:1", 0, *range(count)))

    assert numbers(await stream(store, "c:1")) == list(range(count))
