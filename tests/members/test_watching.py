"""Queries that a member watches, while views are taken back and others stand still."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, InvalidInput, Projection, Row, Table, projects
from engine.members.wire import Line
from engine.outside import onlooker
from engine.outside.onlooker import Onlooker
from engine.runtime.shared_call import SharedCall
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


async def test_a_member_asks_for_the_end_of_the_log_only_where_nobody_has_told_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ends: Any = vars(onlooker)["_LogEnd"]
    head = ends.head

    async def counted(self: Any) -> object:
        asked.append(self)
        return await head(self)

    monkeypatch.setattr(ends, "head", counted)
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        receipt = await member.execute(Add("c", 7))

        assert await member.query(GetTally("c"), at=receipt) == Tally("c", 7, 1)
        assert not asked
        with pytest.raises(InvalidInput, match=f"the log ends at {receipt.position}"):
            await member.query(GetTally("c"), at=receipt.position + 1)
        assert len(asked) == 1
        found: Any = member
        forwarding = found._joined.forwarding

        def nothing(*_: object) -> None: ...

        forwarding.connected(Line(nothing, nothing))
        assert forwarding.position == 0, "another owner may have another log behind a failover"


async def test_who_waits_for_a_look_is_told_by_the_one_that_is_under_way() -> None:
    """What was asked for before may be enough; where it is not, a look from now on is taken."""
    looks = [asyncio.Event() for _ in range(3)]
    begun: list[int] = []

    async def look() -> int:
        begun.append(len(begun))
        number = begun[-1]
        await looks[number].wait()
        return number

    shared = SharedCall(look)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)
    told = asyncio.create_task(shared(lambda: True))
    doubtful = asyncio.create_task(shared(lambda: False))
    plain = asyncio.create_task(shared())
    await asyncio.sleep(0)
    looks[0].set()

    assert await first == await told == 0
    assert not doubtful.done()
    assert not plain.done()
    looks[1].set()
    assert await doubtful == await plain == 1


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
