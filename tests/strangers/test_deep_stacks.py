"""Calls from a stack that is nearly used up: each is done whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine import Engine, Limits, Overloaded
from engine.runtime.bell import Bell
from engine.write.mailbox import Intake
from tests.strangers.unruly import Ask, Inn, Jar, Put, answer
from tests.support.waiting import until

# A coroutine that there was no room to begin is told of by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def depth_of_stack() -> int:
    depth = 0
    frame = inspect.currentframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


async def at_each_depth(call: Callable[[int], Awaitable[Any]], levels: int) -> int:
    """Make a call once for each number of free levels up to this; give how many had no room."""
    refused = 0

    async def dive(further: int, n: int) -> None:
        if further:
            await dive(further - 1, n)
        else:
            await call(n)

    room = sys.getrecursionlimit() - depth_of_stack()
    for free in range(levels):
        try:
            await asyncio.create_task(dive(room - free, free))
        except RecursionError:
            refused += 1
    gc.collect()
    return refused


@pytest.mark.parametrize("warm", [False, True])
async def test_a_command_from_a_deep_stack_hangs_nobody(warm: bool) -> None:
    async with Engine([Jar]) as engine:

        async def call(n: int) -> None:
            await engine.execute(Put("warm" if warm else f"j{n}"), deadline=20.0)

        assert await at_each_depth(call, 120)
        for n in range(3):
            receipt = await answer(engine, Put(f"other-{n}"))
            assert not isinstance(receipt, Exception), receipt
        assert not isinstance(await answer(engine, Put("warm")), Exception)
        assert engine.statistics().commands.open == 0, "what was refused is not counted"


async def test_a_full_engine_from_a_deep_stack_is_not_full_for_ever() -> None:
    let_go = asyncio.Event()
    engine = Engine(
        [Jar, Inn], limits=Limits(resident_aggregates=2), resources={asyncio.Event: let_go}
    )
    async with engine:
        held = [asyncio.ensure_future(engine.execute(Ask(f"inn-{n}"))) for n in range(2)]
        await until(lambda: engine.statistics().handlers_running == 2)

        async def call(n: int) -> None:
            with contextlib.suppress(Overloaded):
                await engine.execute(Put(f"j{n}"))

        assert await at_each_depth(call, 100)
        let_go.set()
        await asyncio.gather(*held)
        assert not isinstance(await answer(engine, Put("after")), Exception)


async def test_a_bell_is_rung_whole_or_not_at_all() -> None:
    bell = Bell()
    woken = asyncio.ensure_future(bell.wait())
    await asyncio.sleep(0)
    refused = 0

    async def call(_: int) -> None:
        nonlocal refused
        try:
            bell.set()
        except RecursionError:
            refused += 1
            assert not bell.is_set()

    await at_each_depth(call, 90)
    assert refused
    bell.set()
    assert await asyncio.wait_for(woken, 1)


async def test_what_is_counted_is_counted_whole() -> None:
    intake = Intake(10)

    async def call(_: int) -> None:
        before = intake.open
        try:
            intake.accepted()
        except RecursionError:
            assert intake.open == before
        else:
            intake.open -= 1

    await at_each_depth(call, 30)
    assert intake.open == 0
