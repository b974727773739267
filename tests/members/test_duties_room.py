"""Members that share a log's projections, where the server has too few connections for them."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, Ports
from tests.members.duties_shop import ALL, GetLine, begun, beside, sharing, until_reached
from tests.members.joining import part
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.scarce import Scarce
from tests.support.waiting import until


def _duties(engine: Engine) -> Any:
    joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    return joined._duties


async def test_without_a_connection_for_one_more_engine_all_is_run_by_one(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    scarce = Scarce()
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log, ports=Ports(database=scarce)) as engine:
        duties = _duties(engine)
        me = duties._part.view.members[0]
        duties._heed(beside(me))
        await until(lambda: duties.names and list(duties.names) != ALL)
        end = (await engine.execute(Add("a", 1))).position
        for name in duties.names:
            if not name.startswith("ledger3"):
                await until_reached(engine, name, end)  # now it has all connections that it needs
        scarce.most = len(scarce.open()) + 1  # and an engine has more than one
        duties._heed(duties._part.view)
        await until(lambda: list(duties.names) == ALL)
        assert len(duties._running) == 1
        end = (await engine.execute(Add("a", 1))).position
        for name in ALL:
            await until_reached(engine, name, end)
        assert "this process runs all its projections by one engine" in caplog.text


async def test_what_has_no_connection_is_left_to_others_until_there_are_some(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    scarce = Scarce()
    log = postgres.url(postgres.new_schema(), "lease=60")
    other = sharing(log)
    await other.__aenter__()
    async with sharing(log, ports=Ports(database=scarce)) as last:
        await begun([other, last])
        scarce.most = len(scarce.open())
        end = (await other.execute(Add("a", 1))).position
        await until(lambda: list(part(other).duties) == ALL)
        for name in ALL:
            await until_reached(other, name, end)
        assert part(last).duties == ()
        assert "this process leaves projections ledger0, ledger1, " in caplog.text
        # Nobody else has them any more.
        scarce.most = 1_000
        await other.__aexit__(None, None, None)
        await until(lambda: list(part(last).duties) == ALL)
        receipt = await last.execute(Add("a", 1))
        assert await last.query(GetLine("a"), at=receipt, timeout=20) == [1, 2]


async def test_what_was_left_for_want_of_connections_is_taken_back_in_time(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log) as other, sharing(log) as last:
        await begun([other, last])
        _duties(last)._room.lack()
        await until(lambda: list(part(other).duties) == ALL)
        _duties(last)._left_until = dict.fromkeys(ALL, 0.0)  # the time is over
        _duties(last)._wake.set()
        await begun([other, last])


async def test_who_came_first_leaves_nothing_where_others_have_left_theirs(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log) as first, sharing(log) as last:
        await begun([first, last])
        _duties(first)._room.lack()
        _duties(last)._room.lack()
        await until(lambda: list(part(first).duties) == ALL)
        _duties(first)._room.lack()
        end = (await first.execute(Add("a", 1))).position
        for name in ALL:
            await until_reached(first, name, end)
        told = [one for one in caplog.messages if "leaves projections" in one]
        assert len(told) == 1


async def test_what_waits_for_a_connection_is_told_so_and_no_owner_is_blamed(
    postgres: Server,
) -> None:
    scarce = Scarce()
    log = postgres.url(postgres.new_schema(), "lease=60")
    async with sharing(log, ports=Ports(database=scarce)) as engine:
        duties = _duties(engine)
        scarce.most = 0
        for term in duties._running:
            term.right.is_lost = True
        duties._wake.set()
        await until(lambda: duties.standing_still("ledger1") == "retrying")
        assert engine.statistics().projectors["ledger1"].state == "retrying"
        report = await engine.health()
        assert (report.ready, report.failing) == (True, ())
        states = {one.of: one.value for one in report.checks if one.name == "projection"}
        assert set(states.values()) == {"retrying"}
        scarce.most = 1_000
        receipt = await engine.execute(Add("a", 1))
        assert await engine.query(GetLine("a"), at=receipt, timeout=20) == [1]
