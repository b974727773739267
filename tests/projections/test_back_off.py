"""A failure for which no event is to blame: the projection goes on by itself when it has passed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from engine import Engine, Limits, ProjectionLag, StoreFailed
from engine.projections import back_off, runner
from engine.projections.back_off import BackOff
from engine.stores.contract.views import Checkpoint, Part
from engine.stores.sqlite.place import Place
from engine.stores.sqlite.views.store import SqliteViews
from tests.projections.summing import (
    Failing,
    Kind,
    Parking,
    SumOfThem,
    add,
    filled,
    rebuilt,
    summing,
    sums,
    work_of,
)
from tests.support.counters import Add
from tests.support.waiting import until

LIMITS = Limits(projector_retries=2, sink_retries=2)
FOR_EVER = 1_000_000


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "SECONDS", 0.001)
    monkeypatch.setattr(back_off, "SECONDS_MAX", 0.001)


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


async def tried(engine: Engine, times: int) -> None:
    """Wait until it has tried again so often, or has given up."""

    def has() -> bool:
        numbers = engine.statistics().projectors["sums"]
        return numbers.retries > times or numbers.failure is not None

    await until(has)


async def test_a_projection_waits_for_room_and_goes_on(
    kind: Kind, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing()
    caplog.set_level(logging.INFO)
    async with summing(kind.parking, file, ports=failing.ports, limits=LIMITS) as engine:
        failing.next("views.checkpointed", FOR_EVER)
        receipt = await engine.execute(Add("a", 1))
        await tried(engine, 20)
        seen = await engine.projections.status("sums")
        assert (seen.state, seen.failure, seen.parked) == ("retrying", None, 0)
        assert seen.retrying is not None
        assert "the disk is full" in seen.retrying.cause
        with pytest.raises(ProjectionLag, match="retrying"):
            await engine.query(SumOfThem(), at=receipt.position, timeout=0.01)
        assert said(caplog, "cannot go on") == 1, "and not at each try"
        assert said(caplog, "tries again in") == 2
        failing.times = 0

        assert await sums(engine, at=receipt.position) == {"a": 1}
        await until(lambda: engine.statistics().projectors["sums"].state == "live")
        seen = await engine.projections.status("sums")
        assert (seen.state, seen.retrying) == ("live", None)
        assert said(caplog, "goes on, and stands at position 1") == 1


async def test_what_does_not_pass_by_itself_stops_a_projection(file: str) -> None:
    failing = Failing(passes=False)
    async with summing(Parking, file, ports=failing.ports, limits=LIMITS) as engine:
        failing.next("views.checkpointed", FOR_EVER)
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)
        seen = engine.statistics().projectors["sums"]
        assert (seen.state, seen.retries, seen.retrying) == ("stopped", 2, None)


async def test_one_that_waits_for_room_can_be_paused_and_resumed(file: str) -> None:
    failing = Failing()
    async with summing(Parking, file, ports=failing.ports, limits=LIMITS) as engine:
        failing.next("views.checkpointed", FOR_EVER)
        receipt = await engine.execute(Add("a", 1))
        await tried(engine, 5)
        await engine.projections.pause("sums")
        await until(lambda: engine.statistics().projectors["sums"].state == "paused")
        failing.times = 0
        await engine.projections.resume("sums")

        assert await sums(engine, at=receipt.position) == {"a": 1}


async def test_a_paused_one_that_cannot_be_read_waits_and_answers_calls(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with filled(Parking, file, "a", limits=LIMITS) as engine:
        await engine.projections.pause("sums")
    checkpoint, tries = SqliteViews.checkpoint, list[Part]()
    held = [True]

    async def busy(self: SqliteViews, part: Part) -> Checkpoint:
        tries.append(part)
        if held:
            raise StoreFailed("somebody holds the file", written=False, passes=True)
        return await checkpoint(self, part)

    monkeypatch.setattr(SqliteViews, "checkpoint", busy)
    async with summing(Parking, file, limits=LIMITS) as engine:
        await until(lambda: len(tries) > 10)
        assert engine.statistics().projectors["sums"].state == "paused"
        await engine.projections.pause("sums")  # which asks the projector itself
        held.clear()
        await until(lambda: work_of(engine).position == 1)
        assert engine.statistics().projectors["sums"].state == "paused"
        await engine.projections.resume("sums")
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_writes_that_could_not_be_tried_are_not_written_later(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody takes the right away to look into the folder, and gives it back."""
    async with summing(Parking, file) as engine:
        await add(engine, *"abcdefgh" * 3)
        await engine.projections.reset("sums")
        await engine.projections.pause("sums")
    check, left = Place.check, [10]

    def cannot_look(self: Place) -> None:
        assert isinstance(engine._views, SqliteViews)
        if left[0] and engine._views._gathering.waiting:
            left[0] -= 1
            raise StoreFailed("it cannot be looked at", written=False, passes=True)
        check(self)

    limits = Limits(projector_retries=2, projector_events=1)
    async with summing(Parking, file, limits=limits) as engine:
        monkeypatch.setattr(Place, "check", cannot_look)
        await engine.projections.resume("sums")
        assert await sums(engine, at=24) == dict.fromkeys("abcdefgh", 3)
    assert left == [0]


async def test_an_engine_ends_while_a_projection_waits_for_room(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_off, "SECONDS", 1e6)
    monkeypatch.setattr(back_off, "SECONDS_MAX", 1e6)
    failing = Failing()
    async with asyncio.timeout(20), summing(Parking, file, ports=failing.ports) as engine:
        failing.next("views.checkpointed", FOR_EVER)
        await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["sums"].state == "retrying")


async def test_a_swap_is_tried_for_longer_than_a_number_can_be_doubled(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SWAP_AGAIN_SECONDS_MAX", 0.0)
    async with filled(Parking, file, "a") as engine:
        views: Any = engine._views
        swap, work, tries = views.swap, work_of(engine), list[int]()

        async def fails(*args: Any) -> None:
            tries.append(work._swap_failures)
            if len(tries) == 1:
                work._swap_failures = 1_100  # a day, where each is tried after a minute
                raise StoreFailed("there is no room", written=False, passes=True)
            await swap(*args)

        views.swap = fails
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
    assert tries == [0, 1_101]


def test_waits_have_a_bound_however_often_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "SECONDS_MAX", 5.0)
    waits = BackOff("sums", logging.getLogger("nobody"))
    waits.failures = 100_000
    assert waits.again(OSError("gone"), 7, most=5, blames_event=False) == 5.0
