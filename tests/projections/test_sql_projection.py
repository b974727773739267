"""Projections in SQL of their own: what their statements may do, and what becomes of those."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    DefinitionError,
    Delivery,
    Engine,
    Limits,
    Meta,
    Projection,
    ProjectionLag,
    Query,
    Row,
    Sink,
    Sql,
    SqlProjection,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.projections.targets.sql import SqlWork
from engine.stores.contract.views import Checkpoint, Part
from engine.stores.sqlite.views.sql_tables import OwnTables
from tests.support.counters import Add, Added, Counter
from tests.support.shelf import Bought, CountsInSql, Lent, Log, Swept, Wired
from tests.support.waiting import until

HANDLE: list[Callable[[Added, Meta, Sql], object]] = []
"""What the handler of `Free` does."""
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    HANDLE.clear()
    SEEN.clear()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


class Other(Row, key="id"):
    id: str


class Others(Projection, name="others", version=1):
    rows: Table[Other]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Other(meta.id))


class Free(SqlProjection, name="free", version=1):
    tables = {
        "rows": "CREATE TABLE {rows} (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 1000))",
        "notes": ("CREATE TABLE {notes} (n INTEGER)", "CREATE INDEX {notes:by_n} ON {notes} (n)"),
    }

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        sql.run("INSERT INTO {notes} VALUES (?)", (meta.position,))
        HANDLE[0](event, meta, sql)


class FreeAndParking(Free, name="free", version=1, on_poison="park"):
    pass


class Notes(Query[list[tuple[Any, ...]]]):
    pass


class Rows(Query[list[tuple[Any, ...]]]):
    pass


@answers
async def notes(query: Notes, views: Views) -> list[tuple[Any, ...]]:
    return await views.sql("SELECT n FROM free_notes ORDER BY n")


@answers
async def rows(query: Rows, views: Views) -> list[tuple[Any, ...]]:
    return await views.sql("SELECT * FROM free_rows ORDER BY id")


def free(store: str, projection: type[Projection] = Free, **options: Any) -> Engine:
    projections = [projection, Others]
    return Engine([Counter], projections=projections, answers=[notes, rows], store=store, **options)


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
    own = OwnTables("free", {"rows": "free_rows:1"}, ())
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
        writer = engine._views._on_writer
        await writer(lambda connection: connection.execute("PRAGMA max_page_count=60").fetchall())
        position = (await engine.execute(Add("a", 1))).position
        await until(lambda: engine.statistics().projectors["free"].retries > 0)
        await writer(lambda connection: connection.execute("PRAGMA max_page_count=9999").fetchall())

        assert await engine.query(Notes(), at=position) == [(1,)]
        assert "full" in SEEN
        assert await engine.projections.parked("free") == []


# -- tables ---------------------------------------------------------------------------------------


class Searched(SqlProjection, name="free", version=1):
    tables = {
        "rows": (
            "CREATE TABLE {rows} (id INTEGER PRIMARY KEY AUTOINCREMENT, twice AS (id * 2), n INT)",
            "CREATE UNIQUE INDEX {rows:by_n} ON {rows} (n)",
            (
                "CREATE TRIGGER {rows:words} AFTER INSERT ON {rows} BEGIN "
                "INSERT INTO {words} VALUES ('counter ' || new.n); END"
            ),
            "INSERT INTO {rows} (n) VALUES (-1)",
        ),
        "words": "CREATE VIRTUAL TABLE {words} USING fts5(text)",
        "notes": "CREATE TABLE {notes} (n INTEGER)",
    }

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        sql.run("INSERT INTO {rows} (n) VALUES (?)", (meta.position,))
        found = sql.run("SELECT count(*) FROM {words} WHERE text MATCH 'counter'")
        sql.run("INSERT INTO {notes} VALUES (?)", found[0])


class Found(Query[list[tuple[Any, ...]]]):
    pass


@answers
async def found(query: Found, views: Views) -> list[tuple[Any, ...]]:
    return await views.sql("SELECT text FROM free_words WHERE text MATCH '2'")


def searched(store: str) -> Engine:
    return Engine([Counter], projections=[Searched], answers=[notes, rows, found], store=store)


async def test_tables_may_be_of_any_kind_with_all_that_belongs_to_them() -> None:
    """The words' table stands behind a trigger that needs it: order is the author's to choose."""
    with pytest.raises(DefinitionError, match=r"Searched.tables\['rows'\].*no such table"):
        async with searched("memory:"):
            pass
    ordered = {name: Searched.tables[name] for name in ("words", "rows", "notes")}

    class InOrder(SqlProjection, name="free", version=1):
        tables = ordered
        added = Searched.added

    engine = Engine([Counter], projections=[InOrder], answers=[notes, rows, found], store="memory:")
    async with engine:
        for _ in range(2):
            position = (await engine.execute(Add("a", 1))).position
        assert await engine.query(Rows(), at=position) == [(1, 2, -1), (2, 4, 1), (3, 6, 2)]
        assert await engine.query(Notes()) == [(2,), (3,)]
        assert await engine.query(Found()) == [("counter 2",)]
        await engine.projections.reset("free")

        assert await engine.query(Rows(), at=position) == [(1, 2, -1), (2, 4, 1), (3, 6, 2)]
        assert await engine.query(Notes()) == [(2,), (3,)]
        await engine.projections.rebuild("free")
        await until(lambda: engine.statistics().projectors["free"].building is None)
        await engine.projections.drop("free")
        assert await engine.query(Notes(), at=position) == [(2,), (3,)]
        assert await _names(engine, "%:1%") == []
        assert await _names(engine, "free_words:2%") == [
            "free_words:2",
            *(f"free_words:2_{part}" for part in ("config", "content", "data", "docsize", "idx")),
        ]


async def _names(engine: Engine, pattern: str) -> list[str]:
    def read(connection: apsw.Connection) -> list[str]:
        sql = "SELECT name FROM sqlite_schema WHERE name LIKE ? ORDER BY name"
        return [str(name) for (name,) in connection.execute(sql, (pattern,))]

    return await engine._views._on_writer(read)


async def test_changed_statements_without_a_new_version_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"

    class Changed(SqlProjection, name="free", version=1):
        tables = {**Free.tables, "notes": "CREATE TABLE {notes} (n INTEGER, more TEXT)"}
        added = Free.added

    async with free(url):
        pass
    with pytest.raises(StoreRefused, match="declared otherwise than they were stored as version 1"):
        async with free(url, Changed):
            pass


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE {rows} AS SELECT * FROM checkpoints",
        "CREATE TABLE {rows} (n); CREATE TABLE mine (n)",
        "CREATE TABLE {rows} (n); DROP TABLE builds",
        "CREATE TABLE {rows} (",
        ("CREATE TABLE {rows} (n)", "CREATE INDEX {rows:x} ON checkpoints (position)"),
        (
            "CREATE TABLE {rows} (n)",
            "CREATE TRIGGER {rows:x} AFTER INSERT ON checkpoints BEGIN SELECT 1; END",
        ),
    ],
)
async def test_what_makes_other_tables_is_refused_when_the_engine_starts(made: Any) -> None:
    class Wrong(SqlProjection, name="free", version=1):
        tables = {"rows": made}
        added = Free.added

    with pytest.raises(
        DefinitionError, match=r"Wrong.tables\['rows'\] has a statement that cannot"
    ):
        async with Engine([Counter], projections=[Wrong]):
            pass


# -- what is told of it ---------------------------------------------------------------------------


async def test_its_changes_say_that_any_row_may_have_changed() -> None:
    log = Log()
    async with Wired(log, projections=[CountsInSql]) as wired:
        part = Part(CountsInSql.__definition__, 1)
        work = SqlWork(part, wired.views, wired.registry, wired.limits, wired.ports)
        before = await work.open()
        bought = log.write(Bought("b"), Lent("b", "ann"))
        prepared = await work.prepare(bought, before)
        changes = prepared.changes
        assert changes is not None
        assert (changes.everything, changes.rows, prepared.count) == (True, {}, 2)
        swept = await work.prepare(log.write(Swept()), changes.after)

        assert swept.changes is not None
        assert not swept.changes.everything
        assert swept.changes.after.position == 3


async def test_who_watches_what_it_shows_sees_every_change_of_it(url: str) -> None:
    HANDLE.append(lambda e, meta, sql: sql.run("INSERT INTO {rows} VALUES (?, 1)", (meta.id,)))
    async with free(url) as engine, aclosing(aiter(engine.watch(Rows()))) as watched:
        assert await anext(watched) == []
        await engine.execute(Add("a", 1))
        assert await anext(watched) == [("a", 1)]
        await engine.projections.rebuild("free")
        await until(lambda: engine.statistics().projectors["free"].building is None)
        await engine.execute(Add("b", 1))
        assert await anext(watched) == [("a", 1), ("b", 1)]


class Outside(Sink, name="outside", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]]) -> None:
        SEEN.extend(delivery.position for delivery in batch)


async def test_its_past_is_folded_beside_it_and_sinks_have_none() -> None:
    HANDLE.append(lambda e, meta, sql: sql.run("INSERT INTO {rows} VALUES (?, 1)", (meta.id,)))
    projections: list[type[Projection]] = [Free, Outside]
    async with Engine([Counter], projections=projections, answers=[notes, rows]) as engine:
        for counter in "abc":
            position = (await engine.execute(Add(counter, 1))).position
        async with engine.past(position=2) as past:
            assert await past.query(Rows()) == [("a", 1), ("b", 1)]
            assert await past.query(Notes()) == [(1,), (2,)]
        assert await engine.query(Notes(), at=position) == [(1,), (2,), (3,)]
        await until(lambda: engine.statistics().projectors["outside"].position == 3)

    assert SEEN == [1, 2, 3], "a past delivers nothing"


async def test_a_second_worker_is_refused_and_changes_nothing() -> None:
    log = Log()
    async with Wired(log, projections=[CountsInSql]) as wired:
        log.write(Bought("b"))
        wired.bus.publish(log.write(Bought("b")))
        await wired.caught_up()
        part = Part(CountsInSql.__definition__, 1)
        work = SqlWork(part, wired.views, wired.registry, wired.limits, wired.ports)
        await work.open()
        with pytest.raises(StoreRefused, match="another worker writes"):
            await work.prepare(log.events, Checkpoint())

        found = (await wired.views.sql("SELECT * FROM counts_totals", (), 10)).rows
        assert found == [("all", 2)]


# -- definitions ----------------------------------------------------------------------------------


def test_a_projection_in_sql_without_tables_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r'no table: declare `tables = \{"rows": "CREATE'):

        class Wrong(SqlProjection, name="wrong", version=1):
            added = Free.added


def test_slices_are_refused_with_what_to_do_instead() -> None:
    with pytest.raises(DefinitionError, match="which slice a row of SQL belongs"):

        class Wrong(SqlProjection, name="wrong", version=1, slices=2):
            tables = Free.tables
            added = Free.added


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("CREATE TABLE rows (n)", "does not begin with the statement that makes it"),
        ("CREATE TABLE IF NOT EXISTS {rows} (n)", "does not begin with the statement"),
        ("CREATE TEMP TABLE {rows} (n)", "does not begin with the statement"),
        ("CREATE TABLE {other} (n)", "does not begin with the statement"),
        ((), "does not begin with the statement"),
        (("CREATE TABLE {rows} (n)", "CREATE INDEX mine ON {rows} (n)"), "a further statement"),
        (("CREATE TABLE {rows} (n)", "DROP TABLE {rows}"), "a further statement"),
        (("CREATE TABLE {rows} (n)", "INSERT INTO {rows} SELECT * FROM {x}"), "names no table"),
    ],
)
def test_statements_that_make_no_table_of_their_own_are_refused(made: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Wrong(SqlProjection, name="wrong", version=1):
            tables = {"rows": made}
            added = Free.added


def test_a_table_has_a_plain_name() -> None:
    with pytest.raises(DefinitionError, match="small letters, digits and underscores"):

        class Wrong(SqlProjection, name="wrong", version=1):
            tables = {"my-rows": "CREATE TABLE {my-rows} (n)"}
            added = Free.added


def test_a_handler_takes_sql_last() -> None:
    with pytest.raises(DefinitionError, match="meta: Meta, sql: Sql"):

        class Wrong(SqlProjection, name="wrong", version=1):
            tables = Free.tables

            @projects
            def added(self, event: Added, meta: Meta) -> None: ...


def test_keys_are_of_no_use_to_it() -> None:
    with pytest.raises(DefinitionError, match="gives `keys`, for which SQL has no use"):

        class Wrong(SqlProjection, name="wrong", version=1):
            tables = Free.tables

            @projects(keys=lambda event, meta: {})
            def added(self, event: Added, sql: Sql) -> None: ...


def test_it_keeps_nothing_in_itself() -> None:
    with pytest.raises(DefinitionError, match="has an __init__"):

        class Wrong(SqlProjection, name="wrong", version=1):
            tables = Free.tables
            added = Free.added

            def __init__(self) -> None: ...


def test_a_missing_name_is_asked_for_with_the_right_base() -> None:
    with pytest.raises(DefinitionError, match=r"class Wrong\(SqlProjection, name="):

        class Wrong(SqlProjection):
            tables = Free.tables
            added = Free.added


def test_two_projections_with_one_sql_table_are_refused() -> None:
    class Same(SqlProjection, name="others", version=1):
        tables = {"rows": "CREATE TABLE {rows} (n)"}

        @projects
        def added(self, event: Added, sql: Sql) -> None: ...

    with pytest.raises(DefinitionError, match="both projection 'others'"):
        Engine([Counter], projections=[Others, Same])
