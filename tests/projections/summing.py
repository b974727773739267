"""Projections that sum counters: as tables, in SQL, and outside; and what fails and holds them.

The sets at the top are the world outside of these projections: which counters fail, what handlers
have seen, what a system outside has got. `conftest.py` empties them after each test of this room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import apsw

from engine import (
    AsyncSql,
    Delivery,
    Engine,
    Meta,
    Ports,
    Projection,
    Query,
    Row,
    Sink,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    projects,
)
from engine.projections.operations import Status
from engine.projections.runner import ProjectionRunner
from tests.support.counters import Add, Added, Counter, Emptied

AILING: set[str] = set()
"""Ids of counters whose events no projection here can fold now."""


DEAD: set[str] = set()
"""Ids of counters behind a connection that is lost for good."""


SEEN: dict[tuple[str, int], None] = {}
"""Every event that a handler ran for, in order: the counter, and the position."""


TRIES: list[str] = []


RECEIVED: dict[int, tuple[str, int]] = {}
"""What a system outside has got, by position: the counter, and the amount, 0 to empty it."""


class Sum(Row, key="counter"):
    counter: str
    total: int
    events: int


class SumOfThem(Query[list[Sum]]):
    pass


def see(meta: Meta) -> None:
    """Note that a handler has got as far as this event, and fail where it is to."""
    SEEN[meta.id, meta.position] = None
    if meta.id in AILING:
        raise ValueError(f"a secret of {meta.id}")


class Base(Projection, name="base"):
    rows: Table[Sum]
    factor = 1

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Sum(meta.id, 0, 0)
        total = row.total + event.amount * self.factor
        self.rows.put(Sum(meta.id, total, row.events + 1))
        see(meta)

    @projects
    def emptied(self, event: Emptied, meta: Meta) -> None:
        self.rows.delete(meta.id)


class Parking(Base, name="sums", version=1, on_poison="park"):
    rows: Table[Sum]


class Stopping(Base, name="sums", version=1):
    rows: Table[Sum]


class InSql(SqlProjection, name="base"):
    tables = {
        "rows": (
            """
            CREATE TABLE {rows} (
                counter TEXT PRIMARY KEY, total INTEGER NOT NULL, events INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE INDEX {rows:by_total} ON {rows} (total)",
        )
    }
    factor = 1

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        sql.run(
            "INSERT INTO {rows} VALUES (?, ?, 1) ON CONFLICT (counter) DO UPDATE SET "
            "total = total + excluded.total, events = events + 1",
            (meta.id, event.amount * self.factor),
        )
        see(meta)

    @projects
    def emptied(self, event: Emptied, meta: Meta, sql: Sql) -> None:
        sql.run("DELETE FROM {rows} WHERE counter = ?", (meta.id,))


class ParkingInSql(InSql, name="sums", version=1, on_poison="park"):
    pass


class StoppingInSql(InSql, name="sums", version=1):
    pass


class TenfoldInSql(InSql, name="sums", version=2):
    factor = 10


class InBoth(SqlProjection, name="base", dialect=("sqlite", "postgresql")):
    tables = {
        "rows": (
            """
            CREATE TABLE {rows} (
                counter TEXT PRIMARY KEY, total INTEGER NOT NULL, events INTEGER NOT NULL
            )
            """,
            "CREATE INDEX {rows:by_total} ON {rows} (total)",
        )
    }
    factor = 1

    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        await sql.run(
            "INSERT INTO {rows} VALUES (?, ?, 1) ON CONFLICT (counter) DO UPDATE SET "
            "total = {rows}.total + excluded.total, events = {rows}.events + 1",
            (meta.id, event.amount * self.factor),
        )
        see(meta)

    @projects
    async def emptied(self, event: Emptied, meta: Meta, sql: AsyncSql) -> None:
        await sql.run("DELETE FROM {rows} WHERE counter = ?", (meta.id,))


class ParkingInBoth(InBoth, name="sums", version=1, on_poison="park"):
    pass


class StoppingInBoth(InBoth, name="sums", version=1):
    pass


class TenfoldInBoth(InBoth, name="sums", version=2):
    factor = 10


class Outside(Sink, name="base"):
    async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
        for delivery in batch:
            see(delivery.meta)
            event = delivery.event
            amount = event.amount if isinstance(event, Added) else 0
            RECEIVED[delivery.position] = delivery.meta.id, amount


class ParkingOutside(Outside, name="sums", version=1, on_poison="park"):
    pass


class StoppingOutside(Outside, name="sums", version=1):
    pass


class AnewOutside(Outside, name="sums", version=2):
    pass


class Tenfold(Base, name="sums", version=2):
    rows: Table[Sum]
    factor = 10


class Sliced(Base, name="sums", version=1, slices=4):
    rows: Table[Sum]


class SlicedAndParking(Base, name="sums", version=1, slices=4, on_poison="park"):
    rows: Table[Sum]


class Kind(NamedTuple):
    """One kind of projection, which does with counters what the others do."""

    stopping: type[Projection]
    parking: type[Projection]
    tenfold: type[Projection]
    """Its second version."""
    handler: str


TABLES = Kind(Stopping, Parking, Tenfold, "added")


IN_SQL = Kind(StoppingInSql, ParkingInSql, TenfoldInSql, "added")


IN_BOTH = Kind(StoppingInBoth, ParkingInBoth, TenfoldInBoth, "added")
"""The same in SQL that both databases understand, with handlers that wait."""


OUTSIDE = Kind(StoppingOutside, ParkingOutside, AnewOutside, "deliver")


def summing(projection: type[Projection], store: str, **options: Any) -> Engine:
    @answers(projections=[projection])
    async def all_sums(query: SumOfThem, views: Views) -> list[Sum]:
        if issubclass(projection, Sink):
            return received()
        if issubclass(projection, SqlProjection):
            return await views.sql("SELECT * FROM sums_rows ORDER BY counter", row=Sum)
        return await views.find(projection.rows)  # type: ignore[attr-defined]

    return Engine([Counter], projections=[projection], answers=[all_sums], store=store, **options)


def received() -> list[Sum]:
    """Give what the system outside makes of what it has got: what came twice counts once."""
    found: dict[str, Sum] = {}
    for _, (counter, amount) in sorted(RECEIVED.items()):
        row = found.get(counter) or Sum(counter, 0, 0)
        found[counter] = Sum(counter, row.total + amount, row.events + 1)
        if not amount:
            del found[counter]
    return list(found.values())


async def add(engine: Engine, *counters: str) -> int:
    """Add 1 to counters, in order; give the position of the last event."""
    receipts = [await engine.execute(Add(counter, 1)) for counter in counters]
    return receipts[-1].position


async def sums(engine: Engine, at: int | None = None) -> dict[str, int]:
    return {row.counter: row.total for row in await engine.query(SumOfThem(), at=at)}


async def status(engine: Engine) -> Status:
    return await engine.projections.status("sums")


@asynccontextmanager
async def filled(
    projection: type[Projection], store: str, *counters: str, **options: Any
) -> AsyncGenerator[Engine]:
    async with summing(projection, store, **options) as engine:
        position = await add(engine, *counters)
        await engine.query(SumOfThem(), at=position)
        yield engine


async def rebuilt(engine: Engine) -> None:
    """Wait until no build is on its way."""
    async with asyncio.timeout(20):
        while (await status(engine)).building is not None:
            await asyncio.sleep(0)


SECONDS = 10


class Failing:
    """A failpoint that lets the disk be full at a step, so many times; or what does not pass."""

    def __init__(self, *, passes: bool = True) -> None:
        self.passes = passes
        self.at = ""
        self.times = 0

    def __call__(self, name: str) -> None:
        if name == self.at and self.times:
            self.times -= 1
            if self.passes:
                raise apsw.FullError("the disk is full")
            raise apsw.SQLError("somebody has dropped a table")

    def next(self, at: str, times: int = 1) -> None:
        self.at, self.times = at, times

    @property
    def ports(self) -> Ports:
        return Ports(failpoint=self)


class Gate:
    """Holds one method of the views until it is let go."""

    def __init__(self, engine: Engine, method: str, *, after: bool = False) -> None:
        self._call = getattr(engine._views, method)
        self._after = after
        self._open = asyncio.Event()
        self.reached = asyncio.Event()
        setattr(engine._views, method, self._held)

    async def _held(self, *args: Any) -> Any:
        result = await self._call(*args) if self._after else None
        self.reached.set()
        await self._open.wait()
        return result if self._after else await self._call(*args)

    def let_go(self) -> None:
        self._open.set()


def work_of(engine: Engine) -> ProjectionRunner:
    return engine._wiring.projecting["sums"]


def building_state(engine: Engine) -> str | None:
    building = engine.statistics().projectors["sums"].building
    return None if building is None else building.state
