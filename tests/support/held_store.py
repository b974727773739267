"""A store in memory whose appends wait until they are let go, and fail when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from engine import Event, StoreFailed
from engine.model.codec import schema_hash
from engine.model.stored import EventData, EventType, StoredEvent
from engine.stores.contract.log import AppendRequest, Batch, Committed, Write
from engine.stores.memory import MemoryStore
from tests.support.counters import Added


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
        kind = EventType(event.event_name, event.event_version, schema_hash(type(event)))
        data = EventData(kind, msgspec.json.encode(event))
        await super().append(Batch([AppendRequest([Write(stream, expected, [data])])], 1))

    async def events(self) -> Sequence[StoredEvent]:
        """Give the whole log."""
        return await self.read_feed(0, events_max=1_000_000, bytes_max=1 << 40)


def not_written() -> StoreFailed:
    return StoreFailed("the disk is full.", written=False)


def unknown() -> StoreFailed:
    return StoreFailed("the sync failed.", written=None)
