"""Projections that are controlled while things fail: the disk is full, callers leave, it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Closed,
    Engine,
    Limits,
    Ports,
    Projection,
    ProjectionLag,
    Query,
    StoreFailed,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.model.projection import slice_of
from engine.projections.projector import Projector
from engine.projections.runner import Projecting
from engine.stores.contract.views import Parked, Part
from tests.projections.test_projections import (
    AILING,
    SEEN,
    Parking,
    Sliced,
    SlicedAndParking,
    Stopping,
    Sum,
    SumOfThem,
    Tenfold,
    add,
    filled,
    rebuilt,
    status,
    summing,
    sums,
)
from tests.support.counters import Added, Counter, settle, until
from tests.support.faults import Hold

SECONDS = 10


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    SEEN.clear()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


class Failing:
    """A failpoint that lets the disk be full at a step, so many times."""

    def __init__(self) -> None:
        self.at = ""
        self.times = 0

    def __call__(self, name: str) -> None:
        if name == self.at and self.times:
            self.times -= 1
            raise apsw.FullError("the disk is full")

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


def work_of(engine: Engine) -> Projecting:
    return engine._projecting["sums"]


def let_be_busy(work: Projecting) -> None:
    """Let builds that are begun from now on take commands to be at work always."""
    make = work._make

    def busy(part: Part, *, moved: Callable[[], None], paused: bool) -> Projector:
        projector = make(part, moved=moved, paused=paused)
        projector._is_busy = lambda: True
        return projector

    work._make = busy


# -- writes that fail -----------------------------------------------------------------------------


async def test_a_retry_whose_write_fails_leaves_nothing_that_is_written_later(file: str) -> None:
    failing = Failing()
    AILING.add("b")
    async with summing(Parking, file, ports=failing.ports) as engine:
        await sums(engine, at=await add(engine, "b", "b"))
        AILING.clear()
        await engine.projections.pause("sums")
        failing.next("views.checkpointed")
        with pytest.raises(StoreFailed):
            await engine.projections.retry("sums")

        assert (await engine.projections.retry("sums")).released == 2
        await engine.projections.resume("sums")
        assert await sums(engine, at=await add(engine, "b")) == {"b": 3}
        assert await engine.projections.parked("sums") == []


async def test_a_retry_whose_write_fails_does_not_stop_a_projection(file: str) -> None:
    failing = Failing()
    AILING.add("b")
    async with summing(Parking, file, ports=failing.ports) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
        AILING.clear()
        failing.next("views.checkpointed")
        with pytest.raises(StoreFailed):
            await engine.projections.retry("sums")

        assert await sums(engine, at=await add(engine, "a", "b")) == {"a": 2}
        assert (await engine.projections.retry("sums")).released == 2
        assert await sums(engine) == {"a": 2, "b": 2}


async def test_a_retry_finds_what_a_write_parked_that_was_reported_as_failed(file: str) -> None:
    steps = ["views.checkpointed", "views.committed"]

    def fail(name: str) -> None:
        if steps and name == steps[0]:
            del steps[0]
            raise apsw.FullError("the disk is full")

    AILING.add("b")
    ports, limits = Ports(failpoint=fail), Limits(projector_retries=1)
    async with summing(Parking, file, ports=ports, limits=limits) as engine:
        await add(engine, "b")
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)
        AILING.clear()

        assert (await engine.projections.retry("sums")).released == 1


async def test_a_retry_does_not_begin_in_the_middle_of_what_a_slice_parks_meanwhile(
    file: str,
) -> None:
    """Another slice is further, and what it has parked stands between two events of this one."""
    late, far = "a", next(c for c in "bcdefgh" if _slice(c) > _slice("a"))
    AILING.update((late, far))
    async with summing(SlicedAndParking, file) as engine:
        projectors = work_of(engine)._serving
        held = asyncio.Event()
        holding = asyncio.create_task(projectors[_slice(late)].ask(held.wait))
        await add(engine, late, far, late)
        await until(lambda: projectors[_slice(far)].position == 3)
        ask = engine._views.parked

        async def parked(name: str, **options: Any) -> Sequence[Parked]:
            if projectors[_slice(late)].position == 3:
                AILING.clear()  # mended as soon as both of its events are parked
            return await ask(name, **options)

        engine._views.parked = parked  # type: ignore[method-assign, assignment]
        retry = asyncio.create_task(engine.projections.retry("sums"))
        await until(lambda: bool(projectors[_slice(late)]._calls))
        held.set()
        await asyncio.gather(holding, retry)
        await until(lambda: projectors[_slice(late)].position == 3)

        left = await engine.projections.parked("sums")
        assert [p.position for p in left if p.key == f"counter:{late}"] == [1, 3]
        AILING.clear()
        await engine.projections.retry("sums")
        assert await sums(engine) == {late: 2, far: 1}


def _slice(counter: str) -> int:
    return slice_of(f"counter:{counter}", 4)


async def test_a_batch_that_could_not_be_written_is_not_written_by_a_retry(file: str) -> None:
    failing = Failing()
    AILING.add("b")
    limits = Limits(projector_retries=1)
    async with summing(Parking, file, ports=failing.ports, limits=limits) as engine:
        await sums(engine, at=await add(engine, "b"))
        AILING.clear()
        failing.next("views.checkpointed", 2)
        position = await add(engine, "a", "b")
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)
        await engine.projections.pause("sums")
        await engine.projections.retry("sums")
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"a": 1, "b": 2}


async def test_what_a_failed_batch_parked_is_not_taken_for_parked(file: str) -> None:
    failing = Failing()
    AILING.add("b")
    limits = Limits(projector_retries=1)
    async with summing(Parking, file, ports=failing.ports, limits=limits) as engine:
        failing.next("views.checkpointed", 2)
        position = await add(engine, "b")
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)
        assert await engine.projections.parked("sums") == []
        AILING.clear()
        assert (await engine.projections.retry("sums")).released == 0
        engine.resume("sums")

        assert await sums(engine, at=position) == {"b": 1}


async def test_a_paused_projection_whose_views_fail_does_not_end_the_engine(file: str) -> None:
    failing = Failing()
    limits = Limits(projector_retries=1)
    async with summing(Stopping, file, ports=failing.ports, limits=limits) as engine:
        await sums(engine, at=await add(engine, "a"))
        views: Any = engine._views

        async def fails(_: object) -> Any:
            raise StoreFailed("it cannot be read now", written=False)

        checkpoint, views.checkpoint = views.checkpoint, fails
        failing.next("views.checkpointed", 3)
        position = await add(engine, "a")
        await engine.projections.pause("sums")
        await until(lambda: engine.statistics().projectors["sums"].state == "paused")
        views.checkpoint = checkpoint
        failing.times = 0
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"a": 2}
    assert engine.failed is None


async def test_a_call_does_not_use_up_the_retries_of_a_projection_that_waits(file: str) -> None:
    failing = Failing()
    limits = Limits(projector_retries=3)
    async with summing(Parking, file, ports=failing.ports, limits=limits) as engine:
        failing.next("views.checkpointed", 1_000)
        position = await add(engine, "a")
        await until(lambda: engine.statistics().projectors["sums"].retries > 0)
        for _ in range(20):
            await engine.projections.retry("sums")
        failing.times = 0

        assert await sums(engine, at=position) == {"a": 1}


# -- swaps ----------------------------------------------------------------------------------------


async def test_a_swap_that_fails_is_tried_again_though_nothing_happens(file: str) -> None:
    failing = Failing()
    async with summing(Stopping, file, ports=failing.ports) as engine:
        await sums(engine, at=await add(engine, "a"))
        failing.next("views.swapping", 2)
        await engine.projections.rebuild("sums")
        await rebuilt(engine)

        assert failing.times == 0
        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]


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


def building_state(engine: Engine) -> str | None:
    building = engine.statistics().projectors["sums"].building
    return None if building is None else building.state


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
        engine.resume("sums")
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


# -- resets, pauses, slices -----------------------------------------------------------------------


async def test_reset_takes_what_is_parked_along(file: str) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b", "b"))
        AILING.clear()
        await engine.projections.reset("sums")

        assert await sums(engine, at=3) == {"a": 1, "b": 2}
        assert await engine.projections.parked("sums") == []


async def test_whoever_asks_for_a_position_after_a_reset_waits_for_it_again(file: str) -> None:
    async with filled(Sliced, file, "a", "b") as engine:
        await engine.projections.pause("sums")
        await engine.projections.reset("sums")

        assert await sums(engine) == {}
        with pytest.raises(ProjectionLag, match="paused"):
            await sums(engine, at=1)
        await engine.projections.resume("sums")
        assert await sums(engine, at=2) == {"a": 1, "b": 1}


async def test_all_slices_rest_while_it_is_paused(file: str) -> None:
    counters = [f"c{n}" for n in range(20)]
    async with filled(Sliced, file, *counters) as engine:
        await engine.projections.pause("sums")
        SEEN.clear()
        position = await add(engine, *counters)
        await engine.projections.rebuild("sums")
        await asyncio.sleep(0)
        assert not SEEN
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == dict.fromkeys(counters, 2)


async def test_a_paused_projection_knows_from_the_start_what_it_has(file: str) -> None:
    async with filled(Sliced, file, "a", "b") as engine:
        await engine.projections.pause("sums")
    async with summing(Sliced, file) as engine:
        gate = Gate(engine, "parked_keys")
        waiting = asyncio.ensure_future(sums(engine, at=2))
        await gate.reached.wait()
        gate.let_go()

        assert await waiting == {"a": 1, "b": 1}


class Blind(Projection, name="sums", version=1, slices=4):
    """Events of all counters put one row, and none reads it before."""

    rows: Table[Sum]

    @projects
    def added(self, event: Added) -> None:
        self.rows.put(Sum("all", event.amount, 1))


async def test_a_row_that_nobody_has_read_is_not_overwritten_by_another_slice(file: str) -> None:
    async with summing(Blind, file) as engine:
        position = await add(engine, *[f"c{n}" for n in range(20)])
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        failure = engine.statistics().projectors["sums"].failure
        assert failure is not None
        assert "belongs to slice" in failure.cause


async def test_what_was_parked_of_a_build_goes_with_it(file: str) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
        AILING.clear()
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
        await engine.projections.drop("sums")

        assert await sums(engine) == {"a": 1, "b": 1}
        left = "SELECT (SELECT count(*) FROM parked), (SELECT sum(build) FROM checkpoints)"
        assert (await engine._views.sql(left, (), 1))[1] == [(0, 2)]


async def test_a_build_that_gives_way_to_commands_ends_at_once_with_its_engine(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.projections.projector.GIVE_WAY", 1e9)
    monkeypatch.setattr("engine.projections.projector.REST_SECONDS_MAX", 1e3)
    async with asyncio.timeout(SECONDS), filled(Parking, file, *"abc") as engine:
        work = work_of(engine)
        let_be_busy(work)
        await engine.projections.rebuild("sums")
        (projector,) = work._building
        await until(lambda: projector.position == 3)
        assert projector.state == "catching-up", "it rests"


async def test_a_build_does_not_rest_for_as_long_as_a_disk_was_slow(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.projections.projector.GIVE_WAY", 1e9)
    monkeypatch.setattr("engine.projections.projector.REST_SECONDS_MAX", 0.01)
    async with asyncio.timeout(SECONDS), filled(Parking, file, *"abc") as engine:
        let_be_busy(work_of(engine))
        await engine.projections.rebuild("sums")
        await rebuilt(engine)


# -- skips ----------------------------------------------------------------------------------------


async def test_an_event_that_waits_behind_another_can_be_skipped_alone(file: str) -> None:
    AILING.add("b")
    async with summing(SlicedAndParking, file) as engine:
        await sums(engine, at=await add(engine, "b", "b", "b"))
        await engine.projections.skip("sums", 2, reason="twice")
        assert (await status(engine)).parked == 2
        AILING.clear()
        SEEN.clear()
        await engine.projections.retry("sums")

        assert list(SEEN) == [("b", 1), ("b", 3)]
        assert await engine.projections.parked("sums") == []
        assert await sums(engine) == {"b": 2}
        assert await sums(engine, at=await add(engine, "b")) == {"b": 3}


async def test_a_skip_holds_from_the_first_moment_of_a_start(file: str) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "b", "b"))
    AILING.clear()
    async with summing(Parking, file) as engine:
        gate = Gate(engine, "parked_keys")
        await gate.reached.wait()
        skipping = asyncio.ensure_future(engine.projections.skip("sums", 1, reason="a test"))
        await asyncio.sleep(0.01)
        gate.let_go()
        await skipping
        await engine.projections.retry("sums")

        assert await sums(engine) == {"b": 1}


@pytest.mark.parametrize("ails_on", [True, False])
@pytest.mark.parametrize("kept", [True, False])
async def test_an_event_is_not_left_parked_that_was_in_hand_when_it_was_skipped(
    file: str, ails_on: bool, kept: bool
) -> None:
    """It stops a build beside; the one that serves goes through the log again, and meets it."""
    async with filled(Parking, file, "a", "b") as engine:
        AILING.add("b")
        await engine.projections.rebuild("sums")
        await until(lambda: building_state(engine) == "stopped")
        rows, decided = Gate(engine, "fetch"), Gate(engine, "decide", after=kept)
        await engine.projections.reset("sums")
        await rows.reached.wait()
        skipping = asyncio.ensure_future(engine.projections.skip("sums", 2, reason="a test"))
        await decided.reached.wait()
        rows.let_go()
        (serving,) = work_of(engine)._serving
        parked = await serving.wait_for(2, None) and await engine.projections.parked("sums")
        if not ails_on:
            AILING.clear()
        decided.let_go()
        await skipping

        assert parked, "it was met before it was known to be skipped"
        assert not serving.parking.keys, "nothing waits behind it"
        assert await engine.projections.parked("sums") == []
        assert await sums(engine) == {"a": 1}
        AILING.clear()
        assert await sums(engine, at=await add(engine, "b")) == {"a": 1, "b": 1}


async def test_what_was_skipped_in_another_history_is_folded(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    AILING.add("b")
    async with summing(Parking, url) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
        await engine.projections.skip("sums", 2, reason="a test")
    AILING.clear()
    for left in tmp_path.glob("log.db*"):
        left.unlink()
    async with summing(Parking, url) as engine:
        assert await sums(engine, at=await add(engine, "c", "c")) == {"c": 2}


async def test_an_event_of_a_version_that_nobody_here_folds_is_not_skipped(file: str) -> None:
    AILING.add("b")
    async with summing(Parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
    AILING.add("a")
    async with summing(Tenfold, file, rebuild="auto") as engine:
        await until(lambda: building_state(engine) == "stopped")
        with pytest.raises(UsageError, match="none there has stopped it"):
            await engine.projections.skip("sums", 2, reason="it is parked in the old tables")
        await engine.projections.skip("sums", 1, reason="it stands in the way of the new ones")
        await until(lambda: building_state(engine) == "stopped")
        AILING.clear()
        engine.resume("sums")
        await rebuilt(engine)

        assert await sums(engine, at=2) == {"b": 10}
    async with summing(Parking, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine) == {"a": 1}, "what was skipped for version 2 is in version 1"


# -- callers who leave, and the end ---------------------------------------------------------------

Call = Callable[[Engine], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "pause": lambda e: e.projections.pause("sums"),
    "reset": lambda e: e.projections.reset("sums"),
    "rebuild": lambda e: e.projections.rebuild("sums"),
    "retry": lambda e: e.projections.retry("sums"),
    "skip": lambda e: e.projections.skip("sums", 3, reason="why not"),
    "drop": lambda e: e.projections.drop("sums"),
    "cancel": lambda e: e.projections.cancel("sums"),
}
STEPS: dict[str, str] = {
    "pause": "decide",
    "reset": "reset",
    "rebuild": "begin_build",
    "retry": "write",
    "skip": "decide",
    "drop": "drop",
    "cancel": "drop",
}


async def prepared(engine: Engine, what: str) -> None:
    """Let there be something to drop, or to cancel."""
    if what == "drop":
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
    if what == "cancel":
        await engine.projections.pause("sums")
        await engine.projections.rebuild("sums")
        await engine.projections.resume("sums")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", CALLS)
async def test_a_call_whose_caller_leaves_is_done_whole(file: str, what: str, after: bool) -> None:
    async with summing(Parking, file) as engine:
        AILING.add("b" if what in ("retry", "skip") else "nobody")
        await sums(engine, at=await add(engine, "a", "a", "b", "b"))
        AILING.clear()
        await prepared(engine, what)
        gate = Gate(engine, STEPS[what], after=after)
        call = asyncio.ensure_future(CALLS[what](engine))
        await gate.reached.wait()
        call.cancel()
        await asyncio.wait([call])
        gate.let_go()
        # The next call comes when that is done.
        async with asyncio.timeout(SECONDS):
            await engine.projections.resume("sums")
            with suppress(UsageError):
                await engine.projections.cancel("sums")
            await engine.projections.retry("sums")
            position = await add(engine, "a", "b")
            expected = {"a": 3, "b": 3 - (what == "skip")}
            assert await sums(engine, at=position) == expected
            await engine.projections.drop("sums")
            assert len((await status(engine)).builds) == 1
    async with summing(Parking, file) as engine:
        assert await sums(engine, at=await add(engine, "c")) == {**expected, "c": 1}
        assert not (await status(engine)).parked


async def test_a_call_whose_caller_left_before_its_turn_is_not_made(file: str) -> None:
    async with filled(Stopping, file, "a") as engine:
        gate = Gate(engine, "decide")
        first = asyncio.ensure_future(engine.projections.pause("sums"))
        await gate.reached.wait()
        second = asyncio.ensure_future(engine.projections.reset("sums"))
        await asyncio.sleep(0)
        second.cancel()
        gate.let_go()
        await first

        assert [d.kind for d in await engine.projections.decisions("sums")] == ["pause"]


@pytest.mark.parametrize("what", CALLS)
async def test_the_end_of_the_engine_answers_whoever_asked_for_something(
    file: str, what: str
) -> None:
    engine = summing(Parking, file)
    calls: list[asyncio.Future[Any]] = []
    async with asyncio.timeout(SECONDS):
        async with engine:
            AILING.add("b" if what in ("retry", "skip") else "nobody")
            await sums(engine, at=await add(engine, "a", "a", "b", "b"))
            AILING.clear()
            await prepared(engine, what)
            gate = Gate(engine, STEPS[what])
            made = [CALLS[what], CALLS["pause"], CALLS["rebuild"]]
            calls += [asyncio.ensure_future(call(engine)) for call in made]
            await gate.reached.wait()
            asyncio.get_running_loop().call_later(0.05, gate.let_go)
        answers_ = await asyncio.gather(*calls, return_exceptions=True)

    assert all(isinstance(a, Closed) for a in answers_[1:]), answers_
    assert not isinstance(answers_[0], BaseException) or what == "retry", answers_
    async with summing(Parking, file) as engine:
        await engine.projections.retry("sums")
        expected = {"a": 2, "b": 2 - (what == "skip")}
        await engine.projections.resume("sums")
        assert await sums(engine, at=4) == expected


async def test_whoever_waits_for_a_position_is_answered_when_the_engine_ends(file: str) -> None:
    async with filled(Stopping, file, "a"):
        pass
    AILING.add("a")
    async with asyncio.timeout(SECONDS):
        async with summing(Tenfold, file, rebuild="auto") as engine:
            await until(lambda: building_state(engine) == "stopped")
            waiting = asyncio.ensure_future(
                work_of(engine).wait_for(1_000, asyncio.get_running_loop().time() + 1_000)
            )
            await asyncio.sleep(0)

        assert await waiting is False


async def test_calls_at_once_are_made_one_after_the_other(file: str) -> None:
    async with filled(SlicedAndParking, file, *[f"c{n}" for n in range(20)]) as engine:
        adding = asyncio.ensure_future(add(engine, *[f"c{n % 20}" for n in range(200)]))
        control = engine.projections
        for _ in range(4):
            await asyncio.gather(
                control.rebuild("sums"),
                control.reset("sums"),
                control.pause("sums"),
                control.resume("sums"),
                control.cancel("sums"),
                control.rebuild("sums"),
                control.pause("sums"),
                control.retry("sums"),
                control.resume("sums"),
                control.drop("sums"),
                return_exceptions=True,
            )
        position = await adding
        await rebuilt(engine)

        assert sum((await sums(engine, at=position)).values()) == 220
        assert [b.state for b in (await status(engine)).builds][-1] == "serving"
    assert engine.failed is None
