"""Who looks on is told of no more than what the state contains that its answer has read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Limits, Onlooker, Overloaded, Views, answers
from tests.outside.looking import add, looking, the_next
from tests.support.counters import Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTallies, Tallies, Tally, get_tallies


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/log.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema(), "lease=1")


@pytest.mark.parametrize("watched", [False, True])
async def test_tables_that_are_full_again_make_no_answer_of_emptied_ones_true(
    url: str, watched: bool
) -> None:
    """They are emptied before an answer reads, and folded again before it ends."""
    steps = [asyncio.Event() for _ in range(4)]
    begun, may_read, has_read, may_end = steps

    @answers
    async def late(query: GetTallies, views: Views) -> list[Tally]:
        begun.set()
        await may_read.wait()
        rows: list[Any] = await views.find(Tallies.rows)
        has_read.set()
        await may_end.wait()
        return rows

    made = Engine([Counter], projections=[Tallies], answers=[get_tallies], store=url)
    async with made as engine, looking(url, late) as looker, asyncio.timeout(10):
        receipt = await add(engine, "a", 1)
        watching = looker.watch(GetTallies())
        asking = asyncio.ensure_future(
            the_next(watching) if watched else looker.query(GetTallies(), at=receipt)
        )
        await begun.wait()
        await engine.projections.pause("tallies")
        await engine.projections.reset("tallies")
        may_read.set()
        await has_read.wait()
        await engine.projections.resume("tallies")
        assert await engine.query(GetTallies(), at=receipt) == [Tally("a", 1, 1)]
        may_end.set()

        if watched:
            assert (await asking, watching.position) == ([], 0)
            assert await the_next(watching) == [Tally("a", 1, 1)]
            assert watching.position == receipt.position
        else:
            assert await asking == [Tally("a", 1, 1)]


async def test_who_watches_from_outside_is_one_of_so_many(url: str) -> None:
    made = Engine([Counter], projections=[Tallies], answers=[get_tallies], store=url)
    bounded = Onlooker(
        projections=[Tallies], answers=[get_tallies], store=url, limits=Limits(watches=2)
    )
    async with made, bounded as looker, asyncio.timeout(10):
        watching = [looker.watch(GetTallies()) for _ in range(3)]
        assert [await anext(one) for one in watching[:2]] == [[], []]
        with pytest.raises(Overloaded, match="2 watch queries already \\(Limits.watches\\)"):
            await anext(watching[2])
        await watching[0].aclose()
        assert await anext(watching[2]) == []
        del watching[1:]  # and nobody closes them
        more = [looker.watch(GetTallies()) for _ in range(2)]
        assert [await anext(one) for one in more] == [[], []]
