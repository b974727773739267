"""Handlers in SQL that are async, where nothing is waited for: in memory, and in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine import AsyncSql, DefinitionError, Sql, SqlProjection, UsageError, projects
from engine.testing.scenario import Folded
from tests.projections.summing import StoppingInBoth, add, summing, sums
from tests.support.counters import Added, Emptied


class OnAServer(SqlProjection, name="sums", version=1, dialect="postgresql"):
    tables = {"rows": "CREATE TABLE {rows} (counter TEXT PRIMARY KEY)"}

    @projects
    async def added(self, event: Added, sql: AsyncSql) -> None:
        await sql.run("INSERT INTO {rows} VALUES (?)", ("a",))


class Waiting(OnAServer, name="sums", version=1, dialect=("sqlite", "postgresql")):
    @projects
    async def added(self, event: Added, sql: AsyncSql) -> None:
        await asyncio.sleep(0)


def test_events_are_folded_by_handlers_that_are_async() -> None:
    folded = Folded(StoppingInBoth).fold(Added(2), Added(3), stream="counter:a")
    assert folded.sql("SELECT total FROM sums_rows") == [(5,)]
    folded.fold(Emptied("ann"), stream="counter:a")
    assert folded.sql("SELECT * FROM sums_rows") == []


async def test_a_file_is_written_by_handlers_that_are_async(tmp_path: Path) -> None:
    async with summing(StoppingInBoth, f"sqlite:{tmp_path / 'log.db'}") as engine:
        assert await sums(engine, at=await add(engine, "a", "b", "a")) == {"a": 2, "b": 1}


def test_a_handler_that_waits_for_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="waits for something else than its `sql`"):
        Folded(Waiting).fold(Added(1))


async def test_sql_of_another_database_is_refused_when_the_engine_is_made() -> None:
    with pytest.raises(DefinitionError, match="written in the SQL of postgresql"):
        summing(OnAServer, "memory:")
    with pytest.raises(DefinitionError, match="written in the SQL of postgresql"):
        Folded(OnAServer)


def test_a_plain_handler_cannot_run_on_a_server() -> None:
    with pytest.raises(DefinitionError, match="write `async def`"):

        class Plain(SqlProjection, name="plain", version=1, dialect="postgresql"):
            tables = {"rows": "CREATE TABLE {rows} (id TEXT)"}

            @projects
            def added(self, event: Added, sql: Sql) -> None:
                raise AssertionError
