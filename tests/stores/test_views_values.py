"""Views in SQLite: exact values in any number, ordered pages, and transactions in turn."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.limits import Limits
from engine.model.projection import Projection, Row, Table, projects
from engine.model.rows import Flat, Scalar
from engine.runtime.ports import Ports
from engine.stores.contract.views import Changes, Checkpoint, Selection
from engine.stores.sqlite.views.store import SqliteViews
from engine.stores.sqlite.views.tables import TableSql
from tests.support.everything import Everything, everything
from tests.support.shelf import Book, Bought, Counts, Lent, Library, Log, Wired, part_of


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.views.db")


class Numbers(Row, key="id"):
    id: int
    real: float
    text: str = ""
    maybe: float | None = None


class All(Projection, name="all"):
    numbers: Table[Numbers]
    things: Table[Everything]
    books: Table[Book]

    @projects
    def bought(self, event: Bought) -> None: ...


def hard_floats() -> list[float]:
    choose = random.Random(1)
    values = [struct.unpack("d", choose.randbytes(8))[0] for _ in range(2_000)]
    values += [5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 0.1, 1e22, 1e23, 3.0]
    return [value for value in values if value - value == 0]


def flats(rows: list[Any]) -> dict[Any, Flat | None]:
    shape = type(rows[0]).__shape__
    found = [shape.flatten(row) for row in rows]
    return {flat[shape.key_place]: flat for flat in found}


@pytest.mark.parametrize("floats_exact", [True, False])
async def test_all_values_come_back_exactly(path: str, floats_exact: bool) -> None:
    views = SqliteViews(path)
    await views.open(Ports(), Limits(), Log(), [All])
    if not floats_exact:
        keeper = views._keeper
        keeper._sql["all", 1] = {
            name: TableSql(sql.definition, floats_exact=False, name=sql.name)
            for name, sql in keeper.tables("all", 1).items()
        }
    numbers = [Numbers(n, real, "x\1'\"\\ü\u2028") for n, real in enumerate(hard_floats())]
    changes: dict[str, Any] = {"numbers": flats(numbers), "things": flats([everything()])}
    definition, part = All.__definition__, part_of(All)
    await views.write(Changes(part, Checkpoint(), Checkpoint(1, 1), changes))

    found = await views.find(All.numbers.definition, Selection(limit=10_000))
    keys: dict[str, list[Scalar]] = {
        "numbers": [row.id for row in numbers],
        "things": [str(everything().id)],
    }
    fetched = await views.fetch(part, keys)
    await views.close()

    assert found == numbers
    for name, rows in changes.items():
        shape = definition.tables[name].shape
        assert {flat[shape.key_place]: tuple(flat) for flat in fetched[name]} == rows


async def test_deleting_finds_its_rows_by_the_key() -> None:
    sql = TableSql(Library.books.definition, floats_exact=True)
    connection = apsw.Connection(":memory:")
    for statement in sql.create():
        connection.execute(statement)
    for text, values in (sql.delete(["a"]), sql.fetch(["a"])):
        plan = connection.execute(f"explain query plan {text}", values).fetchall()

        assert any("SEARCH library_books USING" in str(row[3]) for row in plan), plan


async def test_pages_in_an_indexed_order_need_no_sorting() -> None:
    sql = TableSql(Library.books.definition, floats_exact=True)
    connection = apsw.Connection(":memory:")
    for statement in sql.create():
        connection.execute(statement)
    selection = Selection(order_by="price", descending=True, after=(5, "b"), limit=10)
    text, values = sql.find(selection)
    plan = str(connection.execute(f"explain query plan {text}", values).fetchall())

    assert "library_books:price" in plan
    assert "TEMP B-TREE" not in plan


async def test_two_projections_write_in_turn(path: str) -> None:
    log = Log()
    async with Wired(log, path, [Library, Counts]) as wired:
        for n in range(30):
            wired.publish(Bought(f"b{n}"), Lent(f"b{n}", "ann"))
        await wired.caught_up()

        assert len(await wired.rows(Library.books)) == 30
        assert (await wired.rows(Counts.totals))["ann"].books == 30


async def test_a_transaction_may_be_seen_before_it_is_over_and_is_seen_when_it_is(
    path: str,
) -> None:
    """Whoever reads twice compares what he saw for certain with what he may have seen since."""
    counts: list[tuple[int, int]] = []
    failing: list[bool] = []
    at = ("views.inserted", "views.checkpointed", "views.committed")

    def look(name: str) -> None:
        if name in at:
            counts.append(wired.views.transactions("library"))
            if failing and name == "views.checkpointed":
                raise OSError("no")

    def committing() -> bool:
        look("views.committed")
        return False

    log = Log()
    wired = Wired(log, path, failpoint=look)
    async with wired:
        log.write(Bought("a", 1))
        wired.publish(Bought("b", 1))
        await wired.caught_up()
        before = wired.views.transactions("library")
        connection = wired.views._connection
        assert connection is not None
        connection.set_commit_hook(committing)
        counts.clear()
        wired.publish(Bought("c", 1))
        await wired.caught_up()
        n = before[0]

        assert before == (n, n)
        assert counts == [(n, n), (n, n), (n, n + 1), (n + 1, n + 1)]
        failing.append(True)
        wired.publish(Bought("d", 1))
        await wired.ended()
        assert wired.views.transactions("library") == (n + 1, n + 1)
        assert wired.views.transactions("nobody") == (0, 0)
