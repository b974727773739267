"""Commits wait for standbys: what none has is not acknowledged, whatever ends the wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import Ports
from engine.stores.contract.log import Appended
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, feed, numbers, request
from tests.support.postgres import Server, asked, postgres_server, wheel_programs

WAITING = "SELECT pid, query FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with postgres_server(wheel_programs()) as made:
        yield made


@pytest.fixture
async def store(server: Server) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(read_address(server.url("log", "lease=3600")))
    await opened.open(Ports())
    await append(opened, request("a:1", 0, 1))
    yield opened
    await opened.close()


async def configure(server: Server, **settings: str) -> None:
    """Set what a running server reads again, and return when it has."""
    for name, value in settings.items():
        await asked(server, f"ALTER SYSTEM SET {name} = '{value}'")
    await asked(server, "SELECT pg_reload_conf()")
    async with asyncio.timeout(60):
        for name, value in settings.items():
            while await asked(server, f"SHOW {name}") != [(value,)]:
                await asyncio.sleep(0.01)


async def waiting(server: Server, answer: asyncio.Task[Any], *, in_append: bool) -> int:
    """Return when a commit waits for standbys, of an append or of another; give its process."""
    while True:
        pid, query = await commit_waiting(server, answer)
        if ("append_1" in query) == in_append:
            return pid


async def commit_waiting(server: Server, answer: asyncio.Task[Any]) -> tuple[int, str]:
    async with asyncio.timeout(60):
        while True:
            assert not answer.done(), "it was answered though no standby has it"
            for pid, query in await asked(server, WAITING):
                return int(pid), str(query)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ended_by", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_a_wait_for_standbys_that_is_ended_acknowledges_nothing(
    server: Server, store: PostgresStore, ended_by: str
) -> None:
    await configure(server, synchronous_standby_names="nobody")
    answer = asyncio.create_task(append(store, request("a:1", 1, 2)))
    first = await waiting(server, answer, in_append=True)
    await asked(server, f"SELECT {ended_by}({first})")

    # Whoever looks finds the events, and waits for the standbys as they had.
    await waiting(server, answer, in_append=False)
    await configure(server, synchronous_standby_names="")
    assert await answer == [Appended(2, (2,))]
    assert store._writer is not None
    assert store._writer.found_written == 1
    assert numbers(await feed(store)) == [1, 2]


async def test_a_server_that_is_told_to_wait_for_nobody_is_not_obeyed(
    server: Server, store: PostgresStore
) -> None:
    await configure(server, synchronous_standby_names="nobody", synchronous_commit="local")
    answer = asyncio.create_task(append(store, request("a:1", 1, 2)))
    await waiting(server, answer, in_append=True)

    await configure(server, synchronous_standby_names="")
    assert await answer == [Appended(2, (2,))]


async def test_a_session_that_no_standby_has_is_waited_for(server: Server) -> None:
    address = read_address(server.url("log", "lease=3600"))
    first, second = PostgresStore(address), PostgresStore(address)
    await first.open(Ports())
    await first.close()
    await configure(server, synchronous_standby_names="nobody")
    opening = asyncio.create_task(second.open(Ports()))
    pid, query = await commit_waiting(server, opening)
    assert "begin_session" in query
    await asked(server, f"SELECT pg_cancel_backend({pid})")

    # A failover would take a session away that only the primary has.
    async with asyncio.timeout(60):
        while "renew_session" not in (await commit_waiting(server, opening))[1]:
            await asyncio.sleep(0.01)
    await configure(server, synchronous_standby_names="")
    await opening
    assert await append(second, request("a:1", 0, 1)) == [Appended(1, (1,))]
    await second.close()
