"""The peer `eventsource-py`, in its fastest configuration, on the same orders.

It is asynchronous, so the clients are tasks on it as they are on the engine. It has no cache of
live aggregates: each command reads its order again. Its snapshots, kept in memory after every
event, make that one look-up and an empty read, so that a hot aggregate does not become slower as
it grows. One lock per order keeps the clients of a hot one from losing optimistic races.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from eventsource import (
    AggregateRepository,
    DeclarativeAggregate,
    DomainEvent,
    EventRegistry,
    InMemorySnapshotStore,
    SQLiteEventStore,
    handles,
)
from pydantic import BaseModel

from .scenario import Wrong
from .systems import Commits, System, Target
from .workload import AdjustOrder, OpenOrder

__all__ = ["CONFIGURATION", "systems"]

CONFIGURATION: Final = (
    "SQLite: WAL, synchronous=FULL; snapshots in memory after every event; tracing off; one lock "
    "per order; one transaction a command"
)


class PeerOpened(DomainEvent):
    """An order with one item."""

    item: str
    quantity: int


class PeerAdjusted(DomainEvent):
    """The item's quantity changed."""

    item: str
    quantity: int


class PeerState(BaseModel):
    """What an order has."""

    items: dict[str, int] = {}


class PeerOrder(DeclarativeAggregate[PeerState]):
    """The order, with the same rules."""

    aggregate_type = "order"

    def _get_initial_state(self) -> PeerState:
        return PeerState()

    def open(self, item: str, quantity: int) -> None:
        """Begin it once."""
        if self.version:
            raise ValueError(f"order {self.aggregate_id} exists already")
        self.create_event(PeerOpened, item=item, quantity=quantity)

    def adjust(self, item: str, quantity: int) -> None:
        """Change an item that it has."""
        if item not in self.state.items:
            raise ValueError(f"order {self.aggregate_id} has no {item}")
        if quantity < 1:
            raise ValueError("a quantity is at least 1")
        self.create_event(PeerAdjusted, item=item, quantity=quantity)

    @handles(PeerOpened)
    def _opened(self, event: PeerOpened) -> None:
        self._state = PeerState(items={event.item: event.quantity})

    @handles(PeerAdjusted)
    def _adjusted(self, event: PeerAdjusted) -> None:
        self.state.items[event.item] = event.quantity


def systems(name: str) -> Sequence[System]:
    """Give the peer under this name."""
    return [System(name, _opened, _count)]


@contextlib.asynccontextmanager
async def _opened(folder: Path) -> AsyncGenerator[Target]:
    registry = EventRegistry([PeerOpened, PeerAdjusted])
    ids: dict[str, UUID] = {}
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    saved = 0
    async with SQLiteEventStore(str(folder / "peer.db"), registry) as store:
        await _check_durability(store)
        repository = AggregateRepository(
            store,
            PeerOrder,
            snapshot_store=InMemorySnapshotStore(enable_tracing=False),
            snapshot_threshold=1,
            enable_tracing=False,
        )

        async def send(command: OpenOrder | AdjustOrder, _: int) -> None:
            nonlocal saved
            async with locks[command.order_id]:
                if isinstance(command, OpenOrder):
                    order = repository.create_new(ids.setdefault(command.order_id, uuid4()))
                    order.open(command.item, command.quantity)
                else:
                    order = await repository.load(ids[command.order_id])
                    order.adjust(command.item, command.quantity)
                await repository.save(order)
            saved += 1

        yield Target(send, lambda: Commits(saved, saved))


async def _check_durability(store: SQLiteEventStore) -> None:
    # It has no public way to its connection, and the pragmas are the connection's own.
    connection = await store._conn()
    found = []
    for pragma in ("journal_mode", "synchronous"):
        row = await (await connection.execute(f"pragma {pragma}")).fetchone()
        found.append(None if row is None else row[0])
    if found != ["wal", 2]:
        raise Wrong(f"the peer writes with journal_mode and synchronous {found}, not wal and FULL")


def _count(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "peer.db")) as connection:
        return int(connection.execute("select count(*) from events").fetchone()[0])
