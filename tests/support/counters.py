"""A small aggregate with every kind of answer, and a store that waits or fails when told to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from engine import (
    Aggregate,
    Command,
    Context,
    Engine,
    Event,
    Id,
    Rejected,
    StoreFailed,
    applies,
    handles,
)
from engine.model.stored import EventData, EventType, StoredEvent
from engine.stores.contract.log import AppendRequest, Batch, Committed, Write
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


class HeldStore(MemoryStore):
    """A memory store whose appends wait for `release`, and fail or lose a race when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self.batches: list[Batch] = []
        self.failures: list[BaseException] = []
        self.stream_reads: list[int] = []
        self._gate = asyncio.Event()

    def release(self) -> None:
        """Let every append go."""
        self.holding = False
        self._gate.set()

    def hold(self) -> None:
        """Let no append go from now on."""
        self.holding = True
        self._gate.clear()

    async def append(self, batch: Batch) -> Committed:
        self.batches.append(batch)
        if self.holding:
            await self._gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return await super().append(batch)

    async def read_streams(self, reads: Any, *, events_max: int, bytes_max: int) -> Any:
        self.stream_reads.append(len(reads))
        return await super().read_streams(reads, events_max=events_max, bytes_max=bytes_max)

    async def append_behind(self, stream: str, expected: int, amount: int) -> None:
        """Append as a second writer would, behind the engine's back."""
        await self.append_event(stream, expected, Added(amount))

    async def append_event(self, stream: str, expected: int, event: Event) -> None:
        """Append any event behind the engine's back."""
        kind = EventType(event.event_name, event.event_version, schema_of(type(event)))
        data = EventData(kind, msgspec.json.encode(event))
        await super().append(Batch([AppendRequest([Write(stream, expected, [data])])], 1))

    async def events(self) -> Sequence[StoredEvent]:
        """Give the whole log."""
        return await self.read_feed(0, events_max=1_000_000, bytes_max=1 << 40)


def schema_of(cls: type[Event]) -> str:
    from engine.model.codec import schema_hash

    return schema_hash(cls)


def not_written() -> StoreFailed:
    return StoreFailed("the disk is full.", written=False)


def unknown() -> StoreFailed:
    return StoreFailed("the sync failed.", written=None)


@contextlib.asynccontextmanager
async def counters(store: Any = None, **options: Any) -> AsyncIterator[Engine]:
    """Give a running engine of counters."""
    async with Engine([Counter], store=store or MemoryStore(), **options) as engine:
        try:
            yield engine
        finally:
            # Where a test fails while the store is held, the engine must still be able to drain.
            if isinstance(store, HeldStore):
                store.release()


async def total(engine: Engine, counter: str) -> str:
    """Give `total at version` of a counter, as its actor sees it."""
    try:
        await engine.execute(Look(counter))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Look always rejects")


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until a condition holds; for 20 seconds, whatever clock the loop has."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition never came true")
        await asyncio.sleep(0)
        time.sleep(0)  # let threads have their turn


async def settle() -> None:
    """Let everything that can go on without the outside go on."""
    for _ in range(50):
        await asyncio.sleep(0)
