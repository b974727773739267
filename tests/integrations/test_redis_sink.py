"""Sinks before a real server: it dies and comes back, the engine dies, and nothing counts twice."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter as Multiset
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Ports, Receipt
from tests.integrations.redis_sinks import (
    INSTALL,
    Copied,
    Delivered,
    RedisServer,
    Totals,
    client_of,
    redis_server,
    sinking,
)
from tests.support.counters import Add, Counter
from tests.support.shelf import Crash
from tests.support.waiting import until

ROOT = Path(__file__).parent.parent.parent
COUNTERS = [f"c{n % 7}" for n in range(100)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[RedisServer]:
    (tmp_path / "redis").mkdir()
    async with redis_server(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


async def add(engine: Engine, counters: list[str]) -> int:
    answers = [a async for a in engine.execute_many([Add(counter, 1) for counter in counters])]
    assert all(isinstance(answer, Receipt) for answer in answers)
    return engine.statistics().position


async def totals(server: RedisServer) -> tuple[dict[str, int], int]:
    """Give the total of each counter, and how many deliveries there were."""
    found, deliveries = dict[str, int](), 0
    async with client_of(server.url) as client:
        async for key in client.scan_iter("total:*"):
            counted = await client.hgetall(key)
            found[key.removeprefix("total:")] = int(counted["total"])
            deliveries += int(counted["deliveries"])
    return found, deliveries


async def test_what_a_server_missed_while_it_was_dead_arrives_when_it_is_back(
    server: RedisServer, store: str
) -> None:
    async with client_of(server.url) as client, sinking(Totals, client, store) as engine:
        await engine.query(Delivered(), at=await add(engine, COUNTERS))
        await server.kill()
        position = await add(engine, COUNTERS)
        sink = engine.statistics
        await until(lambda: sink().projectors["outside"].retries > 2)
        assert sink().projectors["outside"].state in ("retrying", "catching-up")
        await server.start()
        await engine.query(Delivered(), at=position)

        assert sink().projectors["outside"].parked == 0
    assert (await totals(server))[0] == Multiset(COUNTERS * 2)


async def test_a_server_that_dies_in_the_middle_of_deliveries_has_each_event_once(
    server: RedisServer, store: str
) -> None:
    async with Engine([Counter], store=store) as engine:
        position = await add(engine, COUNTERS * 5)
    async with client_of(server.url) as client, sinking(Totals, client, store) as engine:
        projectors = engine._wiring.projecting["outside"]
        for _ in range(3):
            before = projectors.position
            await until(lambda before=before: projectors.position > before)  # type: ignore[misc]
            await server.kill()
            await server.start()
        await engine.query(Delivered(), at=position, timeout=20)

    assert (await totals(server))[0] == Multiset(COUNTERS * 5)


async def test_an_engine_killed_between_delivery_and_checkpoint_delivers_again(
    server: RedisServer, store: str
) -> None:
    async with Engine([Counter], store=store) as engine:
        position = await add(engine, COUNTERS)
    for hit in (1, 3):
        module = "tests.integrations.redis_sinks"
        command = [sys.executable, "-m", module, store, server.url, str(hit)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
    async with client_of(server.url) as client, sinking(Totals, client, store) as engine:
        await engine.query(Delivered(), at=position)

    found, deliveries = await totals(server)
    assert found == Multiset(COUNTERS)
    assert deliveries > len(COUNTERS), "some came more than once"


async def test_a_stream_refuses_what_it_has(server: RedisServer, store: str) -> None:
    async with Engine([Counter], store=store) as engine:
        position = await add(engine, COUNTERS)

    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    async with client_of(server.url) as client:
        crashing = sinking(Copied, client, store, Ports(failpoint=crash))
        with pytest.raises(Exception, match="the engine failed with Crash"):
            async with crashing:
                await until(lambda: crashing.failed is not None)
        async with sinking(Copied, client, store) as engine:
            await engine.query(Delivered(), at=position)
        entries: Any = await client.xrange("copy")

    assert [place for place, _ in entries] == [f"{n}-0" for n in range(1, len(COUNTERS) + 1)]
    assert Multiset(fields["counter"] for _, fields in entries) == Multiset(COUNTERS)


async def test_without_a_server_tests_are_skipped_at_home_and_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match="apt-get install -y redis-server"):
        async with redis_server(tmp_path):
            pass
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match=re.escape(INSTALL)):
        async with redis_server(tmp_path):
            pass
