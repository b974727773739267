"""Projections that are controlled while writes fail; resets, pauses and slices under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import apsw
import pytest

from engine import (
    Limits,
    Ports,
    Projection,
    ProjectionLag,
    StoreFailed,
    Table,
    projects,
)
from engine.model.projection import slice_of
from engine.projections.projector import Projector
from engine.projections.runner import ProjectionRunner
from engine.stores.contract.views import Parked, Part
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
    add,
    filled,
    rebuilt,
    summing,
    sums,
    work_of,
)
from tests.support.counters import Added
from tests.support.waiting import until


def let_be_busy(work: ProjectionRunner) -> None:
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
            raise apsw.SQLError("somebody has dropped a table")

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
        projectors = work_of(engine).serving
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
    failing = Failing(passes=False)
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
    failing = Failing(passes=False)
    AILING.add("b")
    limits = Limits(projector_retries=1)
    async with summing(Parking, file, ports=failing.ports, limits=limits) as engine:
        failing.next("views.checkpointed", 2)
        position = await add(engine, "b")
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)
        assert await engine.projections.parked("sums") == []
        AILING.clear()
        assert (await engine.projections.retry("sums")).released == 0
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"b": 1}


async def test_a_paused_projection_whose_views_fail_does_not_end_the_engine(file: str) -> None:
    failing = Failing(passes=False)
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
    failing = Failing(passes=False)
    limits = Limits(projector_retries=3)
    async with summing(Parking, file, ports=failing.ports, limits=limits) as engine:
        failing.next("views.checkpointed", 1_000)
        position = await add(engine, "a")
        await until(lambda: engine.statistics().projectors["sums"].retries > 0)
        for _ in range(20):
            await engine.projections.retry("sums")
        failing.times = 0

        assert await sums(engine, at=position) == {"a": 1}


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
        (projector,) = work.building
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
