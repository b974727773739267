"""Members that share a log's projections: who runs what, and what becomes of it as they go."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from engine import Ports
from engine.__main__ import main
from engine.members.duties.whose import declares
from engine.stores.contract.membership import View
from engine.stores.urls import open_backend
from tests.members.duties_shop import (
    ALL,
    PROJECTIONS,
    GetLine,
    begun,
    beside,
    differences,
    projections,
    sharing,
    until_reached,
    whole,
)
from tests.members.joining import part
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.waiting import until

LOGGER = logging.getLogger("foldline")


async def test_each_projection_is_run_by_one_member_and_read_at_any(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(sharing(log)) for _ in range(3)]
        await begun(engines)
        for n in range(30):
            await engines[n % 3].execute(Add(f"c{n % 4}", 1))
        receipt = await engines[0].execute(Add("c1", 1))
        for engine in engines:
            assert receipt.position in await engine.query(GetLine("c1"), at=receipt, timeout=20)
            states = {n: p.state for n, p in engine.statistics().projectors.items()}
            here = {name for name, state in states.items() if state != "elsewhere"}
            assert here == projections(part(engine).duties)
        for name in ALL:
            await until_reached(engines[0], name, receipt.position)
        assert await differences(postgres, log) == []


async def test_foldline_members_shows_who_runs_what(
    postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=5")
    async with sharing(log) as one, sharing(log) as other:
        await begun([one, other])
        receipt = await other.execute(Add("a", 1))
        for name in ALL:
            await until_reached(one, name, receipt.position)
        assert await asyncio.to_thread(main, ["members", log, "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found = {line["duty"]: line for line in told if "duty" in line}
        assert whole(list(found)) == ALL
        for engine in (one, other):
            mine = {name for name, line in found.items() if line["member"] == part(engine).member}
            assert mine == set(part(engine).duties)
        assert {(line["lag_events"], line["state"]) for line in found.values()} == {(0, "live")}
        assert all(0 < line["lease"] <= 5 for line in found.values())
        assert await asyncio.to_thread(main, ["members", log]) == 0
        assert "RUN BY" in capsys.readouterr().out
        facts = await one._health._facts()  # pyright: ignore[reportPrivateUsage]
        assert {
            each.name: (each.state, each.lag_events) for each in facts.projections
        } == dict.fromkeys(ALL, ("live", 0))


async def test_nothing_is_begun_before_all_former_members_have_seen_who_came(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with sharing(log):
        pass  # it has made the log
    backend: Any = open_backend(log)
    outside = backend.outside(Ports())
    declared = json.dumps(declares(one.__definition__ for one in PROJECTIONS))
    heard: list[View] = []
    silent = outside.runner("one that stands still", declared, heard.append, LOGGER)
    await silent.join()
    seen = silent.view.number
    async with sharing(log) as engine:
        duties: Any = engine._joined._duties  # type: ignore[union-attr] # pyright: ignore
        assert duties.terms == 0
        await until(lambda: list(part(engine).duties) == ALL)
        view = await asyncio.to_thread(outside.runners)
        assert [one.member for one in view.members] == [part(engine).member]
        assert view.number > seen + 1
    await silent.close()


async def test_what_another_member_gets_is_lost_before_the_view_counts_as_seen(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log) as engine:
        duties: Any = engine._joined._duties  # type: ignore[union-attr] # pyright: ignore
        right = duties._running[0].right
        me = duties._part.view.members[0]
        other = msgspec.structs.replace(me, member=me.member + 1)
        assert right.number == duties._part.view.number
        duties._heed(View(me.view_seen + 1, (me, other)))
        assert right.number == -1
        # It is its own again, and the views are opened anew.
        duties._heed(duties._part.view)
        receipt = await engine.execute(Add("a", 1))
        for name in ALL:
            await until_reached(engine, name, receipt.position)
        assert duties._running[0].right is not right
        assert await differences(postgres, log) == []


async def test_a_member_that_leaves_is_followed_and_one_that_comes_gets_its_part(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(sharing(log))
        assert list(part(first).duties) == ALL
        async with sharing(log) as second, sharing(log) as third:
            await begun([first, second, third])
            await first.execute(Add("a", 1))
        await until(lambda: list(part(first).duties) == ALL)
        receipt = await first.execute(Add("a", 1))
        assert await first.query(GetLine("a"), at=receipt, timeout=20) == [1, 2]
        for name in ALL:
            await until_reached(first, name, receipt.position)
        assert await differences(postgres, log) == []


async def test_what_a_member_gains_lets_nothing_rest_that_it_runs_already(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log) as engine:
        duties: Any = engine._joined._duties  # type: ignore[union-attr] # pyright: ignore
        me = duties._part.view.members[0]
        duties._heed(beside(me))
        await until(lambda: duties.names and list(duties.names) != ALL)
        kept = duties._running[0]
        duties._heed(duties._part.view)
        await until(lambda: list(duties.names) == ALL)
        assert duties._running[0] is kept
        assert not kept.right.is_lost
        receipt = await engine.execute(Add("a", 1))
        for name in ALL:
            await until_reached(engine, name, receipt.position)
        assert await differences(postgres, log) == []
