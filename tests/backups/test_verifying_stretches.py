"""A log is verified by stretches: whatever lies across the end of one is found as inside of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.outside import stretches
from engine.outside.verifying import Verified, verify_log
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.stores.urls import open_backend
from tests.backups.stretched import EVENTS, STREAMS, changed, made, metadata_at, path

__all__ = ["made", "path"]


class Lane:
    def progress(self, position: int, end: int) -> None: ...

    def rest(self) -> None: ...


def verified(path: Path) -> tuple[Verified, list[Finding]]:
    outside, found = open_backend(f"sqlite:{path}").outside(Ports()), list[Finding]()
    source, structure = outside.copy_source(), outside.structure()
    done = verify_log(source, structure, found.append, Lane(), window=lambda _: 1_000, now=0)
    return done, found


def _nothing_proved(*_: Any, **__: Any) -> None: ...


LATER = tuple(range(16, EVENTS + 1, 3))
DAMAGE: dict[str, tuple[str, tuple[int, ...], set[tuple[str, int | None, str | None]]]] = {
    "nothing": ("SELECT 1", (), set()),
    "a version that is skipped": (
        "UPDATE events SET version = version + 100 WHERE position >= 16 AND stream = 1",
        LATER,
        {("version", 16, "a:1")},
    ),
    "a time that goes back": (
        "UPDATE events SET recorded = recorded - 1 WHERE position = 16",
        (16,),
        {("time", 16, "a:1")},
    ),
    "a key that was run twice": (
        metadata_at(16, '{"key":"k-3","fingerprint":3}'),
        (16,),
        {("key", 16, "a:1")},
    ),
    "one that is escaped": (
        metadata_at(16, '{"key":"k-\\u0033","fingerprint":3}'),
        (16,),
        {("key", 16, "a:1")},
    ),
    "one that does not stand first": (
        metadata_at(16, '{"fingerprint":3,"key":"k-3"}'),
        (16,),
        {("key", 16, "a:1")},
    ),
    "the key of another stream": (metadata_at(16, '{"key":"k-4","fingerprint":3}'), (16,), set()),
    "metadata that is no JSON": (metadata_at(16, '{"key":"k'), (16,), {("event", 16, "a:1")}),
    "a claim that its table has not": (
        metadata_at(16, '{"key":"k-15","claims":[["name","x"]]}'),
        (16,),
        {("claim", 16, "name")},
    ),
    "a timer that its table has not": (
        metadata_at(16, '{"key":"k-15","timers":[["t",9000000000000000,"c",{}]]}'),
        (16,),
        {("timer", 16, "t")},
    ),
    "bytes that were changed": (
        "UPDATE events SET payload = x'7b7d' WHERE position = 16",
        (),
        {("event", 16, None)},
    ),
    "a time in another place": (
        "UPDATE events SET recorded = recorded + 1 WHERE position = 16",
        (),
        {("event", 16, None)},
    ),
    "an unknown type": (
        "UPDATE events SET type = 9 WHERE position = 16",
        (),
        {("event", 16, None)},
    ),
    "an event that is gone": (
        "DELETE FROM events WHERE position = 16",
        (),
        {("missing", 16, None)},
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_wherever_a_stretch_ends(
    path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement, renewed, expected = DAMAGE[damage]
    changed(path, statement, *renewed)
    proved = SqliteLogReader.proved
    for stretch in (1, 4, 15, 1_000):
        monkeypatch.setattr(stretches, "STRETCH", stretch)
        for read in (proved, _nothing_proved):
            monkeypatch.setattr(SqliteLogReader, "proved", read)

            done, found = verified(path)

            assert {(one.wrong, one.position, one.name) for one in found} == expected
            assert len(found) == len(expected), "and each once"
            lost = {"bytes", "time in", "unknown", "gone"}
            assert done.events == EVENTS - any(word in damage for word in lost)
            assert done.streams == len(STREAMS)


def test_a_sound_page_is_proved_and_its_events_are_not_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_feed(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is odd")

    monkeypatch.setattr(SqliteLogReader, "read_feed", read_feed)
    assert verified(path) == (Verified(EVENTS, EVENTS, len(STREAMS)), [])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET version = 6.5 WHERE position = 16",
        "UPDATE events SET recorded = recorded + 0.5 WHERE position = 16",
        "UPDATE events SET encoding = NULL WHERE position = 16",
        "UPDATE events SET encoding = 7 WHERE position = 16",
        "UPDATE events SET position = 99 WHERE position = 16",
        "UPDATE events SET stream = 9 WHERE position = 16",
    ],
)
def test_what_is_no_value_of_its_column_is_never_proved(path: Path, statement: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:  # as a flipped bit, which asks nobody
        (schema,) = run(connection, "SELECT sql FROM sqlite_schema WHERE name = 'events'")
        run(connection, "PRAGMA writable_schema = ON")
        plain = "replace(replace(sql, 'STRICT', ''), 'NOT NULL', '')"
        run(connection, f"UPDATE sqlite_schema SET sql = {plain} WHERE name = 'events'")
    changed(path, statement)
    with closing(apsw.Connection(str(path))) as connection:
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, "UPDATE sqlite_schema SET sql = ? WHERE name = 'events'", schema)
    with SqliteLogReader(str(path)) as log:
        whole = log.proved(0, events_max=15, bytes_max=1 << 20)
        assert whole is not None
        assert len(whole.streams) == 15
        assert log.proved(15, events_max=15, bytes_max=1 << 20) is None
        assert log.proved(EVENTS, events_max=15, bytes_max=1 << 20) is None, "the end of the log"


def test_a_stream_that_its_index_does_not_find_is_named(path: Path) -> None:
    """An index that lacks a row is as an engine makes it, but for its pages."""
    where = "name = 'events_by_stream'"
    with closing(apsw.Connection(str(path))) as connection:
        (index,) = run(connection, f"SELECT rowid, * FROM sqlite_schema WHERE {where}")
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, f"DELETE FROM sqlite_schema WHERE {where}")
    columns = "recorded, encoding, payload, metadata, checksum"
    row = f"SELECT 31, stream, 11, type, {columns} FROM events WHERE position = 28"
    changed(path, f"INSERT INTO events {row}")
    changed(path, "UPDATE events SET recorded = 3000 WHERE position = 31")
    changed(path, metadata_at(31, '{"key":"k-31"}'), 31)
    with closing(apsw.Connection(str(path))) as connection:
        run(connection, "PRAGMA writable_schema = ON")
        row = ", ".join("?" * len(index))
        columns = "rowid, type, name, tbl_name, rootpage, sql"
        run(connection, f"INSERT INTO sqlite_schema({columns}) VALUES ({row})", index)

    _, found = verified(path)

    named = [one.text for one in found if one.name == "a:1"]
    assert any("its index does not find version 11" in text for text in named), found
