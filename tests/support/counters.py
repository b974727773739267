"""A small aggregate with every kind of answer, and an engine of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from engine import (
    Aggregate,
    Command,
    Context,
    Engine,
    Event,
    Id,
    Rejected,
    applies,
    handles,
)
from engine.stores.memory import MemoryStore


class Added(Event, name="added"):
    amount: int
    tags: dict[str, list[int]] = {}


class Emptied(Event, name="emptied"):
    by: str


class Broken(Event, name="broken"):
    """Its applier raises when told to, after it changed the state."""

    fail: bool


class Unapplied(Event, name="unapplied"):
    amount: int


class Add(Command):
    counter_id: Id
    amount: int
    times: int = 1
    tags: dict[str, list[int]] = {}


class Empty(Command):
    counter_id: Id


class Spoil(Command):
    """Fails in one of the ways in which an aggregate's code can fail."""

    counter_id: Id
    how: str


class Touch(Command):
    """Writes nothing."""

    counter_id: Id


class Look(Command):
    """Rejects always, and tells the state."""

    counter_id: Id


class Counter(Aggregate, kind="counter", key_window=10):
    total: int = 0
    tags: dict[str, list[int]] = {}

    @handles
    def add(self, command: Add) -> Added | list[Added]:
        if command.amount < 0:
            raise Rejected("negative", "an amount is positive", amount=command.amount)
        events = [Added(command.amount, command.tags) for _ in range(command.times)]
        return events[0] if command.times == 1 else events

    @handles
    def empty(self, command: Empty, ctx: Context) -> Emptied | None:
        return Emptied(ctx.principal or "nobody") if self.total else None

    @handles
    def touch(self, command: Touch) -> None:
        return None

    @handles
    def look(self, command: Look) -> None:
        raise Rejected("looked", f"{self.total} at {self.version}")

    @handles
    def spoil(self, command: Spoil) -> Broken | list[Event]:
        self.total += 1_000_000
        events: Broken | list[Event] = _SPOILS[command.how]()
        return events

    @applies
    def added(self, event: Added) -> None:
        self.total += event.amount
        self.tags.update(event.tags)

    @applies
    def emptied(self, event: Emptied) -> None:
        self.total = 0

    @applies
    def broken(self, event: Broken) -> None:
        self.total += 1_000_000
        if event.fail:
            raise ArithmeticError("fold failed")


def _raise(error: BaseException) -> Any:
    raise error


_SPOILS: dict[str, Callable[[], Any]] = {
    "raise": lambda: _raise(ValueError("handler failed")),
    "cancelled": lambda: _raise(asyncio.CancelledError()),
    "wrong-type": lambda: 7,
    "string": lambda: "events",
    "mixed": lambda: [Added(1), "x"],
    "unapplied": lambda: [Unapplied(1)],
    "second-fold": lambda: [Added(1), Broken(True)],
    "fold": lambda: Broken(True),
    "not-encodable": lambda: Added(1, {"a": [object()]}),  # type: ignore[list-item]
    "not-decodable": lambda: Added("one"),  # type: ignore[arg-type]
    "too-many": lambda: [Added(1)] * 5_000,
    "too-large": lambda: Added(1, {"a" * 1_100_000: []}),
}
SPOILS = sorted(_SPOILS)


class Remembering(Counter, kind="counter", key_window=10_000):
    """Knows the key of a command also if it comes again behind many others."""


@contextlib.asynccontextmanager
async def counters(store: Any = None, **options: Any) -> AsyncIterator[Engine]:
    """Give a running engine of counters."""
    async with Engine([Counter], store=store or MemoryStore(), **options) as engine:
        try:
            yield engine
        finally:
            # Where a test fails while the store is held, the engine must still be able to drain.
            release = getattr(store, "release", None)
            if release is not None:
                release()


async def total(engine: Engine, counter: str) -> str:
    """Give `total at version` of a counter, as its actor sees it."""
    try:
        await engine.execute(Look(counter))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Look always rejects")
