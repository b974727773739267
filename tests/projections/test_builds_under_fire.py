"""Builds and swaps that fail, meet events, or are left by another release."""

from __future__ import annotations

import asyncio
from typing import Any

import apsw
import pytest

from engine import (
    Engine,
    Ports,
    Projection,
    Query,
    StoreFailed,
    Views,
    answers,
)
from engine.projections import runner
from engine.projections.projector import Projector
from tests.projections.summing import (
    AILING,
    SECONDS,
    SEEN,
    Failing,
    Gate,
    Parking,
    Sliced,
    SlicedAndParking,
    Stopping,
    Sum,
    SumOfThem,
    Tenfold,
    add,
    building_state,
    filled,
    rebuilt,
    status,
    summing,
    sums,
    work_of,
)
from tests.support.counters import Counter
from tests.support.faults import Hold
from tests.support.waiting import settle, until


async def test_a_swap_that_fails_is_tried_again_though_nothing_happens(file: str) -> None:
    failing = Failing()
    async with summing(Stopping, file, ports=failing.ports) as engine:
        await sums(engine, at=await add(engine, "a"))
        failing.next("views.swapping", 2)
        await engine.projections.rebuild("sums")
        await rebuilt(engine)

        assert failing.times == 0
        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]


@pytest.mark.parametrize("projection", [Stopping, Sliced])
async def test_a_swap_whose_answer_is_lost_stops_nothing(
    url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former build is not written any more, which is no failure; the swap is made once."""
    lost = asyncio.Event()

    def loses(name: str) -> None:
        if name == "views.swapped" and not lost.is_set():
            lost.set()
            raise apsw.FullError if "postgresql" not in url else ConnectionResetError

    async with summing(projection, url, ports=Ports(failpoint=loses)) as engine:
        running = work_of(engine)
        monkeypatch.setattr(runner, "SWAP_AGAIN_SECONDS", 3_600.0)
        await sums(engine, at=await add(engine, "a"))
        await engine.projections.rebuild("sums")
        await lost.wait()
        position = await add(engine, "a")
        numbers = engine.statistics
        await until(lambda: numbers().projectors["sums"].state in ("retrying", "stopped"))
        retrying = numbers().projectors["sums"].retrying
        assert retrying is not None
        assert "build 1 of projection 'sums' serves no more" in retrying.cause
        running._swap_after = 0.0
        running._wake.set()

        assert await sums(engine, at=position) == {"a": 2}
        await rebuilt(engine)
        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]
        decided = [made.kind for made in await engine.projections.decisions("sums")]
        assert decided == ["rebuild", "swap"]


async def test_a_query_waits_on_while_a_swap_fails(file: str) -> None:
    async with filled(Stopping, file, "a") as engine:
        gate = Gate(engine, "swap")
        await engine.projections.rebuild("sums")
        await gate.reached.wait()
        position = await add(engine, "a")
        waiting = asyncio.ensure_future(sums(engine, at=position))
        await asyncio.sleep(0)

        async def fails(*_: object) -> None:
            raise StoreFailed("it cannot be written now", written=False)

        gate._call = fails
        gate.let_go()

        assert await waiting == {"a": 2}


@pytest.mark.parametrize("projection", [Parking, SlicedAndParking, Stopping])
async def test_a_build_meets_no_event_while_it_is_swapped_in(
    file: str, projection: type[Projection]
) -> None:
    """What comes meanwhile is met by the policy of a build that serves."""
    swapping = Hold()
    ports = Ports(failpoint=lambda name: swapping.wait() if name == "views.swapping" else None)
    async with summing(projection, file, ports=ports) as engine:
        await sums(engine, at=await add(engine, "a", "d"))
        await engine.projections.rebuild("sums")
        await swapping.reached()
        AILING.add("d")  # whose row is in memory, so that nobody waits for the thread of views
        last = await add(engine, "d", "a")
        await settle()
        swapping.release()
        await rebuilt(engine)
        AILING.clear()
        if projection is Stopping:
            await until(lambda: engine.statistics().projectors["sums"].state in ("live", "stopped"))
            await engine.projections.resume("sums")

        assert (await sums(engine, at=last))["a"] == 2
        await until(lambda: engine.statistics().projectors["sums"].state == "live")


async def test_a_build_that_fails_before_it_is_swapped_in_does_not_serve(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for, failed = Projector.wait_for, list[int]()

    async def reaches_and_fails(self: Projector, position: int, deadline: float | None) -> bool:
        reached = await wait_for(self, position, deadline)
        if self.part.build == 2 and not failed:
            AILING.add("b")
            failed.append(await add(engine, "b"))
            async with asyncio.timeout(SECONDS):
                while self.failure is None:
                    await asyncio.sleep(0)
        return reached

    async with filled(Parking, file, "a") as engine:
        monkeypatch.setattr(Projector, "wait_for", reaches_and_fails)
        await engine.projections.rebuild("sums")
        await until(lambda: building_state(engine) == "stopped")

        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}
        found = await status(engine)
        assert [b.state for b in found.builds] == ["serving", "building"]
        assert found.building is not None
        assert found.building.failure is not None
        assert [found.building.failure.position] == failed
        AILING.clear()
        await engine.projections.resume("sums")
        await rebuilt(engine)
        assert (await sums(engine))["a"] == 2


async def test_a_build_that_has_taken_over_parks_what_it_cannot_fold(file: str) -> None:
    async with filled(Parking, file, "a") as engine:
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
        AILING.add("b")

        assert await sums(engine, at=await add(engine, "b", "a")) == {"a": 2}
        assert (await status(engine)).parked == 1


async def test_a_build_beside_stops_at_what_was_parked_and_goes_on_when_that_is_skipped(
    file: str,
) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
        await engine.projections.rebuild("sums")
        await until(lambda: building_state(engine) == "stopped")
        await engine.projections.skip("sums", 2, reason="it never happened")
        await rebuilt(engine)

        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]
        decisions = await engine.projections.decisions("sums")
        assert [d.kind for d in decisions] == ["rebuild", "skip", "swap"]
        assert await sums(engine) == {"a": 1}


async def test_rebuild_while_paused_begins_and_goes_on_when_resumed(file: str) -> None:
    async with filled(Sliced, file, "a", "b") as engine:
        await engine.projections.pause("sums")
        await engine.projections.rebuild("sums")
        await until(lambda: building_state(engine) == "paused")
        position = await add(engine, "c")
        await engine.projections.resume("sums")
        await rebuilt(engine)

        assert await sums(engine, at=position) == {"a": 1, "b": 1, "c": 1}


async def test_pause_during_a_rebuild_holds_both_and_over_a_restart(file: str) -> None:
    AILING.add("b")
    async with filled(Stopping, file, "a") as engine:
        AILING.add("a")
        await engine.projections.rebuild("sums")
        await engine.projections.pause("sums")
        AILING.clear()
    async with summing(Stopping, file) as engine:
        await until(lambda: building_state(engine) == "paused")
        SEEN.clear()
        await add(engine, "a")
        assert not SEEN
        await engine.projections.resume("sums")
        await rebuilt(engine)

        assert await sums(engine) == {"a": 2}


async def test_reset_during_a_rebuild_loses_nothing(file: str) -> None:
    async with filled(Sliced, file, *[f"c{n}" for n in range(9)]) as engine:
        for _ in range(3):
            await engine.projections.rebuild("sums")
            await engine.projections.reset("sums")
        position = await add(engine, "z")
        await rebuilt(engine)

        assert len(await sums(engine, at=position)) == 10


async def test_a_former_build_with_parked_events_comes_back_and_can_be_mended(file: str) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
    AILING.clear()
    async with summing(Tenfold, file, rebuild="auto") as engine:
        assert await sums(engine, at=await add(engine, "b", "a")) == {"a": 20, "b": 20}
    async with summing(Parking, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=4) == {"a": 2}
        assert [p.position for p in await engine.projections.parked("sums")] == [2, 3]
        await engine.projections.retry("sums")

        assert await sums(engine) == {"a": 2, "b": 2}


async def test_a_build_that_another_release_left_can_be_cancelled(file: str) -> None:
    async with filled(Stopping, file, "a"):
        pass
    AILING.add("a")
    async with summing(Tenfold, file, rebuild="auto") as engine:
        await until(lambda: building_state(engine) == "stopped")
    AILING.clear()
    async with summing(Stopping, file) as engine:
        assert [b.state for b in (await status(engine)).builds] == ["serving", "building"]
        await engine.projections.cancel("sums")

        assert [b.number for b in (await status(engine)).builds] == [1]
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_a_cancel_that_fails_lets_the_build_go_on(file: str) -> None:
    async with filled(Stopping, file, "a") as engine:
        AILING.add("a")
        await engine.projections.rebuild("sums")
        views: Any = engine._views

        async def fails(*_: object) -> None:
            raise StoreFailed("it cannot be written now", written=False)

        drop, views.drop = views.drop, fails
        with pytest.raises(StoreFailed):
            await engine.projections.cancel("sums")
        views.drop = drop
        AILING.clear()
        await engine.projections.resume("sums")
        await rebuilt(engine)

        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]


async def test_a_query_that_came_before_the_drop_is_answered(file: str) -> None:
    class Slow(Query[int]):
        pass

    @answers
    async def slow(query: Slow, views: Views) -> int:
        counting = "with recursive n(i) as (select 1 union all select i+1 from n where i < 3000000)"
        ((number,),) = await views.sql(f"{counting} select count(*) from n")
        return int(number)

    @answers
    async def all_sums(query: SumOfThem, views: Views) -> list[Sum]:
        return await views.find(Stopping.rows)

    async with Engine(
        [Counter], projections=[Stopping], answers=[slow, all_sums], store=file
    ) as engine:
        await sums(engine, at=await add(engine, "a"))
        slowly = asyncio.ensure_future(engine.query(Slow()))
        await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(sums(engine)) for _ in range(3)]
        await asyncio.sleep(0)
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
        await engine.projections.drop("sums")

        assert await asyncio.gather(*waiting) == [{"a": 1}] * 3
        assert await slowly == 3_000_000
