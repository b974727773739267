"""A receiver outside that fails when told to, and sinks that deliver to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engine import Delivery, Engine, Projection, Query, Sink, Views, answers
from engine.projections.operations import Status
from tests.support.counters import Add, Added, Counter


class Receiver:
    """A system outside."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        """Positions, by delivery that came through."""
        self.tries: list[list[int]] = []
        """The same of all that were begun."""
        self.seen: list[tuple[str, int]] = []
        """Streams and versions, in the order in which they came through."""
        self.poison: set[int] = set()
        """Positions that it refuses."""
        self.hold: Callable[[Sequence[Delivery[Any]]], Awaitable[None]] | None = None
        """Waited for in each delivery."""

    async def take(self, batch: Sequence[Delivery[Any]]) -> None:
        positions = [delivery.position for delivery in batch]
        self.tries.append(positions)
        if self.hold is not None:
            await self.hold(batch)
        if self.poison.intersection(positions):
            raise ValueError(f"a {'secret'} of {positions}")
        self.batches.append(positions)
        self.seen += [(d.meta.stream, d.meta.version) for d in batch]

    @property
    def positions(self) -> list[int]:
        return [position for batch in self.batches for position in batch]


class Outside(Sink, name="outside", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]], receiver: Receiver) -> None:
        await receiver.take(batch)


class Parking(Outside, name="outside", version=1, on_poison="park"):
    pass


class Nothing(Query[int]):
    pass


class Everything(Query[int]):
    pass


@answers(projections=[Outside])
async def everything(query: Everything, views: Views) -> int:
    return 1


@answers
async def nothing(query: Nothing, views: Views) -> int:
    return 0


def sinking(
    receiver: Receiver, store: str = "memory:", sink: type[Projection] = Outside, **options: Any
) -> Engine:
    return Engine(
        [Counter],
        projections=[sink],
        answers=[everything, nothing],
        store=store,
        resources={Receiver: receiver},
        **options,
    )


async def add(engine: Engine, *counters: str) -> int:
    receipts = [await engine.execute(Add(counter, 1)) for counter in counters]
    return receipts[-1].position


async def reached(engine: Engine, position: int) -> None:
    await engine.query(Everything(), at=position)


@asynccontextmanager
async def filled(
    receiver: Receiver, store: str, sink: type[Projection], *counters: str
) -> AsyncGenerator[Engine]:
    """An engine whose log had these events before it came to deliver any."""
    async with Engine([Counter], store=store) as engine:
        await add(engine, *counters)
    async with sinking(receiver, store, sink) as engine:
        yield engine


async def status(engine: Engine) -> Status:
    return await engine.projections.status("outside")


async def wait(event: asyncio.Event) -> None:
    await event.wait()
