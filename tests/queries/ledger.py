"""A ledger that is read in every way, and answers between whose reads something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from pathlib import Path
from typing import Any

from engine import Engine, Meta, Projection, Query, Row, Table, Views, answers, projects
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.counters import Add, Added, Counter


class Entry(Row, key="name", index=["total"], search=["words"]):
    name: str
    total: int
    words: str = ""


LARGE = 1_000


class Ledger(Projection, name="ledger", version=1):
    """Each event is entered in two rows, whose sum is 0 at any time; but for large amounts."""

    rows: Table[Entry]

    @projects
    def added(self, event: Added) -> None:
        if event.amount >= LARGE:
            return
        for name, sign in (("left", 1), ("right", -1)):
            row = self.rows.get(name) or Entry(name, 0)
            total = row.total + sign * event.amount
            self.rows.put(Entry(name, total, f"stands at {abs(total)}"))


class Mirror(Projection, name="mirror", version=1):
    """Another projection of the same events."""

    rows: Table[Entry]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Entry(f"at {meta.position}", event.amount))


class Twice(Query[tuple[Any, Any]]):
    """Reads in one way, and then in another."""

    first: str
    second: str


class Now(Query[int]):
    """The total on the left."""


READS: dict[str, Callable[[Views], Awaitable[Any]]] = {}


Read = Callable[[Views], Awaitable[Any]]


def reads(name: str) -> Callable[[Read], Read]:
    def keep(read: Read) -> Read:
        READS[name] = read
        return read

    return keep


@reads("get")
async def get(views: Views) -> int:
    row = await views.get(Ledger.rows, "left")
    return 0 if row is None else row.total


@reads("find")
async def find(views: Views) -> int:
    rows = await views.find(Ledger.rows, where={"name": "right"})
    return -rows[0].total if rows else 0


@reads("sql")
async def sql(views: Views) -> int:
    found = await views.sql("SELECT coalesce(max(total), 0) FROM ledger_rows")
    return int(found[0][0])


@reads("search")
async def search(views: Views) -> int:
    rows = await views.search(Ledger.rows, "stands")
    return max((row.total for row in rows), default=0)


@reads("other")
async def count(views: Views) -> int:
    return await views.count(Mirror.rows)


BETWEEN: list[Callable[[], Coroutine[Any, Any, None]]] = []
"""What happens between the first read of `Twice` and the second."""


async def beside(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do what somebody else does meanwhile: not inside of the answer."""
    await asyncio.get_running_loop().create_task(call(), context=Context())


@answers
async def twice(query: Twice, views: Views) -> tuple[Any, Any]:
    first = await READS[query.first](views)
    for call in BETWEEN:
        await beside(call)
    return first, await READS[query.second](views)


@answers
async def total_now(query: Now, views: Views) -> int:
    return int(await get(views))


def ledger(folder: Path, **options: Any) -> Engine:
    return Engine(
        [Counter],
        projections=[Ledger, Mirror],
        answers=[twice, total_now],
        store=f"sqlite:{folder}/log.db",
        **options,
    )


def views_of(engine: Engine) -> SqliteViews:
    assert isinstance(engine._views, SqliteViews)
    return engine._views


async def add(engine: Engine, amount: int) -> None:
    receipt = await engine.execute(Add("a", amount))
    await engine.query(Now(), at=receipt)


async def nobody_reads(engine: Engine) -> None:
    """End the transaction that the next answer would join."""
    states = views_of(engine)._shown._states
    assert states is not None
    await states.lanes[0].calls.run(states.lanes[0].nothing, lambda _: None)


async def begin_slow(engine: Engine) -> tuple[asyncio.Future[Any], asyncio.Event]:
    """Begin an answer that has read once; it reads again, and is done, when the event is set."""
    has_read, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        has_read.set()
        await go_on.wait()

    BETWEEN.append(wait)
    slow = asyncio.ensure_future(engine.query(Twice("get", "sql")))
    await has_read.wait()
    return slow, go_on
