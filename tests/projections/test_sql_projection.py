"""Projections in SQL of their own: what their statements may do, and what becomes of those."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from engine import Engine, Limits, Meta, ProjectionLag, Sql, UsageError
from engine.stores.sqlite.views.sql_tables import SqlTables
from engine.stores.sqlite.views.store import SqliteViews
from tests.projections.free_sql import HANDLE, SEEN, Free, Notes, Rows, free
from tests.support.counters import Add, Added, Counter
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    HANDLE.clear()
    SEEN.clear()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


class FreeAndParking(Free, name="free", version=1, on_poison="park"):
    pass


async def failure(engine: Engine, at: int) -> str:
    """Wait until the projection has failed, and give why."""
    with pytest.raises(ProjectionLag, match="stopped"):
        await engine.query(Notes(), at=at)
    failed = engine.statistics().projectors["free"].failure
    assert failed is not None
    return failed.cause


# -- what statements may do -----------------------------------------------------------------------


FORBIDDEN = [
    "INSERT INTO others_rows VALUES ('x')",
    "INSERT INTO \"others_rows:1\" VALUES ('x')",
    'SELECT * FROM "others_rows:1"',
    "SELECT count(*) FROM others_rows",
    "UPDATE checkpoints SET position = 7",
    "SELECT position FROM checkpoints",
    "DELETE FROM builds",
    "SELECT name FROM sqlite_schema",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT mine",
    "RELEASE event",
    "PRAGMA synchronous=0",
    "PRAGMA user_version",
    "ATTACH 'elsewhere.db' AS elsewhere",
    "CREATE TABLE mine (n)",
    "CREATE TEMP TABLE mine (n)",
    "DROP TABLE {rows}",
    "ALTER TABLE {rows} ADD COLUMN more",
    "CREATE TRIGGER {rows:t} AFTER INSERT ON {rows} BEGIN SELECT 1; END",
    "INSERT INTO {rows} VALUES ('x', 1); UPDATE checkpoints SET position = 7",
    "WITH gone AS (SELECT * FROM checkpoints) INSERT INTO {rows} SELECT 'x', count(*) FROM gone",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_a_handler_touches_its_own_tables_only(statement: str, url: str) -> None:
    HANDLE.append(lambda event, meta, sql: sql.run(statement))
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1))).position

        assert "reads and writes its own tables" in await failure(engine, position)
        assert await engine.query(Notes()) == []
        assert await engine.query(Rows()) == []


@pytest.mark.parametrize("statement", ["VACUUM", "SELECT load_extension('evil')"])
async def test_what_sqlite_itself_refuses_stops_it_as_well(statement: str, url: str) -> None:
    HANDLE.append(lambda event, meta, sql: sql.run(statement))
    async with free(url) as engine:
        assert "SQLError" in await failure(engine, (await engine.execute(Add("a", 1))).position)


async def test_a_forbidden_statement_does_not_become_known_by_being_tried_twice(url: str) -> None:
    def try_twice(event: Added, meta: Meta, sql: Sql) -> None:
        for _ in range(2):
            with pytest.raises(UsageError, match="its own tables"):
                sql.run("UPDATE checkpoints SET position = 7")
            SEEN.append(meta.position)

    HANDLE.append(try_twice)
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1))).position
        assert await engine.query(Notes(), at=position) == [(1,)]

    assert SEEN == [1, 1]


ALLOWED = [
    "SELECT value FROM json_each('[1, 2]')",
    "WITH RECURSIVE up(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM up) SELECT n FROM up LIMIT 3",
    "SELECT * FROM {rows} JOIN {notes} USING (n)",
    "INSERT INTO {rows} SELECT 'x', n FROM {notes} RETURNING id",
    """INSERT INTO {rows} VALUES ('{"a": 1}', 1)""",
]


@pytest.mark.parametrize("statement", ALLOWED)
async def test_a_handler_uses_sql_as_it_likes_on_its_own_tables(statement: str, url: str) -> None:
    HANDLE.append(lambda event, meta, sql: SEEN.append(sql.run(statement)))
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1))).position
        assert await engine.query(Notes(), at=position) == [(1,)]

    assert len(SEEN) == 1


async def test_values_are_bound_and_braces_name_tables_only(url: str) -> None:
    def insert(event: Added, meta: Meta, sql: Sql) -> None:
        sql.run("INSERT INTO {rows} VALUES (?, ?)", ("{rows}'); DROP TABLE x; --", 1))
        with pytest.raises(UsageError, match=r"\{row\} names no table .*'notes', 'rows'"):
            sql.run("SELECT * FROM {row}")

    HANDLE.append(insert)
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1))).position

        assert await engine.query(Rows(), at=position) == [("{rows}'); DROP TABLE x; --", 1)]


async def test_a_statement_gives_no_more_rows_than_a_query_may_have(url: str) -> None:
    def read(event: Added, meta: Meta, sql: Sql) -> None:
        SEEN.append(len(sql.run("SELECT value FROM json_each('[1, 2]')")))
        sql.run("SELECT value FROM json_each('[1, 2, 3]')")

    HANDLE.append(read)
    async with free(url, limits=Limits(query_rows=2)) as engine:
        cause = await failure(engine, (await engine.execute(Add("a", 1))).position)

        assert "more than 2 rows (Limits.query_rows)" in cause
        assert SEEN == [2]


async def test_what_is_kept_of_a_transaction_is_of_no_use_after_it(url: str) -> None:
    HANDLE.append(lambda event, meta, sql: SEEN.append(sql))
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1))).position
        await engine.query(Notes(), at=position)

        with pytest.raises(UsageError, match="after the transaction that it was for"):
            SEEN[0].run("DELETE FROM {rows}")
        assert await engine.query(Notes()) == [(1,)]


async def test_handlers_run_in_the_thread_that_writes_the_views(tmp_path: Path) -> None:
    HANDLE.append(lambda event, meta, sql: SEEN.append(threading.current_thread().name))
    async with free(f"sqlite:{tmp_path / 'log.db'}") as engine:
        await engine.query(Notes(), at=(await engine.execute(Add("a", 1))).position)

    assert SEEN == ["foldline-views"]


def test_texts_that_are_made_anew_each_time_do_not_fill_the_memory() -> None:
    own = SqlTables("free", {"rows": "free_rows:1"}, ())
    connection = apsw.Connection(":memory:")
    connection.execute('CREATE TABLE "free_rows:1" (n)')
    with connection, own.session(connection, 10) as session:
        for n in range(2_500):
            session.run(f"INSERT INTO {{rows}} VALUES ({n})")

    assert len(own._texts) <= 1_000


# -- what fails -----------------------------------------------------------------------------------


async def test_what_the_database_refuses_is_the_handlers_to_mend(url: str) -> None:
    HANDLE.append(lambda e, meta, sql: sql.run("INSERT INTO {rows} VALUES (?, ?)", ("x", e.amount)))
    async with free(url, FreeAndParking) as engine:
        await engine.execute(Add("a", 1_000))
        position = (await engine.execute(Add("b", 1))).position

        assert await engine.query(Rows(), at=position) == [("x", 1)]
        (parked,) = await engine.projections.parked("free")
        assert "ConstraintError" in parked.cause


async def test_a_handler_may_catch_what_the_database_refuses(url: str) -> None:
    def insert(event: Added, meta: Meta, sql: Sql) -> None:
        try:
            sql.run("INSERT INTO {rows} VALUES (?, ?)", ("x", event.amount))
        except apsw.ConstraintError:
            sql.run("INSERT INTO {rows} VALUES (?, 0)", (meta.id,))

    HANDLE.append(insert)
    async with free(url) as engine:
        position = (await engine.execute(Add("a", 1_000))).position

        assert await engine.query(Rows(), at=position) == [("a", 0)]
        assert await engine.query(Notes(), at=position) == [(1,)]


@pytest.mark.parametrize("caught", [False, True])
async def test_a_rollback_by_a_statement_costs_its_event_and_no_other(
    caught: bool, tmp_path: Path
) -> None:
    """The whole batch is undone with it, and written again without that event."""
    url = f"sqlite:{tmp_path / 'log.db'}"

    def insert(event: Added, meta: Meta, sql: Sql) -> None:
        try:
            sql.run("INSERT OR ROLLBACK INTO {rows} VALUES (?, ?)", (meta.id, event.amount))
        except apsw.ConstraintError:
            if not caught:
                raise
            with pytest.raises(UsageError, match="after the transaction"):
                sql.run("INSERT INTO {notes} VALUES (-1)")

    HANDLE.append(insert)
    async with Engine([Counter], store=url) as engine:
        for counter, amount in (("a", 1), ("b", 1_000), ("c", 1), ("b", 2)):
            await engine.execute(Add(counter, amount))
    async with free(url, FreeAndParking) as engine:
        assert await engine.query(Rows(), at=4) == [("a", 1), ("c", 1)]
        assert await engine.query(Notes()) == [(1,), (3,)]
        assert [p.position for p in await engine.projections.parked("free")] == [2, 4]
        retried = await engine.projections.retry("free")

        assert [p.position for p in retried.failed] == [2]
        assert [p.attempts for p in await engine.projections.parked("free")] == [2, 0]
        assert await engine.query(Notes()) == [(1,), (3,)]


async def test_what_fails_for_the_files_sake_is_tried_again_whatever_the_handler_makes_of_it(
    tmp_path: Path,
) -> None:
    def insert(event: Added, meta: Meta, sql: Sql) -> None:
        SEEN.append(meta.position)
        try:
            sql.run("INSERT INTO {rows} VALUES (?, 1)", ("x" * 1_000_000,))
        except apsw.FullError:
            SEEN.append("full")

    HANDLE.append(insert)
    async with free(f"sqlite:{tmp_path / 'log.db'}", FreeAndParking) as engine:
        views = engine._views
        assert isinstance(views, SqliteViews)
        writer = views._on_writer
        await writer(lambda connection: connection.execute("PRAGMA max_page_count=60").fetchall())
        position = (await engine.execute(Add("a", 1))).position
        await until(lambda: engine.statistics().projectors["free"].retries > 0)
        await writer(lambda connection: connection.execute("PRAGMA max_page_count=9999").fetchall())

        assert await engine.query(Notes(), at=position) == [(1,)]
        assert "full" in SEEN
        assert await engine.projections.parked("free") == []
