"""Projections in SQL: their tables, what is told of changes, and what their class has to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    DefinitionError,
    Delivery,
    Engine,
    Meta,
    Projection,
    Query,
    Sink,
    Sql,
    SqlProjection,
    StoreRefused,
    Views,
    answers,
    projects,
)
from engine.projections.targets.sql import SqlTarget
from engine.stores.contract.views import Checkpoint, Part
from engine.stores.sqlite.views.store import SqliteViews
from tests.projections.free_sql import HANDLE, SEEN, Free, Notes, Others, Rows, free, notes, rows
from tests.support.counters import Add, Added, Counter
from tests.support.shelf import Bought, CountsInSql, Lent, Log, Swept, Wired
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    HANDLE.clear()
    SEEN.clear()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


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

    views = engine._views
    assert isinstance(views, SqliteViews)
    return await views._on_writer(read)


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
        work = SqlTarget(part, wired.views, wired.registry, wired.limits, wired.ports)
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
        work = SqlTarget(part, wired.views, wired.registry, wired.limits, wired.ports)
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
