"""Somebody with an SQLite shell: what a log leans on beside its events is kept from a slip too.

An event shows by its checksum that it was changed. A stream that lost its name would show nothing:
its aggregate would begin anew, and what was acknowledged would be gone.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Engine, StoreRefused
from engine.runtime.ports import Ports
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.log.damage import check_names
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import append, feed, numbers, request
from tests.support.counters import Add, Counter

SECONDS = 20
SHELL = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    "for statement in sys.argv[2:]: c.execute(statement)"
)
SLIPS = {
    "delete-all": "DELETE FROM streams",
    "delete-one": "DELETE FROM streams WHERE name = 'counter:a'",
    "rename": "UPDATE streams SET name = 'counter:z' WHERE name = 'counter:a'",
    "renumber": "UPDATE streams SET number = number + 10",
    "forget-types": "DELETE FROM event_types",
    "rename-type": "UPDATE event_types SET name = 'other'",
    "forget-the-log": "DELETE FROM about",
    "another-log": "UPDATE about SET log_id = 'other'",
}


def shell(path: Path, *statements: str) -> str:
    """Run statements in another process; give what it printed of an error."""
    ran = subprocess.run(
        [sys.executable, "-c", SHELL, str(path), *statements],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ran.stderr


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("slip", SLIPS)
async def test_a_slip_in_a_shell_takes_nothing_from_under_the_events(
    tmp_path: Path, slip: str, *, running: bool
) -> None:
    path = tmp_path / "log.db"
    url = f"sqlite:{path}"
    async with Engine([Counter], store=url) as engine:
        first = await engine.execute(Add("a", 1), key="k")
        await engine.execute(Add("b", 2))
        if running:
            assert "sqlite3.IntegrityError" in shell(path, SLIPS[slip])
    if not running:
        assert "sqlite3.IntegrityError" in shell(path, SLIPS[slip])

    async with Engine([Counter], store=url) as engine:
        assert await engine.execute(Add("a", 1), key="k") == first
        assert (await engine.execute(Add("b", 3))).version == 2


def drop_triggers(path: Path) -> None:
    """Make the file as an older release did, or somebody who meant it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name NOT LIKE 'events%'"
        for (name,) in connection.execute(sql).fetchall():
            connection.execute(f"DROP TRIGGER {name}")


async def filled(path: Path) -> SqliteStore:
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, *(request(f"a:{number}", 0, number) for number in range(1, 6)))
    await store.close()
    return store


async def test_a_log_of_an_older_release_is_guarded_from_its_next_start_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = await filled(path)
    drop_triggers(path)
    assert shell(path, "UPDATE streams SET name = name") == ""

    await store.open(Ports())
    assert "a stream keeps its name" in shell(path, "UPDATE streams SET name = name")
    await store.close()


@pytest.mark.parametrize("gone", ["1", "3", "5", "3 AND 5"])
async def test_a_stream_that_has_lost_its_name_refuses_the_log(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "log.db"
    store = await filled(path)
    await append_last(store)
    drop_triggers(path)
    low, _, high = gone.partition(" AND ")
    assert shell(path, f"DELETE FROM streams WHERE number BETWEEN {low} AND {high or low}") == ""
    before = path.read_bytes()

    for _ in range(2):
        with pytest.raises(StoreRefused, match=r"stream number \d, .* has no name"):
            await store.open(Ports())
    assert path.read_bytes() == before, "what is refused is not changed"


async def append_last(store: SqliteStore) -> None:
    """Let the last event be of a stream that keeps its name: that one is read at each start."""
    await store.open(Ports())
    await append(store, request("a:2", 1, 9))
    await store.close()


async def test_a_stream_without_events_that_a_stranger_has_numbered_is_let_be(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.db"
    store = await filled(path)
    assert shell(path, "INSERT INTO streams VALUES (40, 'b:1')") == ""

    await store.open(Ports())
    await append(store, request("c:1", 0, 7))
    assert numbers(await feed(store)) == [1, 2, 3, 4, 5, 7]
    await store.close()


async def test_names_of_a_large_log_are_counted_no_further_than_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stores.sqlite.log.damage.COUNTED_MAX", 3)
    path = tmp_path / "log.db"
    await filled(path)
    drop_triggers(path)
    shell(path, "DELETE FROM streams WHERE number = 4")
    with closing(apsw.Connection(str(path))) as connection:
        check_names(connection, str(path))  # one of many, in a log that is too long to look through
        run(connection, "DELETE FROM streams WHERE number = 5")
        with pytest.raises(StoreRefused, match="stream number 5"):
            check_names(connection, str(path))
