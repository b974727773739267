"""Members that share a log's projections, where the views of one projection are refused to them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import Engine, Projection, ProjectionUnserved, Query, Views, answers
from engine.integrations.problems import problem_of
from engine.members.duties import life
from tests.members.duties_shop import GetLine, Ledger0, Ledger1, get_line
from tests.members.joining import part
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.waiting import until


class Newer(Ledger1, name="ledger1", version=2):
    """The same in a release that is rolled back."""


class GetFirst(Query[list[int]]):
    counter: str


@answers
async def get_first(query: GetFirst, views: Views) -> list[int]:
    row = await views.get(Ledger0.lines, query.counter)
    return [] if row is None else row.positions


def _of(log: str, release: str, ledger: type[Projection], **options: Any) -> Engine:
    return Engine(
        [Counter],
        projections=[Ledger0, ledger],
        answers=[get_first] if ledger is Newer else [get_first, get_line],
        store=log,
        join=True,
        share_projections=True,
        release=release,
        **options,
    )


async def _rolled_back(log: str, former: Engine) -> None:
    """Have the tables of a newer release, and then processes of the former one alone."""
    async with _of(log, "shop 42", Newer, rebuild="auto") as newer:
        await newer.execute(Add("a", 1))
        await former.__aenter__()  # it starts, since the newer release runs what both declare
    await until(lambda: part(former).duties == ("ledger0",))


async def test_the_refused_views_of_one_projection_stop_no_other(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(life, "_LEFT_SECONDS", 3600.0)
    log = postgres.url(postgres.new_schema(), "lease=9")
    former = _of(log, "shop 41", Ledger1)
    await _rolled_back(log, former)
    try:
        receipt = await former.execute(Add("a", 1))
        assert await former.query(GetFirst("a"), at=receipt, timeout=20) == [1, 2]
        await until(lambda: former.statistics().projectors["ledger1"].state == "stopped")
        why = "ledger1' is run by no process.*as version 1 .* its views are version 2"
        with pytest.raises(ProjectionUnserved, match=why) as raised:
            await former.query(GetLine("a"), at=receipt)
        assert problem_of(raised.value).code == "views-refused"
        assert (await former.projections.status("ledger1")).state == "stopped"
        failing = [one for one in (await former.health()).failing if one.name == "projection"]
        assert [one.of for one in failing] == ["ledger1"]
        assert "no process runs it" in failing[0].says
        told = [one for one in caplog.records if "does not run projection ledger1" in one.message]
        assert len(told) == 1
    finally:
        await former.__aexit__(None, None, None)


async def test_what_was_refused_is_left_to_others_and_tried_again(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "_LEFT_SECONDS", 3600.0)
    log = postgres.url(postgres.new_schema(), "lease=9")
    former = _of(log, "shop 41", Ledger1)
    await _rolled_back(log, former)
    try:
        await until(lambda: former.statistics().projectors["ledger1"].state == "stopped")
        async with _of(log, "shop 41", Ledger1, rebuild="auto") as builder:
            receipt = await builder.execute(Add("a", 1))
            assert await builder.query(GetLine("a"), at=receipt, timeout=20) == [1, 2]
            assert await former.query(GetLine("a"), at=receipt, timeout=20) == [1, 2]
            await until(lambda: "ledger1" in part(builder).duties)
        # Nobody declares it again: until it is tried again it stands where it was left.
        await until(lambda: former.statistics().projectors["ledger1"].state == "stopped")
        joined: Any = former._joined  # pyright: ignore[reportPrivateUsage]
        joined._duties._left_until = {"ledger1": 0.0}  # the time is over
        joined._duties._wake.set()
        await until(lambda: {*part(former).duties} == {"ledger0", "ledger1"})
        receipt = await former.execute(Add("a", 1))
        assert await former.query(GetLine("a"), at=receipt, timeout=20) == [1, 2, 3]
    finally:
        await former.__aexit__(None, None, None)


async def test_who_waits_for_a_projection_is_told_at_once_that_it_is_kept_otherwise(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with _of(log, "shop 41", Ledger1) as engine:
        await engine.projections.pause("ledger1", reason="so that somebody waits")
        receipt = await engine.execute(Add("a", 1))
        waiting = asyncio.create_task(engine.query(GetLine("a"), at=receipt, timeout=600))
        joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
        views = joined._onlooker
        await until(lambda: views._answers._waits == 1)
        views.leave_out_too({"ledger1": ProjectionUnserved("ledger1", "shop 42", 2)})
        async with asyncio.timeout(30):
            with pytest.raises(ProjectionUnserved, match="release 'shop 42'"):
                await waiting
