"""Live queries: the answer, each change of it, nothing missed, and nothing asked in vain."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from engine import Engine, Views, answers
from tests.queries.watching import Broken, Held, IsRich, Total, Watcher, add, now, watched, within
from tests.support.counters import Add, Counter, Empty
from tests.support.tallies import GetTallies, GetTally, Tallies, Tally, get_tallies
from tests.support.waiting import settle, until

# -- answers and changes ---------------------------------------------------------------------


async def test_the_answer_comes_at_once_and_then_each_change_of_it() -> None:
    async with watched() as engine:
        await add(engine, "a", 3)
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(Tally("a", 3, 1))
        await add(engine, "a", 4)
        await watcher.sees(Tally("a", 3, 1), Tally("a", 7, 2))
        receipt = await engine.execute(Empty("a"))
        await engine.query(GetTallies(), at=receipt)
        await watcher.sees(Tally("a", 3, 1), Tally("a", 7, 2), None)

        assert watcher.positions == [1, 2, 3]
    await watcher.end()


async def test_the_position_told_with_an_answer_is_in_it_and_the_last_answer_has_all() -> None:
    """Every event adds one, so an answer that contains a position is no less than that."""
    async with watched() as engine:
        watchers = [Watcher(engine, query) for query in (Total(), Total("count"), Total("sql"))]
        for _ in range(20):
            await asyncio.gather(*(engine.execute(Add(f"c-{n}", 1)) for n in range(10)))
        await until(lambda: all(w.live.position == 200 for w in watchers))
        for watcher in watchers[::2]:
            assert watcher.seen[-1] == 200
            assert all(p <= seen for p, seen in zip(watcher.positions, watcher.seen, strict=True))
            assert watcher.positions == sorted(watcher.positions)
        assert watchers[1].seen[-1] == 10


async def test_what_changes_between_the_first_read_and_the_first_answer_is_not_missed() -> None:
    async with watched() as engine:
        now().go.clear()
        watcher = Watcher(engine, Held())
        await within(now().read.wait())
        await add(engine, "a", 5)
        now().go.set()
        await until(lambda: watcher.seen[-1:] == [5])

        assert watcher.seen in ([0, 5], [5])
        assert watcher.positions[0] == 0


async def test_what_changes_during_a_later_ask_asks_once_more() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, Held())
        await watcher.sees(0)
        now().go.clear()
        now().read.clear()
        await engine.execute(Add("a", 1))
        await within(now().read.wait())
        await add(engine, "a", 1)
        await add(engine, "a", 1)
        now().go.set()
        await watcher.sees(0, 1, 3)

        assert engine.statistics().live.asks == 3


async def test_an_ask_happens_only_where_something_that_was_read_has_changed() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(None)
        await add(engine, "b")
        await add(engine, "c")
        assert engine.statistics().live.asks == 1
        await add(engine, "a")
        await watcher.sees(None, Tally("a", 1, 1))

        assert engine.statistics().live.asks == 2


@pytest.mark.parametrize("how", ["rows", "count", "sql"])
async def test_who_reads_more_than_single_rows_depends_on_the_table(how: str) -> None:
    async with watched() as engine:
        watcher = Watcher(engine, Total(how))
        await watcher.sees(0)
        await add(engine, "a")
        await watcher.sees(0, 1)
        await add(engine, "b")
        await watcher.sees(0, 1, 2)


async def test_sql_depends_on_the_tables_that_it_reads_and_no_others() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, Total("sql"))
        await watcher.sees(0)

        [question] = engine._wiring.live._questions.values()
        assert question.tables == {"tallies_rows"}
        assert question.projections == ("tallies",)


async def test_what_an_answer_reads_no_more_concerns_it_no_more() -> None:
    @answers
    async def get_first(query: Broken, views: Views) -> int:
        first = await views.get(Tallies.rows, "a")
        return -1 if first is not None else await views.count(Tallies.rows)

    engine = Engine([Counter], projections=[Tallies], answers=[get_first, get_tallies])
    async with engine:
        watcher = Watcher(engine, Broken())
        await watcher.sees(0)
        await add(engine, "b")
        await watcher.sees(0, 1)
        await add(engine, "a")
        await watcher.sees(0, 1, -1)
        asks = engine.statistics().live.asks
        await add(engine, "b")

        assert engine.statistics().live.asks == asks


async def test_an_answer_that_equals_the_one_before_is_not_given_again() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, IsRich("a"))

        async def answered(count: int) -> None:
            await until(lambda: len(watcher.seen) + engine.statistics().live.unchanged == count)

        await answered(1)
        for count in (2, 3, 4):
            await add(engine, "a", 5)
            await answered(count)

        assert watcher.seen == [False, True]
        assert engine.statistics().live.unchanged == 2


# -- those who are slow ----------------------------------------------------------------------


async def test_who_is_slow_is_given_the_newest_answer_and_costs_no_asks_meanwhile() -> None:
    async with watched() as engine, aclosing(engine.watch(GetTally("a"))) as live:
        assert await anext(live) is None
        for _ in range(20):
            await add(engine, "a")

        assert engine.statistics().live.asks == 1
        assert await anext(live) == Tally("a", 20, 20)
        assert (live.position, engine.statistics().live.asks) == (20, 2)


async def test_who_is_slow_is_not_given_what_he_has_when_it_comes_back() -> None:
    """Another one, who is fast, has seen what was between."""
    async with watched() as engine, aclosing(engine.watch(IsRich("a"))) as slow:
        assert await anext(slow) is False
        fast = Watcher(engine, IsRich("a"))
        await fast.sees(False)
        await add(engine, "a", 10)
        await fast.sees(False, True)
        receipt = await engine.execute(Empty("a"))
        await engine.query(GetTallies(), at=receipt)
        await fast.sees(False, True, False)
        waiting = asyncio.ensure_future(anext(slow))
        await settle()
        assert not waiting.done()
        await add(engine, "a", 20)

        assert await within(waiting) is True


async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async with watched() as engine, aclosing(engine.watch(GetTally("a"))) as live:
        assert await anext(live) is None
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(live))
            await settle()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await add(engine, "a")

        assert await within(anext(live)) == Tally("a", 1, 1)
