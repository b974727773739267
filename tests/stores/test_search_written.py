"""Full text after writes in any order, after crashes, and in tables that come and go."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine.errors import StoreFailed
from engine.limits import Limits
from engine.model.messages import Event
from engine.model.projection import Table
from engine.model.rows import Flat
from engine.queries.views import Views
from engine.runtime.ports import Ports
from engine.stores.contract.views import Changes, Checkpoint, ProjectionDecision, Selection
from engine.stores.sqlite.views.search import drops
from engine.stores.sqlite.views.store import SqliteViews
from engine.stores.sqlite.views.tables import TableSql
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.machine import SimulatedFiles
from tests.stores.offers import (
    OFFERED,
    TABLES,
    Item,
    Listed,
    Offers,
    Priced,
    Unlisted,
    found,
    publish,
    views_of,
    wired_offers,
)
from tests.support.shelf import Crash, Library, Log, Wired, part_of


@pytest.fixture(params=["memory", "file"])
async def wired(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wired]:
    path = ":memory:" if request.param == "memory" else str(tmp_path / "views.db")
    limits = Limits(query_rows=10, search_characters=60)
    async with wired_offers(Log(), path, limits=limits) as wired:
        await publish(wired, *OFFERED)
        yield wired


# -- what is written ------------------------------------------------------------------------------


async def test_a_change_of_words_leaves_the_old_ones(wired: Wired) -> None:
    await publish(wired, Listed(1, "GREEN KETTLE", "iron"))

    assert await found(wired, "kettle") == [1]
    assert set(await found(wired, "lantern")) == {2, 3, -6}
    assert await found(wired, "glass") == []


async def test_what_is_deleted_is_not_found(wired: Wired) -> None:
    await publish(wired, Unlisted(1), Unlisted(-6))
    assert set(await found(wired, "lantern")) == {2, 3}
    await publish(wired, Listed(1, "LANTERN AGAIN"))

    assert set(await found(wired, "lantern")) == {1, 2, 3}


async def test_other_fields_change_and_the_words_stay(wired: Wired) -> None:
    await publish(wired, Priced(1, 1), Priced(2, 1))

    assert [t.price for t in await views_of(wired).search(Offers.things, "hanging")] == [1]
    assert set(await found(wired, "lantern", where={"price": 1})) == {1, 2}


WORDS = ("red", "blue", "green", "lantern", "lamp", "holder", "glass", "iron")


def matches(row: Item, words: list[str]) -> bool:
    there = f"{row.words} {row.note or ''}".split()
    whole = all(word in there for word in words[:-1])
    return whole and any(word.startswith(words[-1]) for word in there)


@pytest.mark.parametrize("seed", range(5))
async def test_however_rows_came_a_search_finds_what_a_look_at_every_row_finds(
    seed: int, tmp_path: Path
) -> None:
    choose = random.Random(seed)
    log = Log()
    async with wired_offers(log, str(tmp_path / "views.db")) as wired:
        for _ in range(12):
            await publish(wired, *some_changes(choose, log))
            rows = await wired.rows(Offers.items)
            for _ in range(5):
                words = choose.choices(WORDS, k=choose.randint(1, 3))
                words[-1] = words[-1][: choose.randint(1, 6)]
                expected = {n for n, row in rows.items() if matches(row, words)}
                got = await found(wired, " ".join(words), limit=1_000)
                assert set(got) == expected, words
        check_indexes(wired)


def some_changes(choose: random.Random, log: Log) -> list[Event]:
    listed = {e.number for e in map(log_event, log.events) if isinstance(e, Listed)}
    gone: set[int] = set()
    changes: list[Event] = []
    for _ in range(choose.randint(1, 60)):
        number = choose.randint(-20, 80)
        kind = choose.random()
        if kind < 0.2:
            changes.append(Unlisted(number))
            gone.add(number)
        elif kind < 0.7 or number not in listed or number in gone:
            words = " ".join(choose.choices(WORDS, k=4))
            note = choose.choice((None, "", choose.choice(WORDS)))
            changes.append(Listed(number, words, note))
            gone.discard(number)
            listed.add(number)
    return changes


def log_event(stored: Any) -> Event | None:
    return msgspec.json.decode(stored.payload, type=Listed) if stored.name == "listed" else None


def check_indexes(wired: Wired) -> None:
    """Let FTS5 compare its indexes with the rows."""
    connection = wired.views._connection
    assert connection is not None
    names = connection.execute("select name from sqlite_schema where name like '%::search'")
    indexes = [name for (name,) in names.fetchall()]
    assert len(indexes) == 2
    for name in indexes:
        sql = f"""insert into "{name}"("{name}", rank) values ('integrity-check', 1)"""
        connection.execute(sql).fetchall()


@pytest.mark.parametrize("count", [1, 33, 100, 1_500])
async def test_many_rows_in_one_statement_are_all_found(count: int) -> None:
    async with wired_offers(Log(), limits=Limits(query_rows=10_000)) as wired:
        await publish(wired, *[Listed(n, f"thing number{n}") for n in range(count)])
        await publish(wired, *[Listed(n, f"other number{n}") for n in range(0, count, 2)])

        assert len(await found(wired, "other", limit=9_999)) == (count + 1) // 2
        assert len(await found(wired, "thing", limit=9_999)) == count // 2
        check_indexes(wired)


async def test_the_file_may_be_packed(wired: Wired) -> None:
    await publish(wired, Unlisted(1))
    connection = wired.views._connection
    assert connection is not None
    connection.execute("vacuum").fetchall()
    await publish(wired, Listed(7, "red lantern"), Unlisted(2))

    assert set(await found(wired, "lantern")) == {3, 7, -6}
    check_indexes(wired)


# -- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["views.inserted", "views.checkpointed", "views.committed"])
async def test_after_a_crash_the_words_are_those_of_the_rows(point: str, tmp_path: Path) -> None:
    path = str(tmp_path / "views.db")
    log = Log()
    armed: list[str] = []

    def crash(name: str) -> None:
        if name in armed:
            raise Crash(name)

    async with wired_offers(log, path, failpoint=crash) as wired:
        await publish(wired, *OFFERED)
        armed.append(point)
        wired.publish(Listed(1, "GREEN KETTLE"), Unlisted(2), Listed(7, "lantern"))
        await wired.ended("offers")
    async with wired_offers(log, path) as wired:
        await wired.caught_up()

        assert set(await found(wired, "lantern")) == {3, 7, -6}
        assert await found(wired, "kettle") == [1]
        check_indexes(wired)


async def test_views_that_fall_back_find_what_they_then_show(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", random.Random(1))
    ports = Ports(files=SimulatedFiles(disk))
    log = Log()
    for n, words in enumerate(("red lantern", "blue lamp"), 1):
        views = SqliteViews(str(disk.folder / "views.db"))
        await views.open(ports, Limits(), log, [Offers])
        (stored,) = log.write(Listed(n, words))
        rows: dict[Any, Flat | None] = {n: (n, words, None, 0), 1: (1, words, None, 0)}
        before = Checkpoint(n - 1, log.events[n - 2].checksum if n > 1 else 0)
        after = Checkpoint(n, stored.checksum)
        await views.write(Changes(part_of(Offers), before, after, {"items": rows}))
        disk.dead = n == 2
        with suppress(StoreFailed):
            await views.close()  # which folds what is written, and syncs it
    disk.restart(disk.survivors("nothing", random.Random(2)))
    views = SqliteViews(str(disk.folder / "views.db"))
    await views.open(ports, Limits(), log, [Offers])
    asked = Views(views, {t.definition.name: t.definition for t in TABLES}, Limits())
    shown = [row.words for row in await views.find(Offers.items.definition, Selection(limit=9))]
    at = (await views.checkpoint(part_of(Offers))).position

    assert at == 1, "otherwise this test shows nothing"
    for word in ("lantern", "lamp"):
        hits = await asked.search(Offers.items, word)
        assert [hit.words for hit in hits] == [words for words in shown if word in words]
    await views.close()
    disk.dispose()


# -- tables ---------------------------------------------------------------------------------------


def made(*tables: Table[Any], number: str = "") -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    for table in tables:
        sql = TableSql(table.definition, floats_exact=True, name=table.definition.name + number)
        for statement in sql.create():
            connection.execute(statement).fetchall()
    return connection


def names_in(connection: apsw.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("select name from sqlite_schema")}


def test_a_table_that_is_not_searched_is_made_as_before() -> None:
    connection = made(Library.books)
    (sql,) = connection.execute("select sql from sqlite_schema where name = 'library_books'")

    assert "WITHOUT ROWID" in str(sql)
    assert names_in(connection) == {
        "library_books",
        "library_books:holder",
        "library_books:price",
    }


@pytest.mark.parametrize("table", TABLES, ids=["text-key", "integer-key"])
def test_builds_of_a_table_stand_beside_each_other_and_are_dropped_whole(table: Table[Any]) -> None:
    connection = made(table, number=":1")
    alone = names_in(connection)
    for number in (":2", ":11"):
        sql = TableSql(table.definition, floats_exact=True, name=f"{table.definition.name}{number}")
        for statement in sql.create():
            connection.execute(statement).fetchall()
    for number in (":2", ":11"):
        for statement in drops(f"{table.definition.name}{number}"):
            connection.execute(statement).fetchall()

    assert names_in(connection) == alone
    for statement in drops(f"{table.definition.name}:1"):
        connection.execute(statement).fetchall()
    assert names_in(connection) == set()


def test_ordered_pages_of_a_searched_table_need_no_sorting() -> None:
    for table in TABLES:
        sql = TableSql(table.definition, floats_exact=True)
        connection = made(table)
        selection = Selection(order_by="price", after=(5, "b"), limit=10)
        text, values = sql.find(selection)
        plan = str(connection.execute(f"explain query plan {text}", values).fetchall())

        assert f"{table.definition.name}:price" in plan
        assert "TEMP B-TREE" not in plan


async def test_the_build_that_serves_is_searched_and_none_leaves_anything_behind(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "views.db")
    log = Log()
    definition = Offers.__definition__
    async with wired_offers(log, path) as wired:
        await publish(wired, *OFFERED)
        connection = wired.views._connection
        assert connection is not None
        before = {name.replace(":1", ":2") for name in names_in(connection)}
        await wired.views.begin_build(definition)
        rows: dict[Any, Flat | None] = {7: (7, "built lantern", None, 0)}
        at = Checkpoint(len(log.events), log.events[-1].checksum)
        await wired.views.write(Changes(part_of(Offers, 2), Checkpoint(), at, {"items": rows}))
        items = views_of(wired)
        assert len(await items.search(Offers.items, "lantern")) == 4
        await wired.views.swap(definition, 2, ProjectionDecision("offers", "swap", 0, 1))

        assert [row.number for row in await items.search(Offers.items, "lantern")] == [7]
        await wired.views.drop("offers", 1)
        assert {name for name in names_in(connection) if "offers" in name} == {
            name for name in before if "offers" in name
        }
        assert [row.number for row in await items.search(Offers.items, "lantern")] == [7]


async def test_what_is_emptied_is_not_found(wired: Wired) -> None:
    decision = ProjectionDecision("offers", "reset", 0, 1)
    projector = wired.projector
    projector.pause()
    await projector.ask(lambda: wired.views.reset(Offers.__definition__, decision))

    assert await found(wired, "lantern") == []
    check_indexes(wired)
