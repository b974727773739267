"""Waiting for a projector, and how long its batches wait for more events."""

from __future__ import annotations

import asyncio

import pytest

from engine import Limits
from engine.projections.arrivals import MANY_EVENTS, Arrivals
from tests.support.shelf import Bought, Counts, Log, Wired, part_of
from tests.support.waiting import until


async def gathering(arrivals: Arrivals, seconds: float) -> asyncio.Task[None]:
    """Begin to gather behind a batch that was taken just now."""
    await arrivals.let_gather(seconds)
    arrivals.took(MANY_EVENTS)
    return asyncio.create_task(arrivals.let_gather(seconds))


async def turns() -> None:
    for _ in range(9):
        await asyncio.sleep(0)


async def test_the_first_batch_after_a_rest_is_taken_at_once() -> None:
    async with asyncio.timeout(10):
        await Arrivals().let_gather(1e-9)


async def test_events_gather_until_their_time_has_come() -> None:
    loop = asyncio.get_running_loop()
    arrivals = Arrivals()
    begin = loop.time()
    await (await gathering(arrivals, 0.02))

    assert loop.time() - begin >= 0.02


@pytest.mark.parametrize("hurry", ["a wait", "a call"])
async def test_whoever_waits_ends_the_gathering(hurry: str) -> None:
    arrivals = Arrivals()
    batch = await gathering(arrivals, 1e9)
    await turns()
    assert not batch.done()
    if hurry == "a call":
        arrivals.hurry()
    else:
        waiting = asyncio.create_task(arrivals.wait(7, None))
    async with asyncio.timeout(10):
        await batch
    if hurry == "a wait":
        async with asyncio.timeout(5):
            await arrivals.let_gather(1e9)  # nor does the next one gather, while somebody waits
        arrivals.answer(7, ended=False)
        assert await waiting


async def test_few_events_are_taken_at_once() -> None:
    arrivals = Arrivals()
    async with asyncio.timeout(5):
        for events in (0, MANY_EVENTS - 1, 1):
            arrivals.took(events)
            await arrivals.let_gather(1e9)


async def test_a_projector_that_nobody_waits_for_takes_what_came_meanwhile_in_one_batch() -> None:
    log = Log()
    async with Wired(log, ":memory:", [Counts], limits=Limits(projector_gather_ms=10**9)) as wired:
        for events in (1, MANY_EVENTS):  # the first may have been read from the log
            await until(lambda: wired.projector.state == "live")
            wired.publish(*[Bought("b")] * events)
            await wired.caught_up()
        for _ in range(2):
            wired.publish(Bought("b"))
            await turns()
        assert (await wired.views.checkpoint(part_of(Counts))).position == 1 + MANY_EVENTS
        await wired.caught_up()

        assert wired.projector.statistics().batch_events.count == 3


async def test_a_projector_may_be_told_to_gather_nothing() -> None:
    log = Log()
    async with Wired(log, ":memory:", [Counts], limits=Limits(projector_gather_ms=0)) as wired:
        for _ in range(3):
            wired.publish(*[Bought("b")] * MANY_EVENTS)
            await until(lambda: wired.projector.position == len(log.events))

        assert wired.projector.statistics().batch_events.count == 3
