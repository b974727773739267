"""Real processes that share projections, of which some are killed or stand still under load."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

from engine import Engine
from tests.members.duties_shop import ALL, differences, sharing, until_reached
from tests.members.joining import Process, part
from tests.support.counters import Add
from tests.support.postgres import Server
from tests.support.waiting import until

LEASE = 1.0


class Fleet:
    """Some processes of one log."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url = url
        self.delivered = folder / "delivered.txt"
        self.choose = random.Random(seed)
        self.living: list[Process] = []
        self.count = 0

    async def begin(self) -> None:
        self.count += 1
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tests.members.duties_child", self.url],
            *[str(self.delivered), f"p{self.count}", "3"],
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        self.living.append(process)

    async def happen(self, what: str) -> None:
        process = self.choose.choice(self.living)
        if what == "stop":
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3 * LEASE)
            process.send_signal(signal.SIGCONT)
            return
        self.living.remove(process)
        process.send_signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
        await self.begin()

    async def end(self) -> None:
        for process in self.living:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for process in self.living:
            await asyncio.wait_for(process.wait(), 60)


async def judged(engine: Engine, postgres: Server, log: str, delivered: Path) -> None:
    """Wait until all projections have come to the end; compare them with a fresh fold."""
    end = (await engine.execute(Add("last", 1))).position
    await until(lambda: list(part(engine).duties) == ALL)
    for name in ALL:
        await until_reached(engine, name, end)
    assert await differences(postgres, log) == []
    told = {int(line) for line in delivered.read_text().split()}
    assert not set(range(1, end)) - told, "an event was not delivered"


@pytest.mark.parametrize("seed", [1])
async def test_what_dies_or_stands_still_is_followed_and_no_event_counts_twice_or_not_at_all(
    postgres: Server, tmp_path: Path, seed: int
) -> None:
    log = postgres.url(postgres.new_schema(), f"lease={LEASE:g}")
    fleet = Fleet(log, tmp_path, seed)
    try:
        for _ in range(3):
            await fleet.begin()
        for what in ("kill", "stop", "leave"):
            await asyncio.sleep(fleet.choose.random() * LEASE)
            await fleet.happen(what)
    finally:
        await fleet.end()
    async with sharing(log, fleet.delivered) as engine:
        await judged(engine, postgres, log, fleet.delivered)
