"""Items whose price a handler waits for, and rates that come, fail or hang when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine import (
    Aggregate,
    Command,
    Context,
    Engine,
    Event,
    Id,
    Receipt,
    Rejected,
    applies,
    handles,
)
from engine.stores.memory import MemoryStore


class Priced(Event, name="priced"):
    pence: int
    by: str = ""


class Price(Command):
    """Asks the rates for a price; they do with `what` as they are told."""

    item_id: Id
    what: str = "ten"


class Mark(Command):
    """Is decided at once."""

    item_id: Id
    pence: int


class Tell(Command):
    """Rejects always, and tells the state."""

    item_id: Id


class Rates:
    """A resource that answers, hangs, raises or blocks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.answers: dict[str, Callable[[], Awaitable[int]]] = {
            "ten": self._ten,
            "wait": self._wait,
            "stubborn": self._stubborn,
            "raise": self._raise,
            "cancelled": self._cancelled,
            "reject": self._reject,
            "negative": self._negative,
        }

    async def price(self, what: str) -> int:
        self.asked.append(what)
        return await self.answers[what]()

    async def _ten(self) -> int:
        await asyncio.sleep(0)
        return 10

    async def _wait(self) -> int:
        await self.gate.wait()
        return 20

    async def _stubborn(self) -> int:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.asked.append("would not be cancelled")
        return 30

    async def _raise(self) -> int:
        await asyncio.sleep(0)
        raise OSError("no rates today")

    async def _cancelled(self) -> int:
        raise asyncio.CancelledError

    async def _reject(self) -> int:
        await asyncio.sleep(0)
        raise Rejected("no-price", "there is no price")

    async def _negative(self) -> int:
        return -100


class Item(Aggregate, kind="item"):
    pence: int = 0
    marks: int = 0

    @handles
    async def price(self, command: Price, ctx: Context, rates: Rates) -> Priced:
        before = self.pence
        pence = await rates.price(command.what)
        assert self.pence == before, "nobody changes the state while the handler waits"
        return Priced(pence + before, ctx.principal or "")

    @handles
    def mark(self, command: Mark) -> Priced:
        return Priced(command.pence)

    @handles
    def tell(self, command: Tell) -> None:
        raise Rejected("told", f"{self.pence} at {self.version}")

    @applies
    def priced(self, event: Priced) -> None:
        if event.pence < 0:
            raise ValueError("a price is positive")
        self.pence = event.pence
        self.marks += 1


def items(rates: Rates, **options: Any) -> Engine:
    options.setdefault("store", MemoryStore())
    return Engine([Item], resources={Rates: rates}, **options)


def start(engine: Engine, command: Any, **options: Any) -> asyncio.Task[Receipt]:
    return asyncio.create_task(engine.execute(command, **options))


async def told(engine: Engine, item: str) -> str:
    try:
        await engine.execute(Tell(item))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Tell always rejects")
