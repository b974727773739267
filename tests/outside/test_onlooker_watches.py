"""Views watched from outside: beside their engine, over its ends, before it began."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Closed,
    Engine,
    Meta,
    Projection,
    ProjectionLag,
    Query,
    StoreFailed,
    StoreRefused,
    Table,
    Views,
    answers,
    projects,
)
from engine.outside import onlooker
from tests.outside.looking import Newer, add, get_sum, looking, outside, the_next, views_file
from tests.support import warm
from tests.support.counters import Add, Added, Counter
from tests.support.tallies import GetTallies, GetTally, Tallies, Tally, tallied
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 0.002)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/log.db"


async def test_it_gives_each_answer_that_differs_and_no_other(url: str) -> None:
    asked = 0

    @answers
    async def counted(query: GetTally, views: Views) -> Tally | None:
        nonlocal asked
        asked += 1
        return await views.get(Tallies.rows, query.counter)

    async with tallied(url) as engine, looking(url, counted) as looker:
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) is None
        later = asyncio.create_task(the_next(watching))
        for amount in range(1, 4):
            before = asked
            await add(engine, "b", amount)
            while asked == before:
                await asyncio.sleep(0)
        assert not later.done()
        await add(engine, "a", 5)
        assert await later == Tally("a", 5, 1)
        await watching.aclose()


async def test_what_is_committed_while_it_asks_is_not_missed(url: str) -> None:
    async with tallied(url) as engine:

        @answers
        async def overtaken(query: GetTally, views: Views) -> Tally | None:
            before = await views.get(Tallies.rows, query.counter)
            if before is None:
                await add(engine, query.counter, 1)
            return before

        async with looking(url, overtaken) as looker:
            watching = looker.watch(GetTally("a"))
            assert await the_next(watching) is None
            assert await the_next(watching) == Tally("a", 1, 1)
            await watching.aclose()


async def test_a_wait_that_is_given_up_loses_nothing(url: str) -> None:
    asking = asyncio.Event()
    goes_on = asyncio.Event()
    goes_on.set()

    @answers
    async def held(query: GetTallies, views: Views) -> list[Tally]:
        asking.set()
        await goes_on.wait()
        return await views.find(Tallies.rows)

    async with tallied(url) as engine, looking(url, held) as looker:
        watching = looker.watch(GetTallies())
        assert await the_next(watching) == []
        goes_on.clear()
        asking.clear()
        waiting = asyncio.create_task(the_next(watching))
        await add(engine, "a", 1)
        await asking.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        goes_on.set()
        assert await the_next(watching) == [Tally("a", 1, 1)]


async def test_an_answer_has_a_position_that_it_contains(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        watching = looker.watch(GetTallies())
        await the_next(watching)
        assert watching.position == 0
        for amount in range(1, 4):
            receipt = await add(engine, "a", amount)
            await the_next(watching)
            assert watching.position == receipt.position
        await watching.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watching)


async def test_it_asks_only_where_something_was_committed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = asked = 0

    @answers
    async def counted(query: GetTallies, views: Views) -> list[Tally]:
        nonlocal asked
        asked += 1
        return []

    async with tallied(url) as engine, looking(url, counted) as looker:
        look = looker._reader.look

        async def counting() -> Any:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(looker._reader, "look", counting)
        watching = looker.watch(GetTallies())
        assert await the_next(watching) == []
        waiting = asyncio.create_task(the_next(watching))
        while looks < 20:
            await asyncio.sleep(0)
        assert asked == 1
        await add(engine, "a", 1)
        while asked == 1:
            await asyncio.sleep(0)
        waiting.cancel()


async def test_many_who_watch_look_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 3_600)
    looks = 0
    async with tallied(url), looking(url) as looker:
        look = looker._reader.look

        async def counting() -> Any:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(looker._reader, "look", counting)
        all_of_them = [looker.watch(GetTallies()) for _ in range(50)]
        assert [await the_next(watching) for watching in all_of_them] == [[]] * 50

    assert looks == 1


async def test_many_who_wait_for_a_position_look_together(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    async with tallied(url) as engine, looking(url) as looker:
        await engine.projections.pause("tallies")
        receipt = await engine.execute(Add("a", 1))
        positions, hold = looker._reader.positions, asyncio.Event()

        async def held() -> Any:
            nonlocal looks
            looks += 1
            await hold.wait()
            return await positions()

        monkeypatch.setattr(looker._reader, "positions", held)
        asking = [
            asyncio.create_task(looker.query(GetTally("a"), at=receipt, timeout=0))
            for _ in range(200)
        ]
        await until(lambda: looks > 0)
        hold.set()
        for asked in asking:
            with pytest.raises(ProjectionLag, match="tallies is 1 behind"):
                await asked

    assert looks <= 3


@pytest.mark.parametrize("watched", [False, True])
async def test_what_is_emptied_before_it_is_read_is_not_taken_for_more(
    url: str, watched: bool
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @answers
    async def late(query: GetTallies, views: Views) -> list[Tally]:
        begun.set()
        await go_on.wait()
        return await views.find(Tallies.rows)

    async with tallied(url) as engine, looking(url, late) as looker:
        receipt = await add(engine, "a", 1)
        watching = looker.watch(GetTallies())
        asked = the_next(watching) if watched else looker.query(GetTallies(), at=receipt, timeout=1)
        asking = asyncio.ensure_future(asked)
        await begun.wait()
        await engine.projections.pause("tallies")
        await engine.projections.reset("tallies")
        go_on.set()

        if watched:
            assert (await asking, watching.position) == ([], 0)
        else:
            with pytest.raises(ProjectionLag, match="tallies is 1 behind, at 0"):
                await asking


async def test_who_is_slow_is_given_the_newest(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        watching = looker.watch(GetTally("a"))
        await the_next(watching)
        for _ in range(20):
            await add(engine, "a", 1)
        assert await the_next(watching) == Tally("a", 20, 20)
        await watching.aclose()


async def test_it_waits_for_views_that_are_not_there_and_makes_nothing(
    url: str, tmp_path: Path
) -> None:
    async with looking(url) as looker:
        assert await looker.positions() == {}
        with pytest.raises(StoreRefused, match=r"no views in .*log\.views\.db yet: start the"):
            await looker.query(GetTallies())
        watching = looker.watch(GetTallies())
        first = asyncio.create_task(the_next(watching))
        await asyncio.sleep(0.01)
        assert list(tmp_path.iterdir()) == []
        async with tallied(url) as engine:
            assert await first == []
            await add(engine, "a", 1)
            assert await the_next(watching) == [Tally("a", 1, 1)]
        await watching.aclose()


async def test_it_goes_on_over_the_engines_restarts(url: str) -> None:
    async with looking(url) as looker:
        watching = looker.watch(GetTally("a"))
        for life in range(1, 4):
            async with tallied(url) as engine:
                await add(engine, "a", 1)
                while (found := await the_next(watching)) is None:
                    pass
                assert found == Tally("a", life, life)
        await watching.aclose()


async def test_it_goes_on_where_the_engine_is_killed_and_started_again(url: str) -> None:
    child = [sys.executable, "-m", "tests.support.tallies", url, "views.committed", "3"]
    async with looking(url) as looker:
        watching = looker.watch(GetTallies())
        killed = await asyncio.to_thread(warm.run, child, cwd=ROOT, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        seen = await the_next(watching)
        async with tallied(url) as engine:
            assert {t.counter for t in seen} <= {f"c{n}" for n in range(5)}
            await add(engine, "z", 1)
            while seen != await engine.query(GetTallies()):
                seen = await the_next(watching)
            assert seen[-1] == Tally("z", 1, 1)
        await watching.aclose()


async def test_it_goes_on_with_views_that_were_removed_and_are_built_anew(url: str) -> None:
    async with looking(url) as looker:
        async with tallied(url) as engine:
            await add(engine, "a", 1)
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) == Tally("a", 1, 1)
        waiting = asyncio.create_task(the_next(watching))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{views_file(url)}{suffix}").unlink(missing_ok=True)
        while await looker.positions():
            await asyncio.sleep(0)
        async with tallied(url) as engine:
            await add(engine, "a", 2)
            while (found := await waiting) != Tally("a", 3, 2):
                assert found is None or found == Tally("a", 1, 1)
                waiting = asyncio.create_task(the_next(watching))
        await watching.aclose()


async def test_it_goes_on_while_the_views_are_rebuilt_beside_and_swapped(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        await add(engine, "a", 1)
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) == Tally("a", 1, 1)
        outside(url, 'update "tallies_rows:1" set total = 77')
        assert await the_next(watching) == Tally("a", 77, 1)
        await engine.projections.rebuild("tallies")
        assert await the_next(watching) == Tally("a", 1, 1)
        assert (await engine.projections.status("tallies")).builds[-1].state == "serving"
        await engine.projections.drop("tallies")
        await add(engine, "a", 2)
        assert await the_next(watching) == Tally("a", 3, 2)
        assert await looker.positions() == {"tallies": 2}
        await watching.aclose()


async def test_it_follows_a_projection_that_is_reset(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        for counter in "abc":
            await add(engine, counter, 1)
        watching = looker.watch(GetTallies())
        seen = await the_next(watching)
        outside(url, 'update "tallies_rows:1" set total = 77')
        await engine.projections.reset("tallies")
        while [row.total for row in seen] != [1, 1, 1]:
            seen = await the_next(watching)
        await watching.aclose()


async def test_views_that_are_being_built_are_to_be_waited_for(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
    outside(
        url,
        "insert into builds select projection, 2, 2, definition, slices, log_id, tables, "
        "'building', null, 0 from builds",
    )
    with pytest.raises(StoreRefused, match="version 2 is declared here: ask again when it serves"):
        async with looking(url, get_sum, projections=[Newer]):
            pass


class Sliced(Projection, name="tallies", version=1, slices=4):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Tally(meta.id, 0, 0)
        self.rows.put(Tally(meta.id, row.total + event.amount, row.events + 1))


class GetSliced(Query[list[Tally]]):
    pass


@answers
async def get_sliced(query: GetSliced, views: Views) -> list[Tally]:
    return await views.find(Sliced.rows, order_by="counter")


async def test_a_sliced_projection_is_as_far_as_its_last_slice(url: str) -> None:
    async with (
        Engine([Counter], projections=[Sliced], answers=[get_sliced], store=url) as engine,
        looking(url, get_sliced, projections=[Sliced]) as looker,
    ):
        for counter in "abcdefgh":
            receipt = await engine.execute(Add(counter, 1))
        assert [row.counter for row in await looker.query(GetSliced(), at=receipt)] == [*"abcdefgh"]
        assert await looker.positions() == {"tallies": 8}
        outside(url, "update checkpoints set position = 3 where slice = 2")
        assert await looker.positions() == {"tallies": 3}


async def test_it_follows_views_that_go_back_to_the_beginning(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
        async with looking(url) as looker, aclosing(looker.watch(GetTallies())) as watching:
            assert await the_next(watching) == [Tally("a", 1, 1)]
            outside(url, 'delete from "tallies_rows:1"', "update checkpoints set position = 0")
            assert await the_next(watching) == []
            assert await looker.positions() == {"tallies": 0}


async def test_closing_it_ends_who_watches(url: str) -> None:
    async with tallied(url):
        async with looking(url) as looker:
            watching = looker.watch(GetTallies())
            await the_next(watching)
            waiting = asyncio.create_task(the_next(watching))
            await asyncio.sleep(0)
        with pytest.raises((Closed, StoreFailed), match="not open|closed"):
            await waiting
        with pytest.raises(Closed, match="use it inside"):
            await looker.query(GetTallies())

    assert [t.name for t in threading.enumerate() if t.name.startswith("foldline")] == []
