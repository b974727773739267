"""Folding the write-ahead log into the file: most of it beside the writer, the rest in its turn.

Rules: what has been folded is written over from the beginning, and the log keeps its size: a commit
that overwrites is synced in half the time of one that makes a file longer. A fold that fails stops
the store, since the kernel calls clean what it could not write. This file never folds what a
stopped store holds, waits for a reader, or runs while nothing is appended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import apsw

from ..errors import StoreRefused
from ..ports import Ports, Worker
from .sqlite_session import BUSY_MS, durable_settings, set_pragma

__all__ = ["PAGE_BYTES", "WAL_BYTES_MAX", "WalFolder"]

PAGE_BYTES: Final = 8_192
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""The write-ahead log is folded into the file above this size."""
_FRAME_BYTES: Final = PAGE_BYTES + 24
_PASSES_MAX: Final = 4
_REST_SHARE: Final = 16
"""The writer's turn comes when what is left is less than this part of the bound."""


class WalFolder:
    """Folds one file's write-ahead log whenever it is large.

    `writer` is the worker that `connection` belongs to, and makes this. `stop` is told what failed,
    in a worker's thread; from then on `is_stopped` must say so.
    """

    def __init__(
        self,
        path: str,
        ports: Ports,
        writer: Worker,
        connection: Any,
        *,
        stop: Callable[[BaseException], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._path = path
        self._ports = ports
        self._writer = writer
        self._connection = connection
        self._stop = stop
        self._is_stopped = is_stopped
        self._worker: Worker | None = None
        self._beside: Any = None
        self._frames = 0
        self._retry_bytes = WAL_BYTES_MAX
        self.task: asyncio.Task[None] | None = None
        """The fold that is under way."""
        self.folds = 0
        self.put_off = 0
        # Its size does not tell how full the log is, since it is overwritten.
        connection.set_wal_hook(self._committed)
        # What a reader made it grow far beyond the bound goes back to the disk.
        set_pragma(connection, "journal_size_limit", 2 * WAL_BYTES_MAX)

    def _committed(self, _connection: Any, _database: str, frames: int) -> int:
        self._frames = frames
        return int(apsw.SQLITE_OK)

    def fold_if_large(self) -> None:
        """Begin a fold where there is enough to fold; from the loop, after a commit."""
        if self.task is None and self._frames * _FRAME_BYTES >= self._retry_bytes:
            self.task = asyncio.ensure_future(self._fold())

    async def close(self) -> None:
        """End the fold that is under way, and the worker."""
        worker, self._worker = self._worker, None
        try:
            if self.task is not None:
                await asyncio.wait([self.task])
        finally:
            if worker is not None:
                try:
                    await worker.run(self._close_beside)
                finally:
                    await worker.close()

    def _close_beside(self) -> None:
        connection, self._beside = self._beside, None
        if connection is not None:
            connection.close()

    async def _fold(self) -> None:
        worker = self._worker
        if worker is None:
            worker = self._worker = self._ports.workers.start("foldline-fold")
        try:
            await worker.run(self._fold_beside)
            await self._writer.run(self._fold_rest)
        finally:
            self.task = None

    def _fold_beside(self) -> None:
        """Fold what is there while the writer goes on, until little is left."""
        for _ in range(_PASSES_MAX):
            found = None if self._is_stopped() else self._checkpoint_beside()
            if found is None:
                return
            _, folded = found
            if (self._frames - folded) * _FRAME_BYTES * _REST_SHARE <= WAL_BYTES_MAX:
                return

    def _checkpoint_beside(self) -> tuple[int, int] | None:
        if self._beside is None:
            try:
                self._beside = self._connect()
            except (apsw.Error, OSError, StoreRefused):
                return None  # no file to be had, for one: the writer then folds it all
        return self._checkpoint(self._beside, apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _connect(self) -> Any:
        connection = self._ports.files.connect(self._path)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        for pragma, value in durable_settings():
            set_pragma(connection, pragma, value)
        return connection

    def _fold_rest(self) -> None:
        """Fold the rest, and let the next commit begin the log anew."""
        if self._is_stopped():
            return
        self._connection.set_busy_timeout(0)
        found = self._checkpoint(self._connection, apsw.SQLITE_CHECKPOINT_RESTART)
        self._connection.set_busy_timeout(BUSY_MS)
        if found is None:
            self.put_off += 1
            self._retry_bytes = self._frames * _FRAME_BYTES + WAL_BYTES_MAX
        else:
            self.folds += 1
            self._frames = 0
            self._retry_bytes = WAL_BYTES_MAX

    def _checkpoint(self, connection: Any, mode: int) -> tuple[int, int] | None:
        """Give the frames that the log holds and those that are folded; None if others prevent it.

        A reader does: what could be folded is, and the next try comes with growth.
        """
        try:
            found: tuple[int, int] = connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError):
            return None
        except apsw.Error as error:
            # A sync of the file itself may have failed, and must not be tried again.
            self._stop(error)
            return None
        return found
