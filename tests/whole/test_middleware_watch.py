"""What stands before a watch: asked once and in order, never in its way, and never a leak."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from engine import (
    Engine,
    Forbidden,
    InvalidInput,
    Limits,
    Middleware,
    QueryCall,
    UsageError,
)
from tests.members.joining import some
from tests.support.counters import Add, Counter
from tests.support.tallies import GetTally, Tallies, Tally, get_tallies, get_tally


def tallied(*middleware: Middleware, **options: Any) -> Engine:
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        middleware=middleware,
        **options,
    )


class Noting(Middleware):
    """Notes what watches begin with, and hands on what it is told to."""

    def __init__(self, seen: list[Any], change: Callable[[QueryCall], Any] | None = None) -> None:
        self.seen, self.change = seen, change

    def watch(self, call: QueryCall) -> QueryCall:
        self.seen.append(call.principal)
        return call if self.change is None else cast("QueryCall", self.change(call))


class Asked(Middleware):
    """Async, around queries alone: no watch passes by it."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        self.seen.append("query")
        await asyncio.sleep(0)
        return await go_on(call)


def watched(engine: Engine, query: GetTally, **options: Any) -> Any:
    """Give a watch, which ends with its block."""
    return aclosing(cast("Any", engine.watch(query, **options)))


async def test_it_is_asked_once_in_order_and_each_new_answer_passes_by() -> None:
    seen: list[Any] = []
    outer = Noting(seen, lambda call: replace(call, principal=f"{call.principal}/outer"))
    inner = Noting(seen, lambda call: replace(call, query=GetTally("d")))
    async with tallied(outer, Asked(seen), inner) as engine:
        first = await engine.execute(Add("d", 1))
        async with watched(engine, GetTally("c"), at=first, principal="ann") as live:
            assert await anext(live) == Tally("d", 1, 1)
            for total in (2, 3):
                await engine.execute(Add("d", 1))
                answer = await anext(live)
                while answer.total < total:
                    answer = await anext(live)
                assert answer == Tally("d", total, total)

    assert seen == ["ann", "ann/outer"]


async def test_what_it_raises_or_gives_instead_is_raised_where_the_watch_begins() -> None:
    def refuse(_: QueryCall) -> None:
        raise LookupError("no such tenant")

    async def later(call: QueryCall) -> QueryCall:
        return call

    wrong = [
        (refuse, LookupError, "no such tenant"),
        (lambda call: call.query, UsageError, "a QueryCall"),
        (lambda _: None, UsageError, "a QueryCall"),
        (lambda call: replace(call, query=GetTally(cast("str", 7))), InvalidInput, "GetTally"),
    ]
    for change, error, told in wrong:
        async with tallied(Noting([], cast("Any", change)), limits=Limits(watches=1)) as engine:
            for _ in range(3):  # none of them takes a place
                with pytest.raises(error, match=told):
                    engine.watch(GetTally("c"))
            assert engine.statistics().live.watchers == 0
    coroutine = later(QueryCall(GetTally("c")))
    async with tallied(Noting([], lambda _: coroutine)) as engine:
        with pytest.raises(UsageError, match="a QueryCall"):
            engine.watch(GetTally("c"))
    coroutine.close()


async def test_authorize_is_asked_about_whom_it_has_made_of_the_caller() -> None:
    asked: list[Any] = []

    def allow(principal: str | None, action: str, _: object) -> bool:
        asked.append((principal, action))
        return principal == "shop/ann"

    tenant = Noting([], lambda call: replace(call, principal=f"shop/{call.principal}"))
    async with tallied(tenant, authorize=allow) as engine:
        async with watched(engine, GetTally("c"), principal="ann") as live:
            assert await anext(live) is None
        async with watched(engine, GetTally("c"), principal="eve") as live:
            with pytest.raises(Forbidden):
                await anext(live)

    assert asked == [("shop/ann", "query"), ("shop/eve", "query")]


async def test_it_stands_where_the_watch_is_begun_also_at_a_member(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with AsyncExitStack() as stack:
        owner, _ = await some(tmp_path, 2, stack)
        mine = tallied(Noting(seen), store=f"sqlite:{tmp_path}/log.db", join=True)
        member = await stack.enter_async_context(mine)
        receipt = await owner.execute(Add("c", 7))
        async with watched(member, GetTally("c"), at=receipt, principal="ann") as live:
            assert await anext(live) == Tally("c", 7, 1)
        async with watched(owner, GetTally("c"), at=receipt, principal="ann") as live:
            assert await anext(live) == Tally("c", 7, 1)

    assert seen == ["ann"]
