"""The watch of a log that others append to: each change is told once to all who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from engine import Engine, Limits, Ports
from engine.log.bus import Bus
from engine.members.reading import LogWatch
from engine.outside.log_file import LogFile
from engine.outside.onlooker import Waking
from engine.runtime.futures import retrieve
from engine.stores.postgres.address import read_address
from engine.stores.urls import open_backend
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, lose
from tests.support.waiting import until


class Held(LogFile):
    """A log that a test can keep from telling whether anything was committed."""

    may_tell: asyncio.Event
    told = asked = 0

    async def change_count(self) -> int:
        self.asked += 1
        await self.may_tell.wait()
        count = await super().change_count()
        self.told += 1
        return count


@asynccontextmanager
async def held(store: str) -> AsyncGenerator[Held]:
    log = Held(open_backend(store).outside(Ports()).log_reader(), Ports())
    log.may_tell = asyncio.Event()
    log.may_tell.set()
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def test_what_another_look_found_first_is_told_to_who_waits(tmp_path: Path) -> None:
    """A new feed looks at the end of the log, before the watch itself has come round to it."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine, held(store) as log:
        await engine.execute(Add("c", 1))
        bus = Bus(Limits())
        watch = LogWatch(log, bus, Waking(None, None))
        await watch.look()
        follower = bus.subscribe("feed")
        running = asyncio.create_task(watch.run())
        running.add_done_callback(retrieve)
        try:
            await until(lambda: log.told > 1)
            log.may_tell.clear()
            await until(lambda: log.asked > log.told)

            receipt = await engine.execute(Add("c", 1))
            await watch.look()
            assert watch.position == receipt.position
            told = log.told
            log.may_tell.set()
            await until(lambda: log.told > told + 1)  # it has come round, and once more

            assert follower.take_loss()
        finally:
            running.cancel()


async def test_a_log_that_went_back_once_is_counted_once(postgres: Server) -> None:
    """Several feeds begin at once, and each looks at the end of the log."""
    store = postgres.url(postgres.new_schema())
    async with Engine([Counter], store=store) as engine:
        for _ in range(3):
            await engine.execute(Add("c", 1))
    async with held(store) as log:
        bus = Bus(Limits())
        watch = LogWatch(log, bus, Waking(None, None))
        await watch.look()
        assert (watch.position, watch.times_back) == (3, 0)
        follower = bus.subscribe("feed")
        await lose(postgres, read_address(store).schema, 3)

        await asyncio.gather(*[watch.look() for _ in range(3)])
        assert (watch.position, watch.times_back) == (2, 1)
        assert follower.take_loss()  # who follows is told that it went back
