"""A flipped bit in what a file of views says of itself, and of its own tables, is told."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Engine
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.connection import run
from engine.stores.urls import open_backend
from tests.outside.copied import Board, Counts

_SCHEMA = "UPDATE sqlite_schema SET sql = replace(sql, 'DEFAULT 0', 'DEFAULT 4') WHERE name = "
FLIPS = {
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
    assert [text for text in texts if f"the table '{table}' of" in text], texts
