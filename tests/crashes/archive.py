"""Moves closed streams into a cold file while the power goes, or the process is killed, by a seed.

Rules: each trial has a disk of its own, on which each call may be the last. What is on it then is
opened as the next process would, by a reader and by an engine's store. Each event must read as it
was before the first move, at its position, whatever was lost. The next life goes on with the move.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final
from unittest import mock

import apsw

from engine.errors import EngineError
from engine.model.stored import EventData, EventType, StoredEvent
from engine.runtime.ports import Ports
from engine.stores.contract.archiving import ArchiveRule
from engine.stores.contract.log import AppendRequest, Batch, Store, Write
from engine.stores.sqlite.log import archiving
from engine.stores.sqlite.log.archiving import SqliteArchiver
from engine.stores.sqlite.log.cold import MOVED
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.machine import SimulatedFiles

__all__ = ["RULE", "fill", "read", "trial"]

ADDED: Final = EventType("added", 1, "00aa")
CLOSED: Final = EventType("closed", 1, "00bb")
RULE: Final = ArchiveRule("order", ("closed",), 1 << 60)
STREAMS: Final = 12
LIVES: Final = 6
OPERATIONS: Final = 220
"""About as many calls that change something as a move makes here."""


async def fill(store: Store, *, streams: int = STREAMS, big: int = 900) -> None:
    """Fill a log with orders, of which two in three are closed, event by event in turns."""
    for version in range(5):
        requests: list[AppendRequest] = []
        for n in range(streams):
            kind = CLOSED if version == 4 and n % 3 else ADDED
            text = f"{n}.{version}." * (1 + (n * 7 + version) % (big // 4))
            metadata = b'{"key":"k-%d-%d"}' % (n, version)
            event = EventData(kind, b'{"text":"%s"}' % text.encode(), metadata)
            requests.append(AppendRequest([Write(f"order:{n}", version, [event])]))
        await store.append(Batch(requests, version))
    await store.append(Batch([AppendRequest([Write("other:1", 0, [EventData(ADDED, b"1")])])], 9))


def read(path: str) -> list[StoredEvent]:
    """Read a whole log from outside, each event compared with its checksum."""
    found: list[StoredEvent] = []
    with SqliteLogReader(path) as reader:
        while page := reader.read_feed(len(found), events_max=50, bytes_max=1 << 20):
            found += page
        assert reader.head().position == len(found)
    return found


def trial(seed: int, folder: Path) -> list[str]:
    """Run one trial; give what was broken."""
    try:
        with mock.patch.object(archiving, "_PAGE_EVENTS", 10):
            return asyncio.run(_trial(seed, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _trial(seed: int, folder: Path) -> list[str]:
    dice = random.Random(seed)
    disk = Disk(folder, dice)
    problems: list[str] = []
    try:
        store = SqliteStore(_path(disk))
        await store.open(_ports(disk))
        await fill(store)
        await store.close()
        wanted = _seen(disk)
        for life in range(LIVES):
            disk.crash_at = None if life == LIVES - 1 else dice.randrange(1, OPERATIONS)
            disk.only_killed = dice.random() < 0.3
            with suppress(EngineError, apsw.Error, OSError):
                async with SqliteArchiver(_path(disk), _ports(disk)) as archiver:
                    await archiver.archive(RULE, lambda _a, _b: None)
            if life < LIVES - 1:
                disk.power_off()
                disk.restart()
            problems += await _judged(disk, wanted, life)
        problems += _unmoved(disk)
    finally:
        disk.close_connections()
        disk.dispose()
    return problems


def _seen(disk: Disk) -> list[StoredEvent]:
    """Read a copy of the files as they are: a reader of the machine's own may change them."""
    copy = disk.root / "copy"
    shutil.copytree(disk.folder, copy, ignore=shutil.ignore_patterns("*-shm"))
    try:
        return read(str(copy / "shop.db"))
    finally:
        shutil.rmtree(copy)


def _path(disk: Disk) -> str:
    return str(disk.folder / "shop.db")


def _ports(disk: Disk) -> Ports:
    return Ports(files=SimulatedFiles(disk))


async def _judged(disk: Disk, wanted: list[StoredEvent], life: int) -> list[str]:
    """Compare what is left with what was written, as a reader and as an engine sees it."""
    try:
        found = _seen(disk)
        store = SqliteStore(_path(disk))
        await store.open(_ports(disk))
        try:
            engines = list(await store.read_feed(0, events_max=1_000, bytes_max=1 << 30))
        finally:
            await store.close()
    except (EngineError, apsw.Error, OSError) as error:
        return [f"life {life}: {type(error).__name__}, {error}"]
    told = (("reader", found), ("engine", engines))
    return [f"life {life}: a {who} finds other events" for who, each in told if each != wanted]


def _unmoved(disk: Disk) -> list[str]:
    """Look whether the last life, in which nothing failed, has moved all and given room back."""
    connection = apsw.Connection(_path(disk))
    try:
        sql = "SELECT count(*) FROM events WHERE encoding = ?"
        moved = connection.execute(sql, (MOVED,)).fetchall()[0][0]
        shrunk = connection.execute("SELECT min(shrunk) FROM archives").fetchall()[0][0]
    finally:
        connection.close()
    expected = 5 * len([n for n in range(STREAMS) if n % 3])
    return [] if (moved, shrunk) == (expected, 1) else [f"{moved} of {expected} moved, {shrunk}"]
