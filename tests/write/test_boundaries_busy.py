"""Decisions on boundaries whose events come all the time are made, and not put off for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Closed, Engine, Receipt, Voided
from engine.stores.contract.tags import TagPage, TagRead
from tests.support.held_store import HeldStore, not_written
from tests.write.courses import Course, Enrol, Offer, Seize, school

BOTH = pytest.mark.parametrize("store", ["memory", "sqlite"])

_COUNT = 15


async def note(engine: Engine, desk: str) -> None:
    """Let an aggregate write what the boundary folds, as fast as it can."""
    with contextlib.suppress(Closed):
        while True:
            await engine.execute(Seize(desk, "c", "note"))


def url(store: str, folder: Path) -> str:
    return "memory:" if store == "memory" else f"sqlite:{folder}/log.db"


@BOTH
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


@BOTH
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


@BOTH
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


class Reading(HeldStore):
    """Notes behind which positions boundaries were read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[TagRead] = []

    async def read_tagged(self, reads: Sequence[TagRead], **bounds: Any) -> Sequence[TagPage]:
        self.reads += reads
        return await super().read_tagged(reads, **bounds)


async def test_a_boundary_reads_on_where_a_decision_on_it_was_not_stored() -> None:
    """By a conflict and by a store that could not write, with and without a key."""
    store = Reading()
    async with school(store=store) as engine:
        await engine.execute(Offer("c", 9))
        for _ in range(5):
            await engine.execute(Seize("d", "c", "note"))
        await engine.execute(Enrol("c", "s"), key="k")
        store.reads.clear()
        for attempt in range(3):
            store.hold()
            before = len(store.batches)
            held = asyncio.ensure_future(engine.execute(Seize("d", None, "holds the batch")))
            while len(store.batches) == before:
                await asyncio.sleep(0)
            sent = [
                asyncio.ensure_future(engine.execute(Seize("d", "c", "note"))),
                asyncio.ensure_future(engine.execute(Enrol("c", f"t{attempt}"), key=f"t{attempt}")),
            ]
            for _ in range(9):
                await asyncio.sleep(0)
            store.release()
            await asyncio.gather(held, *sent)
        store.failures.append(not_written())
        with pytest.raises(Voided):
            await engine.execute(Enrol("c", "u"), key="u")

        assert (await engine.execute(Enrol("c", "u"), key="u")).reply == 4
        assert (await engine.execute(Enrol("c", "s"), key="k")).reply == 8
        assert (await engine.execute(Enrol("c", "t1"), key="t1")).reply == 6
        of_course = [read for read in store.reads if read.tags == ("course:c",)]
        assert engine.statistics().journal.conflicts == 3
        assert len(of_course) == 4
        assert min(read.after for read in of_course) > 5
        assert (await engine.state(Course, "c")).taken == 5
