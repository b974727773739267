"""Skips: of what waits, of what is in hand, over a start, and of another history."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine import UsageError
from tests.projections.summing import (
    AILING,
    SEEN,
    Gate,
    Parking,
    SlicedAndParking,
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
from tests.support.waiting import settle, until


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
        await settle()
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
        (serving,) = work_of(engine).serving
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
        await engine.projections.resume("sums")
        await rebuilt(engine)

        assert await sums(engine, at=2) == {"b": 10}
    async with summing(Parking, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine) == {"a": 1}, "what was skipped for version 2 is in version 1"
