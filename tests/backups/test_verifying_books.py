"""A flipped bit in what a file of views says of itself, and of its own tables, is told."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import apsw
import pytest

from engine import Engine, Retention
from engine.model.aggregate import definitions_of
from engine.outside.verifying_code import Code, verify_code
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.connection import run
from engine.stores.urls import open_backend
from tests.outside.copied import Board, Counts, Pin, Pinned

_SCHEMA = "UPDATE sqlite_schema SET sql = replace(sql, 'DEFAULT 0', 'DEFAULT 4') WHERE name = "
FLIPS = {
    "who makes the tables": ("builds", "UPDATE builds SET own = own + 4"),
    "that of a build of none": ("builds", "UPDATE builds SET own = 1, tables = '[]'"),
    "the mark": ("views_meta", "UPDATE views_meta SET application_id = application_id + 128"),
    "a default": ("builds", f"{_SCHEMA}'builds'"),
    "an index": ("builds", "DELETE FROM sqlite_schema WHERE name = 'builds_one_is_built'"),
}


async def test_a_page_that_sqlite_finds_malformed_is_named(tmp_path: Path) -> None:
    """An index that lacks a row is as an engine makes it, but for its pages."""
    path, views = tmp_path / "log.db", str(tmp_path / "log.views.db")
    async with Engine([Board], projections=[Counts], store=path):
        pass
    where = "name = 'builds_one_serves'"
    with closing(apsw.Connection(views)) as connection:
        (index,) = run(connection, f"SELECT rowid, * FROM sqlite_schema WHERE {where}")
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, f"DELETE FROM sqlite_schema WHERE {where}")
    with closing(apsw.Connection(views)) as connection:
        run(connection, "UPDATE builds SET projection = projection || '2'")
        run(connection, "PRAGMA writable_schema = ON")
        row = ", ".join("?" * len(index))
        run(
            connection,
            f"INSERT INTO sqlite_schema(rowid, type, name, tbl_name, rootpage, sql) VALUES ({row})",
            index,
        )

    found: list[Finding] = []
    open_backend(f"sqlite:{path}").outside(Ports()).structure().whole(found.append, lambda: None)

    malformed = [each.text for each in found if "malformed: row" in each.text]
    assert any("missing from index builds_one_serves" in text for text in malformed), found


@pytest.mark.parametrize("flip", FLIPS)
async def test_what_views_say_of_themselves_is_compared(flip: str, tmp_path: Path) -> None:
    path, (table, statement) = tmp_path / "log.db", FLIPS[flip]
    async with Engine([Board], projections=[Counts], store=path):
        pass
    outside = open_backend(f"sqlite:{path}").outside(Ports())
    found: list[Finding] = []
    outside.structure().whole(found.append, lambda: None)
    assert found == []

    with closing(apsw.Connection(str(tmp_path / "log.views.db"))) as connection:
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, statement)
    outside.structure().whole(found.append, lambda: None)

    texts = [finding.text for finding in found]
    said = {f"the table '{table}' of", "does not say who makes its tables"}
    assert [text for text in texts if any(words in text for words in said)], texts


async def test_the_code_says_who_makes_the_tables_of_a_build(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with Engine([Board], projections=[Counts], store=path) as engine:
        code = Code(definitions_of(engine.aggregates), engine.declared, engine.registry)
    outside, found = open_backend(f"sqlite:{path}").outside(Ports()), list[Finding]()
    await verify_code(outside, code, found.append, lambda _: None, lambda: None)
    assert found == []

    with closing(apsw.Connection(str(tmp_path / "log.views.db"))) as connection:
        run(connection, "UPDATE builds SET own = 1")
    await verify_code(outside, code, found.append, lambda _: None, lambda: None)

    assert ["of another definition" in finding.text for finding in found] == [True]


@pytest.mark.parametrize("file", ["log.db", "log.archive.db"])
async def test_the_row_that_says_whose_a_file_is_has_its_number(file: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with Engine([Board], store=path) as engine:
        await engine.execute(Pin("b-1", "x"))
        await engine.execute(Pin("b-2", "y"))
        await engine.operations.retention([Retention(Board, [Pinned], archive_after=timedelta(0))])
    outside, found = open_backend(f"sqlite:{path}").outside(Ports()), list[Finding]()
    outside.structure().whole(found.append, lambda: None)
    assert found == []

    with closing(apsw.Connection(str(tmp_path / file))) as connection:
        run(connection, "PRAGMA ignore_check_constraints = ON")
        run(connection, "DROP TRIGGER IF EXISTS the_log_stays_itself")
        run(connection, "UPDATE about SET one = 3")
    outside.structure().whole(found.append, lambda: None)

    assert [f"the table 'about' of {tmp_path / file}" in one.text for one in found] == [True]


async def test_a_slice_that_is_no_number_is_told(tmp_path: Path) -> None:
    """A flipped bit made one of text, and `verify` ended with a traceback."""
    path, views = tmp_path / "log.db", str(tmp_path / "log.views.db")
    async with Engine([Board], projections=[Counts], store=path):
        pass
    with closing(apsw.Connection(views)) as connection:
        (schema,) = run(connection, "SELECT sql FROM sqlite_schema WHERE name = 'checkpoints'")
        run(connection, "PRAGMA writable_schema = ON")
        plain = "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT, ', '')"
        run(connection, f"{plain} WHERE name = 'checkpoints'")
    with closing(apsw.Connection(views)) as connection:
        row = "projection, build, 'x', position, checksum"
        run(connection, f"INSERT INTO checkpoints SELECT {row} FROM checkpoints")
        run(connection, "PRAGMA writable_schema = ON")
        run(connection, "UPDATE sqlite_schema SET sql = ? WHERE name = 'checkpoints'", schema)

    found: list[Finding] = []
    open_backend(f"sqlite:{path}").outside(Ports()).structure().whole(found.append, lambda: None)

    assert "checkpoint" in {finding.wrong for finding in found}, found


async def test_a_number_of_a_run_of_the_archive_is_compared_with_the_others(tmp_path: Path) -> None:
    """A flipped bit in it went unseen: nothing else has that number."""
    path = tmp_path / "log.db"
    async with Engine([Board], store=path):
        pass

    def found() -> list[str]:
        told: list[Finding] = []
        structure = open_backend(f"sqlite:{path}").outside(Ports()).structure()
        structure.whole(told.append, lambda: None)
        return [one.text for one in told if "not numbered one after the other" in one.text]

    with closing(apsw.Connection(str(path))) as connection:
        for _ in range(2):
            run(connection, "INSERT INTO archives VALUES (NULL, 1, 'a rule', 0, 0, 0, 0, 0)")
        assert found() == []
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        run(connection, "UPDATE archives SET number = 5 WHERE number = 1")
    assert len(found()) == 1


async def test_a_version_of_the_schema_that_is_too_low_is_told(tmp_path: Path) -> None:
    """A flipped bit made 1 of 5: tables that came later were not looked at."""
    path = tmp_path / "log.db"
    async with Engine([Board], store=path):
        pass
    structure = open_backend(f"sqlite:{path}").outside(Ports()).structure()
    for version, known in ((1, False), (4, False), (5, True)):
        with closing(apsw.Connection(str(path))) as connection:
            run(connection, f"PRAGMA user_version = {version}")
        found: list[Finding] = []
        assert structure.before(found.append) is known
        assert [one.wrong for one in found] == ([] if known else ["schema"])
