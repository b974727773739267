"""A file of views that somebody gives is refused by name where its books can act by themselves."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Onlooker,
    Projection,
    Query,
    Row,
    StoreRefused,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from tests.support import warm

SECONDS = 60
FOREVER = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT"


class Count(Command):
    counter: Id


class Counted(Event, name="counted"):
    pass


class Counter(Aggregate, kind="counter"):
    @handles
    def count(self, command: Count) -> Counted:
        return Counted()

    @applies
    def counted(self, event: Counted) -> None:
        pass


class Total(Row, key="counter"):
    counter: str
    total: int


class Totals(Projection, name="totals", version=1):
    rows: Table[Total]

    @projects
    def counted(self, event: Counted, meta: Meta) -> None:
        self.rows.put(Total(meta.id, meta.version))


class GetTotal(Query[Total | None]):
    counter: str


@answers
async def get_total(query: GetTotal, views: Views) -> Total | None:
    return await views.get(Totals.rows, query.counter)


def engine_of(path: Path) -> Engine:
    return Engine([Counter], projections=[Totals], answers=[get_total], store=f"sqlite:{path}")


@pytest_asyncio.fixture
async def log(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "given.db"
    async with engine_of(path) as engine:
        receipt = await engine.execute(Count("c-1"))
        await engine.query(GetTotal("c-1"), at=receipt)
    yield path


def plant(log: Path, *statements: str) -> None:
    with closing(apsw.Connection(str(log.with_name("given.views.db")))) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


def views_of(log: Path) -> Path:
    (found,) = log.parent.glob("*views*.db")
    return found


ACTING = {
    "a view without end for the checkpoints": (
        "ALTER TABLE checkpoints RENAME TO former",
        f"CREATE VIEW checkpoints AS {FOREVER} 'totals' AS projection, n AS build FROM c",
    ),
    "a view for the requests": (
        "DROP TABLE requests",
        f"CREATE VIEW requests AS {FOREVER} n AS number FROM c",
    ),
    "a trigger that swallows decisions": (
        "CREATE TRIGGER mine BEFORE INSERT ON decisions BEGIN SELECT RAISE(IGNORE); END",
    ),
    "a trigger that moves checkpoints": (
        "CREATE TRIGGER mine AFTER UPDATE ON checkpoints BEGIN DELETE FROM parked; END",
    ),
    "a full-text table for the failures": (
        "DROP TABLE failures",
        "CREATE VIRTUAL TABLE failures USING fts5(projection)",
    ),
    "a computed column among the parked": (
        "ALTER TABLE parked ADD COLUMN more TEXT AS (hex(zeroblob(attempts)))",
    ),
    "a view for the file's own name": (
        "ALTER TABLE views_meta RENAME TO former",
        f"CREATE VIEW views_meta AS {FOREVER} n AS log_id, n AS schema_version FROM c",
    ),
}


@pytest.mark.parametrize("planted", ACTING.values(), ids=ACTING)
async def test_books_that_act_are_refused_by_who_reads_and_who_writes(
    log: Path, planted: tuple[str, ...]
) -> None:
    plant(log, *planted)
    before = views_of(log).read_bytes()

    with pytest.raises(StoreRefused, match="no file of views as this engine makes it"):
        async with engine_of(log):
            pass
    with pytest.raises(StoreRefused, match="no file of views as this engine makes it"):
        async with Onlooker(
            projections=[Totals], answers=[get_total], store=f"sqlite:{log}"
        ) as onlooker:
            await onlooker.query(GetTotal("c-1"))
    command = [sys.executable, "-m", "engine", "projections", "list", str(log)]
    done = warm.run(command, capture_output=True, text=True, timeout=SECONDS)

    assert done.returncode != 0
    assert "no file of views as this engine makes it" in done.stderr
    assert views_of(log).read_bytes() == before


async def test_what_a_host_keeps_beside_the_books_is_its_own_affair(log: Path) -> None:
    plant(
        log,
        "CREATE TABLE mine(a INTEGER PRIMARY KEY, b TEXT)",
        "CREATE VIEW seen AS SELECT b FROM mine",
        "CREATE TRIGGER on_mine AFTER INSERT ON mine BEGIN DELETE FROM mine WHERE a < 0; END",
        "ANALYZE",
    )

    async with engine_of(log) as engine:
        receipt = await engine.execute(Count("c-1"))
        assert await engine.query(GetTotal("c-1"), at=receipt) == Total("c-1", 2)
