"""Live queries where projections or answers fail, at the end, at the gate, and at their limits."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from typing import Any
from unittest.mock import patch

import pytest

from engine import (
    Closed,
    Engine,
    EngineFailed,
    Forbidden,
    Limits,
    OutcomeUnknown,
    Overloaded,
    Ports,
    Query,
    Row,
    UsageError,
    Views,
    answers,
)
from engine.runtime.safely import HostFailed
from engine.stores.contract.views import Changes, Checkpoint, Part
from tests.queries.watching import (
    STEP,
    Broken,
    GetEver,
    Held,
    Several,
    Stage,
    Total,
    Watcher,
    add,
    now,
    stages,
    watched,
    within,
)
from tests.support.counters import Add, Counter
from tests.support.held_store import HeldStore, unknown
from tests.support.tallies import AILING, GetTally, Tallies, Tally
from tests.support.waiting import settle, until

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
        await engine.projections.resume("tallies")
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
        await engine.projections.resume("tallies")
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

        written, engine._wiring.live.written = engine._wiring.live.written, look  # type: ignore[method-assign]
        await engine.projections.rebuild("evers")
        # Folded anew it is another one, and nothing else is written meanwhile.
        await watcher.sees(1, 2)

        assert due == [0]


async def test_who_watches_is_asked_again_by_the_swap_and_not_when_its_projectors_go_on() -> None:
    """These look first where the views stand, which may take long."""
    async with watched() as engine:
        await add(engine, "a", 5)
        watcher = Watcher(engine, GetEver())
        await watcher.sees(1)
        STEP[0] = 2
        views, go_on, swapped = engine._views, asyncio.Event(), asyncio.Event()
        swap, checkpoint = views.swap, views.checkpoint

        async def exchange(*given: Any) -> None:
            await swap(*given)
            swapped.set()

        async def look(part: Part) -> Checkpoint:
            if swapped.is_set():
                await go_on.wait()
            return await checkpoint(part)

        with patch.object(views, "swap", exchange), patch.object(views, "checkpoint", look):
            await engine.projections.rebuild("evers")
            try:
                await asyncio.wait_for(watcher.sees(1, 2), 10)
            finally:
                go_on.set()


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
        await engine.projections.resume("tallies")
        await engine.projections.resume("evers")
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


class Touchy:
    """An answer of the host's own class, whose `==` may raise."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        error = self.error or getattr(other, "error", None)
        if error is not None:
            raise error
        return True

    __hash__ = None  # type: ignore[assignment]


class GetTouchy(Query[Touchy]):
    """Asks for one."""


class Uncopied(Row, key="id"):
    """A row that is an answer, and cannot be copied."""

    id: str
    parts: list[int]

    def __copy__(self) -> Uncopied:
        raise SystemExit(3)


class GetUncopied(Query[Uncopied]):
    """Asks for one."""


@pytest.mark.parametrize("error", [ValueError(), SystemExit(3), asyncio.CancelledError()], ids=repr)
async def test_an_answer_that_cannot_be_compared_is_another_one(error: BaseException) -> None:
    @answers
    async def touchy(query: GetTouchy, views: Views) -> Touchy:
        return Touchy(error if await views.count(Tallies.rows) else None)

    async with Engine([Counter], projections=[Tallies], answers=[touchy]) as engine:
        watch = engine.watch(GetTouchy())
        assert (await within(anext(watch))).error is None
        await engine.execute(Add("a", 1))
        assert (await within(anext(watch))).error is error
        await engine.execute(Add("b", 1))
        assert (await within(anext(watch))).error is error


async def test_an_answer_that_cannot_be_kept_is_told_to_all_who_watch() -> None:
    @answers
    async def uncopied(query: GetUncopied, views: Views) -> Uncopied:
        return Uncopied("a", [1])

    async with Engine([Counter], answers=[uncopied]) as engine:
        for _ in range(2):
            with pytest.raises(HostFailed, match="SystemExit"):
                await within(anext(engine.watch(GetUncopied())))


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
        assert engine._wiring.live._notes._interest.is_empty


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
        await until(lambda: engine._wiring.live._notes._interest.is_empty)


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
            noted = len(engine._wiring.live._notes._interest._rows.get("tallies_rows", ()))
            await add(engine, "c-9")
            asks = engine.statistics().live.asks
            await add(engine, "c-3")
            await watcher.sees(0, 1)
            return noted, asks

    assert await asks_after_a_strange_row(Limits()) == (4, 1)
    assert await asks_after_a_strange_row(Limits(watched_rows=3)) == (3, 2)


async def test_asks_at_once_bounds_the_asks_under_way() -> None:
    async def under_way(limits: Limits) -> int:
        stages.append(Stage())
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
        said = r"longer than 1 s \(Limits.ask_seconds\), or than its own limit"
        with pytest.raises(TimeoutError, match=said):
            await within(anext(engine.watch(Held())))
