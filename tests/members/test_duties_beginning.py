"""Members that share a log's projections, on a log whose projections have no tables yet."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from engine import Command, Engine, Meta, Ports, Reactor, reacts
from engine.members.duties import life
from engine.members.duties.whose import declares
from engine.stores.contract.membership import View
from engine.stores.urls import open_backend
from tests.members.duties_shop import PROJECTIONS, GetLine, Ledger0, Ledger1, sharing
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server

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
