"""Calls whose callers leave, calls at once, and the end of the engine meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from engine import (
    Closed,
    Engine,
    UsageError,
)
from tests.projections.summing import (
    AILING,
    SECONDS,
    Gate,
    Parking,
    SlicedAndParking,
    Stopping,
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
from tests.support.waiting import until

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
