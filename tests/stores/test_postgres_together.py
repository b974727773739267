"""Answers that begin with one row at one moment read it together, and are told what each would be.

The tables of the second projection can be locked, so that who reads them stands still.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from engine import Engine, Limits, Query, Receipt, Views, answers
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tallies, Tally

asyncpg: Any = importlib.import_module("asyncpg")


class Second(Tallies, name="second", version=1):
    pass


@answers(projections=[Tallies])
async def get_tally(query: GetTally, views: Views) -> Tally | None:
    return await views.get(Tallies.rows, query.counter)


class GetSecond(Query[Tally | None]):
    counter: str


@answers(projections=[Second])
async def get_second(query: GetSecond, views: Views) -> Tally | None:
    return await views.get(Second.rows, query.counter)


class Sum(msgspec.Struct):
    total: int


class Twice(Query[tuple[int, int]]):
    counter: str


@pytest.fixture
def schema(postgres: Server) -> str:
    return postgres.new_schema()


@asynccontextmanager
async def opened(
    postgres: Server, schema: str, *more: Any, limits: Limits | None = None
) -> AsyncGenerator[Engine]:
    made = Engine(
        [Counter],
        projections=[Tallies, Second],
        answers=[get_tally, get_second, *more],
        store=postgres.url(schema),
        limits=limits,
    )
    async with made as engine, asyncio.timeout(60):
        yield engine


async def add(engine: Engine, counter: str, amount: int) -> Receipt:
    receipt = await engine.execute(Add(counter, amount))
    await engine.query(GetTally(counter), at=receipt)
    await engine.query(GetSecond(counter), at=receipt)
    return receipt


async def test_rows_of_one_moment_are_read_on_one_connection(postgres: Server, schema: str) -> None:
    async with opened(postgres, schema) as engine:
        for number in range(5):
            await add(engine, f"c{number}", number + 1)
        watching = await asyncpg.connect(postgres.url(schema).partition("?")[0])
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        before = await watching.fetchval(count)

        asked = [GetTally(f"c{n % 6}") for n in range(60)]
        found = await asyncio.gather(*map(engine.query, asked))

        assert [None if one is None else one.total for one in found] == [1, 2, 3, 4, 5, None] * 10
        assert found[0] is not found[6], "each answer has its own row"
        assert await watching.fetchval(count) <= before + 1
        await watching.close()


async def test_who_reads_on_stays_in_the_state_of_the_first_read(
    postgres: Server, schema: str
) -> None:
    """Whether others of the group are still there, or this one is the last."""
    go_on = [asyncio.Event() for _ in range(3)]
    begun: list[str] = []

    @answers
    async def twice(query: Twice, views: Views) -> tuple[int, int]:
        number = len(begun)
        begun.append(query.counter)
        row = await views.get(Tallies.rows, query.counter)
        assert row is not None
        await go_on[number].wait()
        if number % 2:
            (sums,) = await views.sql("SELECT sum(total) AS total FROM tallies_rows", row=Sum)
            return row.total, sums.total
        return row.total, (await views.find(Tallies.rows))[0].total

    async with opened(postgres, schema, twice) as engine:
        await add(engine, "a", 1)
        asking = [asyncio.ensure_future(engine.query(Twice("a"))) for _ in go_on]
        # Behind those, so that their rows were read when its own was.
        await engine.query(GetTally("a"))
        await add(engine, "a", 10)
        for one, event in zip(asking, go_on, strict=True):
            event.set()
            assert await one == (1, 1)
        assert (await engine.query(GetTally("a"))) == Tally("a", 11, 2)


async def test_who_asks_behind_a_commit_is_given_it_while_others_still_read(
    postgres: Server, schema: str
) -> None:
    async with opened(postgres, schema) as engine:
        await add(engine, "a", 1)
        await engine.projections.pause("second")
        locking = await asyncpg.connect(postgres.url(schema).partition("?")[0])
        ((name,),) = await locking.fetch(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname = $1 AND tablename LIKE 'second\\_rows\\_%'",
            f"{schema}_views",
        )
        async with locking.transaction():
            await locking.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
            held = asyncio.ensure_future(engine.query(GetSecond("a")))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not await locking.fetchval(waits):
                await asyncio.sleep(0)
            receipt = await engine.execute(Add("a", 10))
            seen = await engine.query(GetTally("a"), at=receipt)
            assert seen == Tally("a", 11, 2)
            assert not held.done()
        assert await held == Tally("a", 1, 1)
        await locking.close()


async def test_a_key_that_the_server_refuses_harms_no_other_answer(
    postgres: Server, schema: str
) -> None:
    async with opened(postgres, schema) as engine:
        await add(engine, "a", 1)
        try:
            alone: object = await engine.query(GetTally("\0"))
        except Exception as error:
            alone = type(error)
        asked = [GetTally("a"), GetTally("\0"), GetTally("a")]

        found = await asyncio.gather(*map(engine.query, asked), return_exceptions=True)

        assert found[0] == found[2] == Tally("a", 1, 1)
        assert found[1] == alone or type(found[1]) is alone


async def test_who_gives_up_while_a_group_stands_still_takes_its_connection_along(
    postgres: Server, schema: str
) -> None:
    """Else nobody could read any more, as soon as so many stand still as read at a time."""
    async with opened(postgres, schema) as engine:
        await add(engine, "a", 1)
        await engine.projections.pause("second")
        locking = await asyncpg.connect(postgres.url(schema).partition("?")[0])
        ((name,),) = await locking.fetch(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname = $1 AND tablename LIKE 'second\\_rows\\_%'",
            f"{schema}_views",
        )
        async with locking.transaction():
            await locking.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            for _ in range(3):
                held = asyncio.ensure_future(engine.query(GetSecond("a")))
                while not await locking.fetchval(waits):
                    await asyncio.sleep(0)
                held.cancel()
                await asyncio.wait([held])
                while await locking.fetchval(waits):
                    await asyncio.sleep(0)
            assert await engine.query(GetTally("a")) == Tally("a", 1, 1)
        await locking.close()
