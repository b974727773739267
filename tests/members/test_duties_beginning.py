"""Members that share a log's projections, on a log whose projections have no tables yet."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from engine import (
    Command,
    Engine,
    Meta,
    Ports,
    ProjectionUnserved,
    Reactor,
    Views,
    answers,
    reacts,
)
from engine.integrations.opentelemetry_instruments import (
    _run_here,  # pyright: ignore[reportPrivateUsage]
)
from engine.members.duties import life
from engine.members.duties.whose import declares
from engine.members.wire import PROTOCOL, Welcome
from engine.stores.contract.membership import View
from engine.stores.urls import open_backend
from tests.members.duties_shop import (
    PROJECTIONS,
    GetLine,
    Ledger0,
    Ledger1,
    sharing,
    until_reached,
)
from tests.members.joining import part
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server
from tests.support.waiting import until

LOGGER = logging.getLogger("foldline")


class Nobody(Reactor, name="nobody", version=1, begins="now"):
    @reacts
    def added(self, event: Added, meta: Meta) -> Command | None:
        return None


class Renamed(Ledger0, name="renamed", version=1):
    """Another name for it."""


async def _one_that_stands_still(log: str) -> Any:
    """Give a member that runs what is its own by what others know, and begins nothing."""
    async with Engine([Counter], store=log):
        pass  # it has made the log, and no tables of any projection
    backend: Any = open_backend(log)
    declared = json.dumps(declares(one.__definition__ for one in PROJECTIONS))
    heard: list[View] = []
    silent = backend.outside(Ports()).runner("one", declared, heard.append, LOGGER)
    await silent.join()
    return silent


async def test_a_start_waits_for_the_tables_that_others_are_to_make(postgres: Server) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    silent = await _one_that_stands_still(log)
    async with sharing(log) as engine:
        assert await engine.query(GetLine("a")) == []
    await silent.close()


async def test_a_start_waits_so_long_and_says_what_lacks(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(life, "_MADE_SECONDS", 0.0)
    log = postgres.url(postgres.new_schema(), "lease=60")
    silent = await _one_that_stands_still(log)
    async with sharing(log) as engine:
        assert "ledger0, ledger1, ledger2, ledger3, tallies, told have no tables" in caplog.text
        assert (await engine.execute(Add("a", 1))).version == 1
    await silent.close()


async def test_what_another_engine_of_the_program_runs_is_no_table_of_nobodys(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=2")
    for projections in ([Ledger0, Nobody], [Ledger0, Ledger1, Nobody]):
        async with sharing(log, projections=projections):
            pass  # in the second one a duty has no tables yet, and the reactor's are the owner's
        assert "declared by nobody" not in caplog.text
    async with sharing(log, projections=[Renamed, Ledger1, Nobody]):
        pass
    assert "projections renamed have no tables in " in caplog.text
    assert "and those of ledger0 are there and declared by nobody" in caplog.text
    assert "nobody, " not in caplog.text


async def test_what_processes_of_another_release_run_is_no_table_of_nobodys(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    async with sharing(log, projections=[Ledger0]), sharing(log, projections=[Renamed]) as newer:
        receipt = await newer.execute(Add("a", 1))
        assert part(newer).duties == ("renamed",)
        await until_reached(newer, "renamed", receipt.position)
    assert "declared by nobody" not in caplog.text


async def test_a_member_tells_no_numbers_of_reactors_that_the_owner_runs(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    given: Any = {"projections": [Ledger0, Nobody]}
    async with sharing(log, **given) as owner, sharing(log, **given) as member:
        await owner.execute(Add("a", 1))
        await until(lambda: owner.statistics().projectors["nobody"].state == "live")
        told = member.statistics().projectors["nobody"]
        assert (told.state, told.lag_events) == ("elsewhere", None)
        assert "nobody" not in _run_here(member.statistics())
        assert "nobody" in _run_here(owner.statistics())


class Newer(Ledger1, name="ledger1", version=2):
    """The same in another release."""


@answers
async def get_newer(query: GetLine, views: Views) -> list[int]:
    row = await views.get(Newer.lines, query.counter)
    return [] if row is None else row.positions


def _of_the_newer_release(log: str) -> Engine:
    return Engine(
        [Counter],
        projections=[Newer],
        answers=[get_newer],
        store=log,
        join=True,
        share_projections=True,
        rebuild="auto",
        release="shop 42",
    )


async def test_who_runs_a_projection_says_of_which_release_it_is_and_not_the_owner(
    postgres: Server,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=9")
    backend: Any = open_backend(log)
    async with sharing(log, projections=[Ledger1], release="shop 41") as former:
        owner = Welcome(1, PROTOCOL, "log", release="shop 42", keeps={"ledger1": (2, "other")})
        joined: Any = former._joined  # pyright: ignore[reportPrivateUsage]
        await joined.begin_joining(owner)
        receipt = await former.execute(Add("a", 1))
        assert await former.query(GetLine("a"), at=receipt, timeout=20) == [1]
    # A process of the former release that owns nothing, and runs the projection.
    text = json.dumps(declares([Ledger1.__definition__], "shop 41"))
    heard: list[View] = []
    runner = backend.outside(Ports()).runner("one", text, heard.append, LOGGER)
    await runner.join()
    running = asyncio.create_task(runner.run())
    async with _of_the_newer_release(log) as newer:
        with pytest.raises(ProjectionUnserved, match="release 'shop 41'.* version 1 of it"):
            await newer.query(GetLine("a"), at=receipt)
        running.cancel()
        await asyncio.wait([running])
        await runner.close()
        joined = newer._joined  # pyright: ignore[reportPrivateUsage]
        await until(lambda: not joined._duties.unserved())
        assert await newer.query(GetLine("a"), at=receipt, timeout=20) == [1]
