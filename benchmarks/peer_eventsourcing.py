"""The peer `eventsourcing`, in its fastest configurations, on the same orders.

It is synchronous, with a transaction of its own per command. Which way of calling it is fastest
depends on the machine, so both are measured: the clients take turns on it in the event loop's own
thread, with no hop between threads at all; and a pool of threads, of which one can decide while
another waits for the disk. The aggregates stay in its cache and are not read again before each
command (no fast-forward), nor copied out of it; a failed save would then leave the cache wrong, for
which a careful user would pay. Events are encoded by msgspec as MessagePack, not its own JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Transcoder
from eventsourcing.sqlite import SQLiteApplicationRecorder

from .scenario import Wrong
from .systems import Commits, System, Target
from .workload import AdjustOrder, OpenOrder

__all__ = ["CACHED", "CONFIGURATION", "Shop", "driven", "systems"]

CONFIGURATION: Final = (
    "SQLite: WAL, synchronous=FULL; aggregate cache without fast-forward or deep copies; msgspec "
    "MessagePack; one transaction a command; clients in turn on one thread, or on a pool of them"
)
THREADS: Final = 8
CACHED: Final = {
    "AGGREGATE_CACHE_MAXSIZE": "0",  # without a bound
    "AGGREGATE_CACHE_FASTFORWARD": "n",
    "DEEPCOPY_FROM_AGGREGATE_CACHE": "n",
}


class PeerOrder(Aggregate):
    """The order, with the same rules."""

    @event("Opened")
    def __init__(self, item: str, quantity: int) -> None:
        """Begin with one item."""
        self.items = {item: quantity}

    def adjust(self, item: str, quantity: int) -> None:
        """Change an item that it has."""
        if item not in self.items:
            raise ValueError(f"order {self.id} has no {item}")
        if quantity < 1:
            raise ValueError("a quantity is at least 1")
        self._adjust(item, quantity)

    @event("Adjusted")
    def _adjust(self, item: str, quantity: int) -> None:
        self.items[item] = quantity


class MessagePack(Transcoder):
    """Events as MessagePack, which keeps times as times."""

    def encode(self, obj: Any) -> bytes:
        """Encode the fields of an event."""
        return msgspec.msgpack.encode(obj)

    def decode(self, data: bytes) -> Any:
        """Decode them."""
        return msgspec.msgpack.decode(data)


class Shop(Application[UUID]):
    """The orders."""

    def construct_transcoder(self) -> Transcoder:
        """Choose how events are encoded."""
        return MessagePack()


def systems(name: str) -> Sequence[System]:
    """Give the peer under this name, without threads and with them."""
    return [
        System(name, partial(_opened, 0), _count),
        System(f"{name}, {THREADS} threads", partial(_opened, THREADS), _count),
    ]


@contextlib.asynccontextmanager
async def _opened(threads: int, folder: Path) -> AsyncGenerator[Target]:
    app = Shop(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(folder / "peer.db"),
            **CACHED,
        }
    )
    _check_durability(app)
    with contextlib.closing(app):
        async with driven(app, threads) as target:
            yield target


@contextlib.asynccontextmanager
async def driven(app: Shop, threads: int) -> AsyncGenerator[Target]:
    """Give what an application can be sent to: in turn on this thread, or on a pool of threads."""
    ids: dict[str, UUID] = {}
    saved = 0

    def save(command: OpenOrder | AdjustOrder) -> None:
        if isinstance(command, OpenOrder):
            order = PeerOrder(command.item, command.quantity)
            ids[command.order_id] = order.id
        else:
            order = app.repository.get(ids[command.order_id])
            order.adjust(command.item, command.quantity)
        app.save(order)

    async def send_in_turn(command: OpenOrder | AdjustOrder, _: int) -> None:
        nonlocal saved
        await asyncio.sleep(0)  # the others' turn
        save(command)
        saved += 1

    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max(threads, 1))
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def send_to_pool(command: OpenOrder | AdjustOrder, _: int) -> None:
        nonlocal saved
        async with locks[command.order_id]:
            await loop.run_in_executor(pool, save, command)
        saved += 1

    try:
        yield Target(send_to_pool if threads else send_in_turn, lambda: Commits(saved, saved))
    finally:
        pool.shutdown()


def _check_durability(app: Shop) -> None:
    assert isinstance(app.recorder, SQLiteApplicationRecorder)
    with app.recorder.datastore.transaction(commit=True) as cursor:
        found = []
        for pragma in ("journal_mode", "synchronous"):
            cursor.execute(f"pragma {pragma}")
            found.append(cursor.fetchone()[0])
    if found != ["wal", 2]:
        raise Wrong(f"the peer writes with journal_mode and synchronous {found}, not wal and FULL")


def _count(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "peer.db")) as connection:
        return int(connection.execute("select count(*) from stored_events").fetchone()[0])
