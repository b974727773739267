"""What an answer is seen to read counts, whether it names it or not; and `at` is of this log."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from engine import (
    Engine,
    InvalidInput,
    Limits,
    Onlooker,
    Overloaded,
    Projection,
    ProjectionLag,
    Query,
    Receipt,
    Row,
    Table,
    Views,
    answers,
    projects,
)
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.counters import Add, Added, Counter
from tests.support.waiting import until


class Sum(Row, key="name", search=["words"]):
    name: str
    total: int = 0
    words: str = "all of them"


class Named(Projection, name="named", version=1):
    rows: Table[Sum]

    @projects
    def added(self, event: Added) -> None:
        """Nothing of it is kept."""


class Forgotten(Projection, name="forgotten", version=1):
    rows: Table[Sum]

    @projects
    def added(self, event: Added) -> None:
        row = self.rows.get("all") or Sum("all")
        self.rows.put(Sum("all", row.total + event.amount))


class Total(Query[int]):
    how: str


class Slow(Query[int]):
    pass


HOW = ("get", "find", "search", "count", "sql", "joined", "below")


@answers(projections=[Named])
async def total(query: Total, views: Views) -> int:
    """Read what the decorator does not name."""
    await views.get(Named.rows, "any")
    match query.how:
        case "get":
            row = await views.get(Forgotten.rows, "all")
            return 0 if row is None else row.total
        case "find":
            return sum(row.total for row in await views.find(Forgotten.rows))
        case "search":
            return sum(row.total for row in await views.search(Forgotten.rows, "them"))
        case "count":
            return await views.count(Forgotten.rows, where={"total": 1})
    statement = {
        "sql": "SELECT coalesce(sum(total), 0) FROM Forgotten_Rows",
        "joined": "WITH f AS (SELECT * FROM forgotten_rows) SELECT coalesce(sum(f.total), 0) "
        "FROM f LEFT JOIN named_rows n ON n.name = f.name",
        "below": "SELECT coalesce((SELECT max(total) FROM forgotten_rows WHERE total > ?), 0)",
    }[query.how]
    parameters = (0,) if "?" in statement else ()
    return int((await views.sql(statement, parameters))[0][0])


def summed(store: str = "memory:", **options: Any) -> Engine:
    return Engine(
        [Counter], projections=[Named, Forgotten], answers=[total], store=store, **options
    )


@pytest.mark.parametrize("how", HOW)
async def test_a_query_at_a_receipt_sees_it_in_all_that_it_reads(how: str) -> None:
    async with summed() as engine:
        await engine.projections.pause("forgotten")
        receipt = await engine.execute(Add("a", 1))
        with pytest.raises(ProjectionLag, match="forgotten is 1 behind, at 0"):
            await engine.query(Total(how), at=receipt, timeout=0.5)
        waiting = asyncio.ensure_future(engine.query(Total(how), at=receipt))
        await asyncio.sleep(0)
        await engine.projections.resume("forgotten")

        assert await waiting == 1


@pytest.mark.parametrize("how", HOW)
async def test_who_watches_is_told_of_changes_in_all_that_is_read(how: str) -> None:
    async with summed() as engine, aclosing(engine.watch(Total(how))) as watched:
        assert await anext(watched) == 0
        await engine.execute(Add("a", 1))
        async with asyncio.timeout(5):
            assert await anext(watched) == 1


async def test_the_first_answer_to_who_watches_at_a_receipt_sees_it_in_all() -> None:
    async with summed() as engine:
        await engine.projections.pause("forgotten")
        receipt = await engine.execute(Add("a", 1))
        late = engine.watch(Total("sql"), at=receipt, timeout=0.5)
        with pytest.raises(ProjectionLag, match="forgotten"):
            await anext(late)
        await engine.projections.resume("forgotten")
        async with aclosing(engine.watch(Total("sql"), at=receipt)) as watched:
            assert await anext(watched) == 1
            assert watched.position == receipt.position


async def test_an_onlooker_waits_for_all_that_is_read(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    looking = Onlooker(projections=[Named, Forgotten], answers=[total], store=store)
    async with summed(store) as engine, looking as onlooker:
        await engine.projections.pause("forgotten")
        receipt = await engine.execute(Add("a", 1))
        with pytest.raises(ProjectionLag, match="forgotten"):
            await onlooker.query(Total("below"), at=receipt, timeout=0.3)
        await engine.projections.resume("forgotten")

        assert await onlooker.query(Total("below"), at=receipt) == 1


@pytest.mark.parametrize("when", ["before it reads", "behind its first read"])
async def test_what_is_taken_back_while_it_is_answered_is_not_given(when: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @answers(projections=[Named])
    async def slow(query: Total, views: Views) -> int:
        rows = [] if when == "before it reads" else await views.find(Forgotten.rows)
        begun.set()
        await go_on.wait()
        if when == "before it reads":
            rows = await views.find(Forgotten.rows)
        return sum(row.total for row in rows)

    async with Engine([Counter], projections=[Named, Forgotten], answers=[slow]) as engine:
        receipt = await engine.execute(Add("a", 1))
        go_on.set()
        assert await engine.query(Total("get"), at=receipt) == 1
        begun.clear()
        go_on.clear()
        asking = asyncio.ensure_future(engine.query(Total("get"), at=receipt, timeout=1))
        await begun.wait()
        await engine.projections.pause("forgotten")
        await engine.projections.reset("forgotten")
        go_on.set()

        with pytest.raises(ProjectionLag, match="forgotten is 1 behind, at 0"):
            await asking


async def test_queries_wait_while_the_tables_are_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied, go_on = asyncio.Event(), asyncio.Event()

    async with summed() as engine:
        receipt = await engine.execute(Add("a", 1))
        assert await engine.query(Total("get"), at=receipt) == 1
        reset = engine._views.reset

        async def held(*arguments: Any) -> None:
            await reset(*arguments)
            emptied.set()
            await go_on.wait()

        monkeypatch.setattr(engine._views, "reset", held)
        resetting = asyncio.ensure_future(engine.projections.reset("forgotten"))
        await emptied.wait()
        assert await engine.query(Total("get")) == 0
        asking = asyncio.ensure_future(engine.query(Total("get"), at=receipt))
        await asyncio.sleep(0)
        go_on.set()
        await resetting

        assert await asking == 1


async def test_what_is_missing_for_a_moment_only_is_no_answer_either() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @answers
    async def strict(query: Total, views: Views) -> int:
        begun.set()
        await go_on.wait()
        row = await views.get(Forgotten.rows, "all")
        if row is None:
            raise LookupError("there is no such row")
        return row.total

    async with Engine([Counter], projections=[Forgotten], answers=[strict]) as engine:
        receipt = await engine.execute(Add("a", 1))
        asking = asyncio.ensure_future(engine.query(Total("get"), at=receipt))
        await begun.wait()
        await engine.projections.pause("forgotten")
        await engine.projections.reset("forgotten")
        go_on.set()
        with pytest.raises(ProjectionLag, match="forgotten is 1 behind, at 0"):
            await asking
        with pytest.raises(LookupError):
            await engine.query(Total("get"))


async def test_who_watches_is_told_no_position_that_was_taken_back(tmp_path: Any) -> None:
    """One answer has the only place, so that the tables are emptied before the other reads."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @answers
    async def slow(query: Slow, views: Views) -> int:
        await views.count(Named.rows)
        begun.set()
        await go_on.wait()
        return 0

    engine = Engine(
        [Counter],
        projections=[Named, Forgotten],
        answers=[total, slow],
        store=f"sqlite:{tmp_path}/log.db",
        limits=Limits(answers_at_once=1),
    )
    async with engine, asyncio.timeout(10):
        receipt = await engine.execute(Add("a", 1))
        assert await engine.query(Total("get"), at=receipt) == 1
        holding = asyncio.ensure_future(engine.query(Slow()))
        await begun.wait()
        some, other = engine.watch(Total("sql")), engine.watch(Total("find"), at=receipt)
        first, second = (asyncio.ensure_future(anext(watched)) for watched in (some, other))
        await until(lambda: engine.statistics().live.asks == 2)
        await engine.projections.pause("forgotten")
        await engine.projections.reset("forgotten")
        go_on.set()
        await holding
        assert (await first, some.position) == (0, 0)
        with pytest.raises(ProjectionLag, match="forgotten is 1 behind, at 0"):
            await second
        await engine.projections.resume("forgotten")
        assert await anext(some) == 1


# -- `at` ------------------------------------------------------------------------------------


@pytest.mark.parametrize("beyond", [1, 2**40, 2**62, 10**30])
async def test_a_position_that_the_log_has_not_is_refused_at_once(beyond: int) -> None:
    async with summed() as engine:
        receipt = await engine.execute(Add("a", 1))
        position = receipt.position + beyond
        forged = Receipt(receipt.stream, receipt.version, position)
        small = f"{position}, and the log ends at 1: it is no receipt of this log"
        said = small if position < 2**63 else f"up to {2**63 - 1}, not {position}"
        for at in (position, forged, forged.token):
            with pytest.raises(InvalidInput, match=said):
                await engine.query(Total("get"), at=at, timeout=60)
            with pytest.raises(InvalidInput, match=said):
                await anext(engine.watch(Total("get"), at=at, timeout=60))


@pytest.mark.parametrize("at", [-1, True, Receipt("a:b", 1, -7), Receipt("a:b", 1, -7).token])
async def test_what_is_no_position_is_refused(at: Any) -> None:
    async with summed() as engine:
        with pytest.raises(InvalidInput, match="a position is a whole number from 0 on"):
            await engine.query(Total("get"), at=at)


async def test_an_onlooker_refuses_it_at_once_too(tmp_path: Any) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    looking = Onlooker(projections=[Named, Forgotten], answers=[total], store=store)
    async with summed(store) as engine, looking as onlooker:
        receipt = await engine.execute(Add("a", 1))
        assert await onlooker.query(Total("get"), at=receipt) == 1
        with pytest.raises(InvalidInput, match="position 2, and the log ends at 1"):
            await onlooker.query(Total("get"), at=2, timeout=2)
        for path in tmp_path.glob("log.db*"):
            path.rename(f"{path}.away")
        # Where the end of the log is not known, it waits.
        with pytest.raises(ProjectionLag, match="named is 2 behind"):
            await onlooker.query(Total("get"), at=3, timeout=0.01)
        for path in tmp_path.glob("log.db*.away"):
            path.rename(str(path).removesuffix(".away"))
        with pytest.raises(InvalidInput, match="position 3, and the log ends at 1"):
            await onlooker.query(Total("get"), at=3, timeout=2)


async def test_how_many_wait_for_a_position_is_bounded() -> None:
    async with summed(limits=Limits(waits_at=2)) as engine:
        assert isinstance(engine._views, SqliteViews)
        release = await engine._views._shown.holds.begin(30)
        receipt = await engine.execute(Add("a", 1))
        asked = [asyncio.ensure_future(engine.query(Total("get"), at=receipt)) for _ in range(2)]
        await until(lambda: engine._wiring.answers._waits == 2)
        with pytest.raises(Overloaded, match=r"2 queries wait .* \(Limits\.waits_at\)"):
            await engine.query(Total("get"), at=receipt)
        assert await engine.query(Total("count")) == 0
        release()

        assert await asyncio.gather(*asked) == [1, 1]
        assert engine._wiring.answers._waits == 0
