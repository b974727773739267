"""Decisions on boundaries whose events come all the time are made, and not put off for ever."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from engine import Closed, Engine, Receipt
from tests.write.courses import Course, Enrol, Offer, Seize, school

pytestmark = pytest.mark.parametrize("store", ["memory", "sqlite"])

_COUNT = 15


async def note(engine: Engine, desk: str) -> None:
    """Let an aggregate write what the boundary folds, as fast as it can."""
    with contextlib.suppress(Closed):
        while True:
            await engine.execute(Seize(desk, "c", "note"))


def url(store: str, folder: Path) -> str:
    return "memory:" if store == "memory" else f"sqlite:{folder}/log.db"


async def test_an_aggregate_that_writes_all_the_time_keeps_no_decision_waiting(
    store: str, tmp_path: Path
) -> None:
    async with school(store=url(store, tmp_path)) as engine:
        await engine.execute(Offer("c", 1_000))
        writing = [asyncio.ensure_future(note(engine, f"d{n}")) for n in range(4)]
        for number in range(_COUNT):
            receipt = await engine.execute(Enrol("c", f"s{number}"))
            assert receipt.reply == 999 - number
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)

        course = await engine.state(Course, "c")
        assert course.taken == _COUNT
        assert course.notes > _COUNT, "there was something in the way"
        assert engine.statistics().journal.conflicts <= _COUNT, "each was decided twice at most"


async def test_decisions_that_are_in_each_others_way_are_all_made(
    store: str, tmp_path: Path
) -> None:
    """Each has another boundary, and writes what those of all others fold."""
    async with school(store=url(store, tmp_path)) as engine:
        await engine.execute(Offer("c", 1_000))
        for number in range(_COUNT):
            await engine.execute(Enrol("c", f"s{number}"))
        moves = [engine.execute(Enrol("c", f"t{number}")) for number in range(_COUNT)]
        notes = [engine.execute(Seize(f"d{number}", "c", "note")) for number in range(_COUNT)]
        answers = await asyncio.gather(*moves, *notes, return_exceptions=True)

        assert [a for a in answers if not isinstance(a, Receipt)] == []
        assert (await engine.state(Course, "c")).taken == 2 * _COUNT


async def test_a_deadline_ends_a_decision_that_waits_for_its_batch(
    store: str, tmp_path: Path
) -> None:
    """Nothing of it is written, and the boundary goes on."""
    async with school(store=url(store, tmp_path)) as engine:
        await engine.execute(Offer("c", 1_000))
        writing = asyncio.ensure_future(note(engine, "d"))
        sent = [
            asyncio.ensure_future(engine.execute(Enrol("c", f"s{n}"), deadline=0.000_1 * n))
            for n in range(1, 12)
        ]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        await engine.execute(Enrol("c", "last"))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

        made = sum(isinstance(answer, Receipt) for answer in answers)
        assert (await engine.state(Course, "c")).taken == made + 1
