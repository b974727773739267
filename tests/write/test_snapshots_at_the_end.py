"""Snapshots that are being written as the engine stops: none of them is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine import Aggregate, Command, Engine, Event, Id, applies, handles
from engine.model.stored import Snapshot
from engine.stores.memory import MemoryStore


class Counted(Event, name="counted"):
    pass


class Count(Command):
    counter: Id


class Counter(Aggregate, kind="counter", snapshot_every=1):
    total: int = 0

    @handles
    def count(self, command: Count) -> Counted:
        return Counted()

    @applies
    def counted(self, event: Counted) -> None:
        self.total += 1


class Hanging(MemoryStore):
    """A store that is asked to write snapshots, and answers the second time only."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        if not self.asked.is_set():
            self.asked.set()
            await asyncio.Event().wait()
        await super().write_snapshots(snapshots)


async def test_a_write_that_the_end_of_the_engine_interrupts_is_made_again() -> None:
    store = Hanging()
    async with Engine([Counter], store=store) as engine:
        await engine.execute(Count("a"))
        await engine.execute(Count("b"))
        await store.asked.wait()
        await engine.execute(Count("a"))
    async with Engine([Counter], store=store) as again:
        await again.execute(Count("a"))
        await again.execute(Count("b"))
        assert again.statistics().aggregates.restored == 2
        assert (await again.state(Counter, "a")).total == 3
