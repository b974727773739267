"""Who looks from another process sees the same, whether a log is in SQLite or in PostgreSQL."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from engine import Archive, Onlooker, Ports, Query, Views, answers
from engine.testing.scenario import ManualClock
from tests.outside.copied import (
    BOTH,
    Board,
    Count,
    Counts,
    GetCounts,
    Letters,
    NewStore,
    Pin,
    boards,
    filled,
    get_counts,
)


class GetCounted(Query[list[Count]]):
    pass


@answers
async def get_counted(query: GetCounted, views: Views) -> list[Count]:
    return await views.find(Counts.rows, order_by="board")


pytestmark = pytest.mark.parametrize("kind", BOTH)


async def test_an_archive_tells_what_was(new: NewStore, kind: str) -> None:
    store, clock = new(kind), ManualClock(1_000_000)
    async with boards(store, ports=Ports(clock=clock)) as engine:
        await filled(engine, clock)
    async with Archive(
        [Board], store=store, projections=[Counts], answers=[get_counted]
    ) as archive:
        history = [entry async for entry in archive.history(Board, "b1", after=6)]
        before = await archive.state(Board, "b1", version=2)
        at = await archive.state(Board, "b1", at=9_000_000)
        changes = await archive.difference(Board, "b1", 1, 2)
        async with archive.past(position=12) as past:
            counts = await past.query(GetCounted())

    assert [(entry.meta.position, entry.meta.recorded) for entry in history] == [
        (20, 20_000_000),
        (23, 23_000_000),
    ]
    assert before.notes == ["note 1", "note 4"]
    assert at.notes == ["note 1", "note 4", "poison"]
    assert len(changes) == 1
    assert counts == [Count(f"b{n}", 4) for n in range(3)]


async def test_an_onlooker_sees_what_is_and_what_comes(new: NewStore, kind: str) -> None:
    store = new(kind)
    async with boards(store) as engine:
        await filled(engine)
        async with Onlooker(
            projections=[Counts, Letters], answers=[get_counts], store=store
        ) as seen:
            assert await seen.query(GetCounts(), at=24) == [Count(f"b{n}", 8) for n in range(3)]
            assert await seen.positions() == {"counts": 24, "letters": 24}
            async with aclosing(seen.watch(GetCounts())) as watch:
                first = await anext(watch)
                await engine.execute(Pin("b9", "new"))
                then = await anext(watch)

    assert [count.board for count in first] == ["b0", "b1", "b2"]
    assert then == [*first, Count("b9", 1)]
