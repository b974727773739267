"""Backups that tests make, and logs that they restore."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from engine.backups.format import Manifest
from engine.backups.places import FolderPlace, read_manifest
from engine.backups.reading import BackupLog, BackupSource
from engine.backups.writing import BackupTarget
from engine.model.codec import Metadata, encode_metadata
from engine.model.stored import EventData
from engine.outside.copying import CopyProgress, Transferred, transfer
from engine.runtime.ports import Ports
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.urls import open_backend
from engine.testing.conformance import ADDED

__all__ = ["append", "backed_up", "claimed", "manifest", "place", "restored"]

_times = count(1_000_000)


def place(folder: Path) -> FolderPlace:
    return FolderPlace(str(folder))


def manifest(folder: Path) -> Manifest:
    found = read_manifest(place(folder))
    assert found is not None
    return found


def backed_up(
    source: str,
    folder: Path,
    show: Callable[[CopyProgress], None] = lambda _: None,
    *,
    page_events: int = 7,
    segment_events: int = 200_000,
) -> Transferred:
    """Back a log up in small pages."""
    target = BackupTarget(
        place(folder), source, lambda: next(_times), segment_events=segment_events
    )
    copied = open_backend(source).outside(Ports()).copy_source()
    return transfer(copied, target, show, page_events=page_events, compared=False)


def restored(
    folder: Path, target: str, *, at: int | None = None, until: int | None = None
) -> Transferred:
    """Make a log of a backup."""
    source = BackupSource(BackupLog(place(folder), at=at, until=until))
    return transfer(source, open_backend(target).outside(Ports()).copy_target(), page_events=7)


async def claimed(store: str, count: int) -> None:
    """Fill a log with events of 50 streams, of which each third claims a name."""
    log = open_backend(store).log()
    await log.open(Ports())
    for n in range(count):
        stream, claims, metadata = f"stream:{n % 50}", list[TakeClaim](), b""
        if n % 3 == 0:
            claims = [TakeClaim("name", f"ü {n}", stream)]
            metadata = encode_metadata(Metadata(claims=(("name", f"ü {n}"),)))
        event = EventData(ADDED, b'{"amount":%d}' % n, metadata)
        request = AppendRequest([Write(stream, n // 50, [event])], claims)
        await log.append(Batch([request], 1_000))
    await log.close()


async def append(
    store: str, count: int, *, stream: str = "late:1", after: int = 0, metadata: bytes = b""
) -> None:
    """Append events to a stream, each in a batch of its own."""
    log = open_backend(store).log()
    await log.open(Ports())
    for n in range(count):
        event = EventData(ADDED, b'{"amount":%d}' % n, metadata)
        await log.append(Batch([AppendRequest([Write(stream, after + n, [event])])], 2_000))
    await log.close()
