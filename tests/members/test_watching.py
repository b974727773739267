"""Queries that a member watches, while views are taken back and others stand still."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Projection, Row, Table, projects
from engine.outside.onlooker import Onlooker
from tests.members.joining import some
from tests.support.counters import Add, Added, Counter
from tests.support.tallies import GetTally, Tallies, Tally, get_tally


async def test_the_first_answer_contains_what_it_is_to_though_that_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[object] = []
    wait = Onlooker.query

    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        receipt = await owner.execute(Add("c", 7))
        await owner.query(GetTally("c"), at=receipt)

        async def query(self: Onlooker, *asked: Any, **options: Any) -> object:
            """Take the views back once they are there, and let them go on when asked anew."""
            if waited:
                await owner.projections.resume("tallies")
            waited.append(await wait(self, *asked, **options))
            if len(waited) == 1:
                await owner.projections.pause("tallies")
                await owner.projections.reset("tallies")
            return waited[-1]

        monkeypatch.setattr(Onlooker, "query", query)
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"), at=receipt)))

        assert await anext(watch) == Tally("c", 7, 1)
        assert watch.position >= receipt.position
    assert len(waited) == 2


class Seen(Row, key="counter"):
    counter: str


class Others(Projection, name="others", version=1):
    rows: Table[Seen]

    @projects
    def added(self, event: Added) -> None: ...


async def test_a_projection_that_an_answer_does_not_read_holds_back_no_position(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = [
            Engine(
                [Counter],
                projections=[Tallies, Others],
                answers=[get_tally],
                store=f"sqlite:{tmp_path}/log.db",
                join=True,
            )
            for _ in range(2)
        ]
        for engine in (owner, member):
            await stack.enter_async_context(engine)
        await owner.projections.pause("others")
        receipt = await owner.execute(Add("c", 7))
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"))))
        while await anext(watch) is None:
            pass

        assert watch.position == receipt.position
