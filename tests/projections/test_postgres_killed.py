"""Views in PostgreSQL when the server or the engine is killed: each event counts once in each."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from engine import Limits
from tests.projections.summing import IN_BOTH, TABLES, Kind, Stopping, add, status, summing, sums
from tests.support.counters import Add
from tests.support.postgres import Server, postgres_server, wheel_programs

ENGINE = """
import asyncio, os, signal, sys
from engine import Ports
from tests.projections.summing import IN_BOTH, TABLES, add, summing

step, kind, url = sys.argv[1:]
left = [3]

def fail(name):
    if name == step:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    projection = (IN_BOTH if kind == "both" else TABLES).stopping
    async with summing(projection, url, ports=Ports(failpoint=fail)) as engine:
        while True:
            await add(engine, "a", "b")

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", [TABLES, IN_BOTH], ids=["tables", "both"])
async def test_an_engine_killed_in_the_middle_of_a_batch_counts_each_event_once(
    kind: Kind, postgres: Server
) -> None:
    url = postgres.url(postgres.new_schema(), "lease=1")
    name = "both" if kind is IN_BOTH else "tables"
    for step in ("views.inserted", "views.checkpointed", "views.committed"):
        run = [sys.executable, "-c", ENGINE, step, name, url]
        killed = await asyncio.to_thread(subprocess.run, run, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
    async with summing(kind.stopping, url) as engine:
        position = await add(engine, "a")
        found = await sums(engine, at=position)

    assert position > 6
    assert sum(found.values()) == position


async def test_a_server_killed_under_projectors_costs_no_event_and_doubles_none() -> None:
    with postgres_server(wheel_programs()) as server:
        limits = Limits(projector_retries=50)
        async with summing(Stopping, server.url("log"), limits=limits) as engine:
            for _ in range(3):
                going = [engine.execute(Add(f"c{n % 5}", 1)) for n in range(40)]
                answers = asyncio.gather(*going)
                await asyncio.sleep(0)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                await answers
            async with asyncio.timeout(60):
                while (await status(engine)).position < 120:
                    await asyncio.sleep(0.01)
            found = await sums(engine)

    assert found == {f"c{n}": 24 for n in range(5)}
