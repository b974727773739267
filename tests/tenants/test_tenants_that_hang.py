"""Tenants whose stores hang, or whose code ends: they hold up nobody but who asks for them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from engine import Closed, Engine, Tenants
from engine.runtime.safely import HostFailed
from engine.tenants import tenants as module
from engine.tenants.names import FolderStores
from tests.support.counters import Add, Counter
from tests.support.waiting import until


class Hanging(Engine):
    """An engine that does not start before a test says so."""

    starts: asyncio.Event

    async def __aenter__(self) -> Engine:
        await self.starts.wait()
        return await super().__aenter__()


class World:
    """Makes engines, of which those of tenants `slow-...` wait."""

    def __init__(self) -> None:
        self.starts = asyncio.Event()

    def __call__(self, store: str) -> Engine:
        if not Path(store).stem.startswith("slow-"):
            return Engine([Counter], store=store)
        engine = Hanging([Counter], store=store)
        engine.starts = self.starts
        return engine


async def add(tenants: Tenants, name: str) -> int:
    async with tenants.engine(name, create=True) as engine:
        return (await engine.execute(Add("c", 1))).version


async def test_stores_that_hang_as_they_open_keep_nobody_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OPENING_SECONDS", 0.05)
    world = World()
    async with Tenants(world, folder=tmp_path, open_max=20) as tenants:
        slow = [asyncio.create_task(add(tenants, f"slow-{n}")) for n in range(12)]
        try:
            await until(lambda: tenants.statistics().open == len(slow))
            async with asyncio.timeout(10):
                assert await add(tenants, "quick") == 1
        finally:
            world.starts.set()
        assert await asyncio.gather(*slow) == [1] * len(slow)


async def test_code_that_exits_ends_only_its_own_tenant(tmp_path: Path) -> None:
    def make(store: str) -> Engine:
        if "gone" in store:
            raise SystemExit(3)
        return Engine([Counter], store=store)

    async with Tenants(make, folder=tmp_path) as tenants:
        with pytest.raises(HostFailed, match="SystemExit"):
            await add(tenants, "gone")
        assert await add(tenants, "quick") == 1
        assert tenants.statistics().refused == 1


async def test_the_end_does_not_wait_for_what_was_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has gone is asked for each tenant that somebody wants, one after the other."""
    answers, asked = threading.Event(), list[str]()

    def is_there(_: FolderStores, name: str) -> bool:
        asked.append(name)
        answers.wait(60)
        return False

    async def use(tenants: Tenants, name: str) -> None:
        async with tenants.engine(name):
            pass

    monkeypatch.setattr(FolderStores, "is_there", is_there)
    tenants = Tenants(World(), folder=tmp_path)
    await tenants.__aenter__()
    callers = [asyncio.create_task(use(tenants, f"t{n}")) for n in range(4)]
    await until(lambda: asked)
    ending = asyncio.create_task(tenants.__aexit__(None, None, None))
    await asyncio.sleep(0)
    answers.set()
    await ending
    _, *refused = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(answer) for answer in refused] == [Closed] * 3
    assert asked == ["t0"]
