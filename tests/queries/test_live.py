"""Live queries: the answer, each change of it, nothing missed, and nothing asked in vain."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from engine import (
    Closed,
    Engine,
    EngineFailed,
    Forbidden,
    Limits,
    LiveQuery,
    Meta,
    OutcomeUnknown,
    Overloaded,
    Ports,
    Projection,
    ProjectionLag,
    Query,
    Row,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.queries.answers import TORN_MAX
from engine.stores.contract.views import Changes, Part
from tests.support.counters import Add, Added, Counter, Empty
from tests.support.held_store import HeldStore, unknown
from tests.support.tallies import (
    AILING,
    GetTallies,
    GetTally,
    Tallies,
    Tally,
    get_tallies,
    get_tally,
)
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
_stages: list[Stage] = []


def now() -> Stage:
    return _stages[-1]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    _stages[:] = [Stage()]
    AILING.clear()
    STEP[0] = 1


@answers
async def get_pair(query: Pair, views: Views) -> tuple[int, int]:
    first = await views.get(Tallies.rows, "a")
    if now().between is not None:
        await now().between()
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

        [question] = engine._live._questions.values()
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


# -- those who watch the same ----------------------------------------------------------------


async def test_equal_queries_are_asked_once_for_all() -> None:
    async with watched() as engine:
        watchers = [Watcher(engine, GetTally("a")) for _ in range(100)]
        await until(lambda: all(w.seen == [None] for w in watchers))
        await add(engine, "a")
        await until(lambda: all(len(w.seen) == 2 for w in watchers))
        numbers = engine.statistics().live

        assert (numbers.asks, numbers.queries, numbers.watchers) == (2, 1, 100)
        assert {id(w.seen[1]) for w in watchers} == {id(watchers[0].seen[1])}
        assert {id(w.live.json) for w in watchers} == {id(watchers[0].live.json)}
        assert watchers[0].live.json == b'{"counter":"a","total":1,"events":1}'
    for watcher in watchers:
        await watcher.end()


async def test_queries_are_the_same_only_where_an_answer_could_not_tell_them_apart() -> None:
    async with watched() as engine:
        await add(engine, "a", 1)
        queries = [IsRich("a", 1), IsRich("a", True), IsRich("a", 1.0), IsRich("b", 1)]
        watchers = [Watcher(engine, query) for query in [*queries, IsRich("a", 1)]]
        await until(lambda: all(w.seen for w in watchers))
        assert engine.statistics().live.queries == 4
        # What JSON cannot tell, Python can; and what is no JSON at all may be asked too.
        more = [Watcher(engine, IsRich("a", cents)) for cents in (Odd(), Odd())]
        await until(lambda: all(w.seen for w in more))

        assert engine.statistics().live.queries == 6


class Odd:
    """No JSON."""

    def __le__(self, other: object) -> bool:
        return True


async def test_who_joins_is_given_nothing_older_than_that() -> None:
    """An ask is under way when the second one comes; what it will bring is out of date."""
    async with watched() as engine:
        now().go.clear()
        first = Watcher(engine, Held())
        await within(now().read.wait())
        receipt = await engine.execute(Add("a", 5))
        await engine.query(GetTallies(), at=receipt)
        second = Watcher(engine, Held(), at=receipt)
        await settle()
        now().go.set()
        await second.sees(5)

        assert (first.seen[-1], second.positions) == (5, [receipt.position])


async def test_who_joins_a_settled_query_is_given_its_answer_without_an_ask() -> None:
    async with watched() as engine:
        await Watcher(engine, GetTally("a")).sees(None)
        await add(engine, "b")
        late = Watcher(engine, GetTally("a"))
        await late.sees(None)
        assert (late.positions, engine.statistics().live.asks) == ([1], 1)
        await add(engine, "b")

        assert (late.live.position, late.positions) == (2, [1])


async def test_an_ask_belongs_to_nobodys_context() -> None:
    async with watched() as engine:
        CALLER.set("ann")
        watcher = Watcher(engine, Held())
        await watcher.sees(0)
        await add(engine, "a")
        await watcher.sees(0, 1)

        assert now().seen == ["nobody", "nobody"]


# -- answers of two states -------------------------------------------------------------------


async def test_an_answer_that_has_seen_two_states_is_asked_again() -> None:
    """Both rows are changed by one commit; between two reads another one comes."""
    async with watched() as engine:
        changes = iter([1])

        async def between() -> None:
            for amount in changes:
                receipts = await asyncio.gather(
                    engine.execute(Add("a", amount)), engine.execute(Add("b", amount))
                )
                await engine.query(GetTallies(), at=max(r.position for r in receipts))

        now().between = between
        watcher = Watcher(engine, Pair())
        await watcher.sees((1, 1))

        assert engine.statistics().live.torn == 1


async def test_an_answer_that_never_sees_one_state_is_given_all_the_same() -> None:
    async with watched() as engine:

        async def between() -> None:
            receipt = await engine.execute(Add("b", 1))
            await engine.query(GetTallies(), at=receipt)

        now().between = between
        live = engine.watch(Pair())

        assert await within(anext(live)) == (0, TORN_MAX)
        assert engine.statistics().live.asks == TORN_MAX
        assert engine.statistics().live.torn == TORN_MAX - 1
        await live.aclose()


# -- at a position ---------------------------------------------------------------------------


async def test_at_a_receipt_the_first_answer_has_its_effect() -> None:
    async with watched() as engine:
        for amount in range(1, 6):
            receipt = await engine.execute(Add("a", 1))
            async with aclosing(engine.watch(GetTally("a"), at=receipt.token)) as live:
                assert await within(anext(live)) == Tally("a", amount, amount)
                assert live.position == receipt.position


async def test_at_a_position_that_does_not_come_it_says_who_lags() -> None:
    async with watched() as engine:
        AILING.add("a")
        receipt = await engine.execute(Add("a", 1))
        live = engine.watch(GetTally("a"), at=receipt, timeout=0.01)
        with pytest.raises(ProjectionLag, match="position 1"):
            await anext(live)
        with pytest.raises(StopAsyncIteration):
            await anext(live)

        assert engine.statistics().live.watchers == 0


# -- what goes wrong -------------------------------------------------------------------------


async def test_a_projection_that_stops_does_not_end_the_watch() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(None)
        AILING.add("a")
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["tallies"].state == "stopped")
        late = Watcher(engine, GetTally("a"))
        await late.sees(None)
        AILING.clear()
        engine.resume("tallies")
        await watcher.sees(None, Tally("a", 1, 1))
        await late.sees(None, Tally("a", 1, 1))


async def test_a_projection_that_is_reset_is_watched_as_it_is_folded_anew() -> None:
    async with watched() as engine:
        await add(engine, "a", 5)
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(Tally("a", 5, 1))
        AILING.add("a")
        await engine.projections.reset("tallies", reason="to see it empty")
        await watcher.sees(Tally("a", 5, 1), None)
        assert watcher.live.position == 0
        AILING.clear()
        engine.resume("tallies")
        await watcher.sees(Tally("a", 5, 1), None, Tally("a", 5, 1))


async def test_what_is_built_beside_concerns_nobody_until_it_serves() -> None:
    async with watched() as engine:
        await add(engine, "a", 5)
        watcher = Watcher(engine, GetEver())
        await watcher.sees(1)
        STEP[0] = 2
        due: list[int] = []

        def look(part: Part, changes: Changes | None) -> None:
            written(part, changes)
            if changes is not None:
                due.append(engine.statistics().live.due)

        written, engine._live.written = engine._live.written, look  # type: ignore[method-assign]
        await engine.projections.rebuild("evers")
        # Folded anew it is another one, and nothing else is written meanwhile.
        await watcher.sees(1, 2)

        assert due == [0]


async def test_a_write_that_failed_after_all_was_visible_is_seen() -> None:
    failing: list[bool] = []

    def fail(name: str) -> None:
        if name == "views.committed" and failing:
            failing.clear()
            raise OSError("the folding of the write-ahead log failed")

    async with watched(ports=Ports(failpoint=fail)) as engine:
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(None)
        failing.append(True)
        await engine.execute(Add("a", 5))
        await until(lambda: not failing)
        engine.resume("tallies")
        engine.resume("evers")
        await until(lambda: len(watcher.seen) == 2)
        assert watcher.seen[1] == Tally("a", 5, 1)


async def test_an_answer_that_fails_ends_the_watch_of_all_and_a_new_one_asks_anew() -> None:
    async with watched() as engine:
        watchers = [Watcher(engine, Broken()) for _ in range(3)]
        await until(lambda: all(w.seen == [7] for w in watchers))
        now().failing = True
        await add(engine, "a")
        for watcher in watchers:
            with pytest.raises(ValueError, match="broken") as caught:
                await watcher.end()
            assert sum(entry.name == "get_broken" for entry in caught.traceback) == 1
        now().failing = False
        assert engine.statistics().live.queries == 0
        await Watcher(engine, Broken()).sees(7)


async def test_an_answer_that_is_cancelled_from_inside_is_told_as_that() -> None:
    @answers
    async def cancelled(query: Broken, views: Views) -> int:
        raise asyncio.CancelledError

    async with Engine([Counter], answers=[cancelled]) as engine:
        with pytest.raises(UsageError, match="the answer to Broken was cancelled from inside"):
            await within(anext(engine.watch(Broken())))


async def test_a_query_that_nothing_answers_is_refused_at_the_call() -> None:
    async with Engine([Counter]) as engine:
        with pytest.raises(UsageError, match="no answer for GetTally"):
            engine.watch(GetTally("a"))


async def test_one_live_query_is_for_one_task() -> None:
    async with watched() as engine, aclosing(engine.watch(GetTally("a"))) as live:
        assert await anext(live) is None
        with pytest.raises(UsageError, match="has given no answer yet"):
            _ = engine.watch(GetTally("a")).json
        waiting = asyncio.ensure_future(anext(live))
        await settle()
        with pytest.raises(UsageError, match="in another task"):
            await anext(live)
        await add(engine, "a")

        assert await within(waiting) == Tally("a", 1, 1)


# -- the end ---------------------------------------------------------------------------------


async def test_it_ends_with_the_engine_after_what_was_not_seen_yet() -> None:
    async with watched() as engine:
        watcher = Watcher(engine, GetTally("a"))
        await watcher.sees(None)
        slow = engine.watch(GetTally("a"))
        assert await anext(slow) is None
        await add(engine, "a")
        await watcher.sees(None, Tally("a", 1, 1))
    await watcher.end()

    assert await anext(slow) == Tally("a", 1, 1)
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    with pytest.raises(Closed):
        engine.watch(GetTally("a"))


async def test_it_ends_while_its_answer_is_being_made() -> None:
    async with watched() as engine:
        now().go.clear()
        watcher = Watcher(engine, Held())
        await within(now().read.wait())
    await watcher.end()

    assert watcher.seen == []


async def test_a_failed_engine_ends_it_with_an_error() -> None:
    store = HeldStore()
    engine = watched(store=store)
    await engine.__aenter__()
    watcher = Watcher(engine, GetTally("a"))
    await watcher.sees(None)
    store.failures.append(unknown())
    with pytest.raises(OutcomeUnknown):
        await engine.execute(Add("a", 1))

    with pytest.raises(Closed, match="engine has failed"):
        await watcher.end()
    with pytest.raises(EngineFailed):
        await engine.__aexit__(None, None, None)


async def test_leaving_early_leaves_nothing_behind() -> None:
    async with watched() as engine:
        async with aclosing(engine.watch(GetTally("a"))) as live:
            assert await anext(live) is None
            waiting = asyncio.ensure_future(anext(live))
            await settle()
        with pytest.raises(StopAsyncIteration):
            await within(waiting)
        async for _ in engine.watch(Total()):
            break
        gc.collect()
        await settle()
        numbers = engine.statistics().live

        assert (numbers.queries, numbers.watchers, numbers.due) == (0, 0, 0)
        assert engine._live._interest.is_empty


async def test_who_leaves_during_the_ask_leaves_nothing_behind() -> None:
    async with watched() as engine:
        now().go.clear()
        watcher = Watcher(engine, Held())
        await within(now().read.wait())
        watcher.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watcher.task
        await watcher.live.aclose()
        assert engine.statistics().live.queries == 0
        now().go.set()
        await until(lambda: engine._live._interest.is_empty)


# -- the gate --------------------------------------------------------------------------------


async def test_a_denial_asks_nothing_and_a_yes_is_asked_for_once() -> None:
    asked: list[Any] = []

    def authorize(*question: Any) -> bool:
        asked.append(question)
        return "eve" not in question

    async with watched(authorize=authorize) as engine:
        with pytest.raises(Forbidden, match="query GetTally"):
            await anext(engine.watch(GetTally("a"), principal="eve"))
        assert engine.statistics().live.asks == 0
        watcher = Watcher(engine, GetTally("a"), principal="ann")
        await watcher.sees(None)
        await engine.execute(Add("a", 1), principal="ann")
        await watcher.sees(None, Tally("a", 1, 1))
        # It is shared by nobody who was not allowed to.
        with pytest.raises(Forbidden):
            await anext(engine.watch(GetTally("a"), principal="eve"))

    assert [question[:2] for question in asked] == [
        ("eve", "query"),
        ("ann", "query"),
        ("ann", "execute"),
        ("eve", "query"),
    ]


# -- limits ----------------------------------------------------------------------------------


async def test_watched_queries_bounds_the_different_ones() -> None:
    async with watched(limits=Limits(watched_queries=2)) as engine:
        watchers = [Watcher(engine, GetTally(name)) for name in ("a", "b", "b")]
        await until(lambda: all(w.seen for w in watchers))
        with pytest.raises(Overloaded, match=r"2 different queries .*Limits.watched_queries"):
            await anext(engine.watch(GetTally("c")))
        await watchers[0].live.aclose()
        await Watcher(engine, GetTally("c")).sees(None)


async def test_how_many_watch_is_bounded() -> None:
    async with watched(limits=Limits(watches=2)) as engine:
        watchers = [Watcher(engine, GetTally("a")) for _ in range(2)]
        await until(lambda: all(w.seen for w in watchers))
        for name in "ab":
            with pytest.raises(Overloaded, match=r"2 watch queries already \(Limits\.watches\)"):
                await anext(engine.watch(GetTally(name)))
        assert engine.statistics().live.queries == 1
        await watchers[0].live.aclose()
        await Watcher(engine, GetTally("b")).sees(None)


async def test_watched_rows_bounds_what_a_query_depends_on_one_by_one() -> None:
    async def asks_after_a_strange_row(limits: Limits) -> tuple[int, int]:
        async with watched(limits=limits) as engine:
            watcher = Watcher(engine, Several(4))
            await watcher.sees(0)
            noted = len(engine._live._interest._rows.get("tallies_rows", ()))
            await add(engine, "c-9")
            asks = engine.statistics().live.asks
            await add(engine, "c-3")
            await watcher.sees(0, 1)
            return noted, asks

    assert await asks_after_a_strange_row(Limits()) == (4, 1)
    assert await asks_after_a_strange_row(Limits(watched_rows=3)) == (3, 2)


async def test_asks_at_once_bounds_the_asks_under_way() -> None:
    async def under_way(limits: Limits) -> int:
        _stages.append(Stage())
        async with watched(limits=limits) as engine:
            now().go.clear()
            watchers = [Watcher(engine, Held(f"{n}")) for n in range(6)]
            await within(now().read.wait())
            await until(lambda: len(now().seen) >= min(6, limits.asks_at_once))
            await settle()
            begun = len(now().seen)
            assert engine.statistics().live.due == 6 - begun
            now().go.set()
            await until(lambda: all(w.seen == [0] for w in watchers))
            return begun

    assert await under_way(Limits(asks_at_once=2)) == 2
    assert await under_way(Limits()) == 6


async def test_ask_seconds_bounds_an_answer() -> None:
    async with watched(limits=Limits(ask_seconds=1)) as engine:
        now().go.clear()
        with pytest.raises(TimeoutError, match=r"longer than 1 s \(Limits.ask_seconds\)"):
            await within(anext(engine.watch(Held())))
