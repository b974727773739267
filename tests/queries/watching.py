"""Live queries on counters: a stage where answers wait, count their asks and fail, and a watcher.

The stage is anew for each test of this room (`conftest.py`).
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from engine import Engine, LiveQuery, Meta, Projection, Query, Row, Table, Views, answers, projects
from tests.queries.ledger import beside
from tests.support.counters import Add, Added, Counter
from tests.support.tallies import GetTallies, Tallies, get_tallies, get_tally
from tests.support.waiting import settle, until


class Ever(Row, key="name"):
    name: str
    events: int


STEP = [1]
"""What an event counts for."""


class Evers(Projection, name="evers", version=1):
    """Another projection of the same events, in tables of its own."""

    rows: Table[Ever]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get("all") or Ever("all", 0)
        self.rows.put(Ever("all", row.events + STEP[0]))


class Pair(Query[tuple[int, int]]):
    """Reads two rows that change together, the second when it may."""


class Total(Query[int]):
    of: str = "rows"


class GetEver(Query[int]):
    pass


class IsRich(Query[bool]):
    counter: str
    cents: Any = 10


class Several(Query[int]):
    """Reads single rows, so many."""

    count: int


class Held(Query[int]):
    """Reads, and then waits."""

    name: str = ""


class Broken(Query[int]):
    pass


class Stage:
    """What the answers of these tests do and wait for."""

    def __init__(self) -> None:
        self.asked: list[Query[Any]] = []
        self.failing = False
        self.read = asyncio.Event()
        """Something was read."""
        self.go = asyncio.Event()
        self.go.set()
        self.seen: list[str] = []
        self.between: Any = None
        """Called between two reads."""


CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


stages: list[Stage] = []


def now() -> Stage:
    return stages[-1]


@answers
async def get_pair(query: Pair, views: Views) -> tuple[int, int]:
    first = await views.get(Tallies.rows, "a")
    if now().between is not None:
        await beside(now().between)
    second = await views.get(Tallies.rows, "b")
    return (0 if first is None else first.total, 0 if second is None else second.total)


@answers(projections=[Tallies])
async def get_total(query: Total, views: Views) -> int:
    now().asked.append(query)
    if query.of == "count":
        return await views.count(Tallies.rows)
    if query.of == "sql":
        rows = await views.sql("SELECT coalesce(sum(total), 0) FROM tallies_rows")
        return int(rows[0][0])
    return sum(row.total for row in await views.find(Tallies.rows))


@answers
async def get_ever(query: GetEver, views: Views) -> int:
    row = await views.get(Evers.rows, "all")
    return 0 if row is None else row.events


@answers
async def is_rich(query: IsRich, views: Views) -> bool:
    row = await views.get(Tallies.rows, query.counter)
    return row is not None and row.total >= query.cents


@answers
async def get_several(query: Several, views: Views) -> int:
    rows = [await views.get(Tallies.rows, f"c-{n}") for n in range(query.count)]
    return sum(row.total for row in rows if row is not None)


@answers
async def get_held(query: Held, views: Views) -> int:
    now().seen.append(CALLER.get())
    row = await views.get(Tallies.rows, "a")
    now().read.set()
    await now().go.wait()
    return 0 if row is None else row.total


@answers
async def get_broken(query: Broken, views: Views) -> int:
    await views.get(Tallies.rows, "a")
    if now().failing:
        raise ValueError("broken")
    return 7


def watched(**options: Any) -> Engine:
    """Give an engine of counters with their tallies, and all answers of these tests."""
    return Engine(
        [Counter],
        projections=[Tallies, Evers],
        answers=[
            *(get_tally, get_tallies, get_pair, get_total, get_ever),
            *(is_rich, get_several, get_held, get_broken),
        ],
        **options,
    )


class Watcher:
    """Watches in a task of its own, and keeps what came."""

    def __init__(self, engine: Engine, query: Query[Any], **options: Any) -> None:
        self.seen: list[Any] = []
        self.positions: list[int] = []
        self.live = engine.watch(query, **options)
        self.task = asyncio.ensure_future(self._run(self.live))

    async def _run(self, live: LiveQuery[Any]) -> None:
        async for answer in live:
            self.seen.append(answer)
            self.positions.append(live.position)

    async def end(self) -> None:
        """Wait until the watch has ended; one that does not is told as one."""
        async with asyncio.timeout(5):
            await self.task

    async def sees(self, *expected: Any) -> None:
        await until(lambda: len(self.seen) >= len(expected))
        assert self.seen == list(expected)


async def add(engine: Engine, counter: str, amount: int = 1) -> None:
    """Add, and return when the views have it."""
    receipt = await engine.execute(Add(counter, amount))
    await engine.query(GetTallies(), at=receipt)
    await settle()


async def within(coroutine: Any) -> Any:
    async with asyncio.timeout(5):
        return await coroutine
