"""Writes snapshots behind everybody's back: gathered, bounded, and never on the way of an answer.

Rules: only the newest of a stream waits. What is too much is dropped, and what cannot be written is
logged and dropped: a snapshot is a cache, and the next one is due soon. It never reads one.
"""

from __future__ import annotations

import asyncio
import logging

import anyio

from ..limits import Limits
from ..model.stored import Snapshot
from ..statistics import SnapshotStatistics
from ..stores.contract.log import Store

__all__ = ["SnapshotWriter"]

_GATHER_SECONDS = 0.2
"""A write of snapshots costs the store a sync of its own, so that many share one."""


class SnapshotWriter:
    """The snapshots of one engine on their way to its store."""

    def __init__(self, store: Store, limits: Limits, logger: logging.Logger) -> None:
        self._store = store
        self._limits = limits
        self._logger = logger
        self._waiting: dict[str, Snapshot] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self.written = 0
        """Snapshots written since the start."""
        self.dropped = 0
        """Snapshots dropped, because too many waited or the store did not take them."""

    def keep(self, snapshot: Snapshot) -> None:
        """Have a snapshot written, in place of an older one of its stream that waits."""
        older = self._waiting.pop(snapshot.stream, None)
        if older is not None:
            self._bytes -= len(older.state)
        if self._bytes + len(snapshot.state) > self._limits.snapshot_bytes:
            self.dropped += 1
            return
        self._waiting[snapshot.stream] = snapshot
        self._bytes += len(snapshot.state)
        self._wake.set()

    def statistics(self) -> SnapshotStatistics:
        """Give the numbers as they are now; called from any thread."""
        return SnapshotStatistics(written=self.written, dropped=self.dropped)

    async def run(self) -> None:
        """Write until cancelled, and then what waits."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(_GATHER_SECONDS)
                await self._write()
        finally:
            with anyio.CancelScope(shield=True):
                await self._write()

    async def _write(self) -> None:
        snapshots = list(self._waiting.values())
        if not snapshots:
            return
        self._waiting.clear()
        self._bytes = 0
        try:
            await self._store.write_snapshots(snapshots)
        except asyncio.CancelledError:
            # The engine ends, and a server may not have heard of them: the last write takes them.
            for snapshot in snapshots:
                if snapshot.stream not in self._waiting:
                    self.keep(snapshot)
            raise
        except Exception as error:
            self.dropped += len(snapshots)
            self._logger.warning(
                "%d snapshots were not written (%s): %s",
                len(snapshots),
                type(error).__name__,
                error,
            )
        else:
            self.written += len(snapshots)
