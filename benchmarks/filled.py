"""Logs that are full of the benchmark's orders, made once a run, fast, and copied for each cell.

Rules: events go in through the store's own contract (`Store.append`), in batches of 4,096, each as
a request of its own and in the order in which 256 clients in turn would have sent the commands. No
actor runs, which is several times faster; what is in the log is, byte for byte, what the engine
writes for the same commands, but for the times (`tests/benchmarks/test_filled.py` compares). What
is made lies in a folder of its own and is removed at the end of the process.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import msgspec

import engine
from engine.model.codec import EventRegistry, Metadata, encode_metadata
from engine.model.fingerprint import fingerprint_of
from engine.model.stored import EventData
from engine.stores.contract.log import AppendRequest, Batch, Store, Write
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.log.store import SqliteStore

from .scenario import Wrong
from .workload import AdjustOrder, OpenOrder, OrderAdjusted, OrderOpened

__all__ = [
    "LOG",
    "Copy",
    "Orders",
    "Prepared",
    "ScatteredOrders",
    "check_count",
    "empty_file",
    "fill",
    "fill_memory",
    "fill_sqlite",
]

LOG = "log.db"
"""The file's name in a prepared folder."""
CLIENTS = 256
CORRELATION, PRINCIPAL = "benchmark", "client"
_BATCH_EVENTS = 4_096

_registry = EventRegistry([OrderOpened, OrderAdjusted])


class Orders(msgspec.Struct, frozen=True):
    """So many orders of so many events each: opened once, then adjusted."""

    count: int
    events: int
    prefix: str = ""
    """Of the ids, so that orders of several lengths can be in one log."""
    keyed: bool = False
    """Whether each command had a key, a correlation and a principal."""

    @property
    def total(self) -> int:
        """Events of all of them."""
        return self.count * self.events

    def id_of(self, number: int) -> str:
        """Give the id of an order, by its number from 0 on."""
        return f"{self.prefix}{number % CLIENTS:06d}-{number // CLIENTS:08d}"

    def commands(self) -> Iterator[tuple[int, OpenOrder | AdjustOrder]]:
        """Give the commands, each with the version that it is decided at."""
        for begin in range(0, self.count, CLIENTS):
            ids = [self.id_of(n) for n in range(begin, min(begin + CLIENTS, self.count))]
            for order_id in ids:
                yield 0, OpenOrder(order_id, "mouse", 1)
            for version in range(1, self.events):
                for order_id in ids:
                    yield version, AdjustOrder(order_id, "mouse", version + 1)

    def key_of(self, version: int, command: OpenOrder | AdjustOrder) -> str:
        """Give the key of a command, where it has one."""
        return f"{command.order_id}/{version}"

    def requests(self) -> Iterator[AppendRequest]:
        """Give what the engine would send to its store."""
        for version, command in self.commands():
            made = OrderOpened if isinstance(command, OpenOrder) else OrderAdjusted
            event = made(command.order_id, command.item, command.quantity)
            metadata = self._metadata(version, command) if self.keyed else b""
            data = EventData(_registry.type_of(made), _registry.encode(event), metadata)
            yield AppendRequest((Write(f"benchmark-order:{command.order_id}", version, (data,)),))

    def _metadata(self, version: int, command: OpenOrder | AdjustOrder) -> bytes:
        return encode_metadata(
            Metadata(
                key=self.key_of(version, command),
                fingerprint=fingerprint_of(command),
                correlation=CORRELATION,
                principal=PRINCIPAL,
            )
        )


class ScatteredOrders(Orders, frozen=True):
    """The same, but that all are opened first, and then any of them is adjusted, by chance."""

    def commands(self) -> Iterator[tuple[int, OpenOrder | AdjustOrder]]:
        """Give the commands, each with the version that it is decided at."""
        ids = [self.id_of(number) for number in range(self.count)]
        for order_id in ids:
            yield 0, OpenOrder(order_id, "mouse", 1)
        chance, versions = random.Random(1), [1] * self.count
        for _ in range(self.count, self.total):
            number = chance.randrange(self.count)
            yield versions[number], AdjustOrder(ids[number], "mouse", versions[number] + 1)
            versions[number] += 1


async def fill(store: Store, orders: Sequence[Orders]) -> None:
    """Fill an empty log with orders, one kind after the other."""
    ports = engine.Ports()
    await store.open(ports)
    try:
        for each in orders:
            requests = each.requests()
            while part := list(islice(requests, _BATCH_EVENTS)):
                await store.append(Batch(part, ports.clock.now()))
        stored, meant = (await store.head()).position, sum(each.total for each in orders)
        if stored != meant:
            raise Wrong(f"the log was to have {meant:,} events and has {stored:,}")
    finally:
        await store.close()


def fill_sqlite(folder: Path, *orders: Orders) -> None:
    """Fill the file `LOG` in a folder."""
    engine.run(fill, SqliteStore(str(folder / LOG)), orders)


def fill_memory(*orders: Orders) -> MemoryStore:
    """Give a full store in memory, which any number of engines may open one after the other."""
    store = MemoryStore()
    engine.run(fill, store, orders)
    return store


class Copy(msgspec.Struct, frozen=True):
    """A log of one cell's own."""

    url: str
    check: Callable[[int], None]
    """Opens it again, when nobody has it; raises Wrong unless it has so many events."""


class Prepared:
    """A folder of files that is made when it is first needed, and copied for whoever needs it."""

    def __init__(self, parent: Path, make: Callable[[Path], None]) -> None:
        """Take what will fill a new folder inside of `parent`."""
        self._parent = parent
        self._make = make
        self._made: Path | None = None

    def folder(self) -> Path:
        """Give the folder itself, for those that change nothing in it."""
        if self._made is None:
            made = Path(tempfile.mkdtemp(dir=self._parent, prefix="prepared-"))
            # With this object, or at the end of the process.
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            self._make(made)
            self._made = made
        return self._made

    def copy(self, to: Path) -> Path:
        """Copy all files, on the disk when this returns; give the log's path."""
        for file in sorted(self.folder().iterdir()):
            copied = to / file.name
            shutil.copyfile(file, copied)
            # Otherwise the first sync of whoever is measured would have to write it.
            with copied.open("rb") as opened:
                os.fsync(opened.fileno())
        return to / LOG

    @contextmanager
    def copied(self, to: Path) -> Generator[Copy]:
        """Give a copy in a folder."""
        path = self.copy(to)
        yield Copy(f"sqlite:{path}", partial(check_count, path))


@contextmanager
def empty_file(to: Path) -> Generator[Copy]:
    """Give the log that an engine makes in a folder."""
    yield Copy(f"sqlite:{to / LOG}", partial(check_count, to / LOG))


def check_count(path: Path, acknowledged: int) -> None:
    """Open a log again; raise Wrong unless it has as many events as were acknowledged."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute("SELECT count(*), max(position) FROM events").fetchall()[0]
    connection.close()
    if found != (acknowledged, acknowledged or None):
        raise Wrong(
            f"{acknowledged:,} events were acknowledged; opened again, the log has {found[0]:,}, "
            f"the last one at position {found[1]}"
        )
