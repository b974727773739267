"""A log that somebody gives does nothing: it is refused by name, or nothing of it acts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from engine import Damaged, StoreFailed, StoreRefused
from engine.model.stored import EventData
from engine.runtime.ports import Ports
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import ADDED, append, feed, numbers, request
from tests.support import warm

SECONDS = 60
FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT"


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    store = SqliteStore(str(tmp_path / "given.db"))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1), request("b:1", 0, 2))
    await store.close()
    yield store.path


def plant(path: str, *statements: str) -> None:
    with closing(apsw.Connection(path)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


async def opened(path: str) -> SqliteStore:
    store = SqliteStore(path)
    await store.open(Ports())
    return store


ACTING = {
    "a view without end for a table": (
        "ALTER TABLE about RENAME TO former",
        f"CREATE VIEW about(one, log_id, created) AS {FOREVER} 1, n, n FROM c",
    ),
    "a view for the events": (
        "DROP VIEW log",
        "ALTER TABLE events RENAME TO former",
        "CREATE VIEW events AS SELECT * FROM former",
    ),
    "another view of the log": ("DROP VIEW log", f"CREATE VIEW log AS {FOREVER} n FROM c"),
    "one more view": (f"CREATE VIEW more AS {FOREVER} n FROM c",),
    "a table that is not strict": (
        "DROP TABLE snapshots",
        "CREATE TABLE snapshots(stream, version, position, checksum, snapshot_version, state)",
    ),
    "a column more": ("ALTER TABLE about ADD COLUMN more TEXT",),
    "an index on the events": ("CREATE INDEX mine ON events(recorded)",),
    "an index that computes": ("CREATE INDEX mine ON streams(abs(number))",),
    "no index of versions": ("DROP INDEX events_by_stream",),
    "a full-text table": ("CREATE VIRTUAL TABLE words USING fts5(text)",),
    "a table that computes": ("CREATE TABLE mine(a, b AS (hex(zeroblob(a))))",),
    "a table that refers to ours": (
        "CREATE TABLE mine(a TEXT REFERENCES snapshots(stream) ON DELETE RESTRICT)",
    ),
    "two tables that are one": (
        "CREATE TABLE mine(a)",
        "PRAGMA writable_schema = ON",
        (
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
            "WHERE name = 'events') WHERE name = 'mine'"
        ),
    ),
    "a version before the first": ("PRAGMA user_version = -7",),
}


@pytest.mark.parametrize("what", ACTING)
async def test_a_schema_of_somebody_elses_is_refused_by_engine_and_reader(
    path: str, what: str
) -> None:
    plant(path, *ACTING[what])

    with pytest.raises(StoreRefused):
        await opened(path)
    with pytest.raises(StoreRefused), SqliteLogReader(path):
        pass


@pytest.mark.parametrize("command", ["log", "tail", "sql", "projections"])
def test_commands_refuse_it_in_one_line_without_escapes(path: str, command: str) -> None:
    plant(path, f'CREATE VIEW "\x1b]0;owned\x07" AS {FOREVER} n FROM c')
    words = {"sql": [path, "select 1"], "projections": ["list", path]}.get(command, [path])

    ran = warm.run(
        [sys.executable, "-m", "engine", command, *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert "another schema" in ran.stderr
    assert "\x1b" not in ran.stderr


TRIGGERS = {
    "swallows": "BEFORE INSERT ON events BEGIN SELECT RAISE(IGNORE); END",
    "never ends": "AFTER INSERT ON events BEGIN INSERT INTO snapshots "
    f"{FOREVER} n, 1, 1, 1, 1, x'' FROM c; END",
    "moves": "AFTER INSERT ON streams BEGIN UPDATE streams SET name = 'z:' || number; END",
    "takes snapshots away": "BEFORE INSERT ON snapshots BEGIN SELECT RAISE(IGNORE); END",
}


@pytest.mark.parametrize("what", TRIGGERS)
async def test_no_trigger_of_a_file_fires_as_the_engine_writes(path: str, what: str) -> None:
    plant(path, f"CREATE TRIGGER mine {TRIGGERS[what]}")

    store = await opened(path)
    outcomes = await append(store, request("a:1", 1, 3), request("c:1", 0, 4))
    await store.close()

    assert outcomes == [Appended(3, (2,)), Appended(4, (1,))]
    with SqliteLogReader(path) as reader:
        found = reader.read_feed(0, events_max=9, bytes_max=9_999)
    assert [(e.stream, e.version) for e in found] == [
        ("a:1", 1),
        ("b:1", 1),
        ("a:1", 2),
        ("c:1", 1),
    ]


async def test_a_log_without_its_triggers_is_guarded_all_the_same(path: str) -> None:
    plant(path, "DROP TRIGGER events_have_no_holes", "DROP TRIGGER events_never_go")
    store = await opened(path)

    with pytest.raises(apsw.ConstraintError, match="no holes"):
        store._connection.execute(
            "INSERT INTO events SELECT 9, stream, 9, type, recorded, encoding, payload, metadata, "
            "checksum FROM events WHERE position = 1"
        )
    with pytest.raises(apsw.ConstraintError, match="never deleted"):
        store._connection.execute("DELETE FROM events")
    await store.close()


async def test_what_is_swallowed_is_not_acknowledged(path: str) -> None:
    """Whatever way there may be past the triggers that are switched off."""
    store = await opened(path)
    store._connection.execute(
        "CREATE TEMP TRIGGER mine BEFORE INSERT ON main.events BEGIN SELECT RAISE(IGNORE); END"
    )

    with pytest.raises(StoreFailed, match="1 rows were to be inserted and 0") as failed:
        await append(store, request("a:1", 1, 3))
    assert failed.value.written is False
    assert numbers(await feed(store)) == [1, 2]
    await store.close()


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE notes(a TEXT PRIMARY KEY, b)", "ANALYZE", "CREATE TABLE n(a INTEGER)"],
)
async def test_a_plain_table_of_somebody_elses_is_left_alone(path: str, statement: str) -> None:
    plant(path, statement)

    store = await opened(path)
    assert await append(store, request("a:1", 1, 3)) == [Appended(3, (2,))]
    await store.close()
    with SqliteLogReader(path) as reader:
        assert reader.head().position == 3


def dropped_triggers(path: str) -> list[str]:
    """Give what a stranger must do first who changes what is written."""
    with closing(apsw.Connection(path)) as connection:
        sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        return [f"DROP TRIGGER {name}" for (name,) in connection.execute(sql)]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("event_types", "name", "5"),
        ("event_types", "version", "x'01'"),
        ("about", "log_id", "x'ff'"),
        ("events", "recorded", "1.5"),
        ("streams", "name", "number"),
    ],
)
async def test_values_of_other_classes_are_errors_of_the_engines_own(
    path: str, table: str, column: str, value: str
) -> None:
    """As a flipped bit, or who writes the file by hand, makes them under the same schema."""
    free, strict = "replace(sql, 'STRICT', '      ')", "replace(sql, ')       ', ') STRICT')"
    update = f"WHERE name = '{table}'"
    for change in (free, strict):
        plant(
            path, "PRAGMA writable_schema = ON", f"UPDATE sqlite_schema SET sql = {change} {update}"
        )
        if change is free:
            plant(path, *dropped_triggers(path), f"UPDATE {table} SET {column} = {value}")

    with pytest.raises((StoreRefused, Damaged)) as refused:
        await opened(path)
    assert "schema" not in str(refused.value), "otherwise this test shows nothing"
    with pytest.raises((StoreRefused, Damaged, StoreFailed)), SqliteLogReader(path) as reader:
        reader.head()
        reader.event_types()
        reader.read_feed(0, events_max=9, bytes_max=9_999)


async def test_a_log_with_events_that_has_lost_its_id_is_given_no_other(path: str) -> None:
    store = await opened(path)
    await append(store, AppendRequest([Write("c:1", 0, [EventData(ADDED, b"{}")])]))
    await store.close()
    plant(path, "DROP TRIGGER the_log_stays", "DELETE FROM about")

    for _ in range(2):
        with pytest.raises(StoreRefused, match="has lost the id of the log"):
            await opened(path)


@pytest.mark.parametrize("payload", [b'{"a":"\xff"}', b"[" * 100_000, b"{"])
@pytest.mark.parametrize("form", ["--json", "--payload"])
async def test_a_payload_that_cannot_be_shown_is_damaged_in_one_line(
    path: str, payload: bytes, form: str
) -> None:
    """Under our own schema, and with the right checksum."""
    store = await opened(path)
    await append(store, AppendRequest([Write("c:1", 0, [EventData(ADDED, payload)])]))
    await store.close()

    ran = warm.run(
        [sys.executable, "-m", "engine", "log", path, "--payload", form],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert ran.returncode == 1
    assert "position 3" in ran.stderr
    assert ran.stderr.count("\n") == 1
