"""Who looks on from outside while the server of the log restarts, or ends connections at rest."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from engine import Archive, Onlooker, StoreFailed
from engine.stores.postgres.outside.views import PostgresViewsReader
from tests.support.counters import Add, Counter
from tests.support.postgres import postgres_server, wheel_programs
from tests.support.tallies import GetTally, Tallies, Tally, get_tally, tallied
from tests.support.waiting import until


async def test_who_looks_on_waits_for_a_server_that_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed, look = list[StoreFailed](), vars(PostgresViewsReader)["look"]

    async def noted(reader: Any) -> Any:
        try:
            return await look(reader)
        except StoreFailed as error:
            failed.append(error)
            raise

    monkeypatch.setattr(PostgresViewsReader, "look", noted)
    with postgres_server(wheel_programs()) as server:
        log = server.url()
        async with (
            tallied(log) as engine,
            Onlooker(projections=[Tallies], answers=[get_tally], store=log) as onlooker,
            Archive([Counter], store=log) as archive,
            aclosing(onlooker.watch(GetTally("c"))) as watch,
        ):
            at = await engine.execute(Add("c", 1))
            assert await onlooker.query(GetTally("c"), at=at) == Tally("c", 1, 1)
            while await anext(watch) != Tally("c", 1, 1):
                pass
            assert (await archive.state(Counter, "c")).total == 1
            next_one = asyncio.ensure_future(anext(watch))
            server.stop()
            await until(lambda: failed)
            server.start()

            assert (await archive.state(Counter, "c")).total == 1  # by a connection that broke
            await engine.execute(Add("c", 1))
            assert await next_one == Tally("c", 2, 2)
