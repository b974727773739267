"""Merging a write-ahead log into its file: beside the writer (`WalMerger`), or in his own turn.

Rules: what has been merged is written over from the beginning, and the log keeps its size: a commit
that overwrites is synced in half the time of one that makes a file longer. Of the events' log most
is merged beside the writer and the rest in a moment of his; the bound above which that is done
begins small, and doubles while merging takes more than a tenth of the time. Views, for which no
command waits, are merged in their writer's turn (`WalInTurn`). A merge that fails stops the log,
and one whose sync fails the views, since the kernel calls clean what it could not write. A full
disk puts a merge off: nothing was called clean, and the log has what it could not merge. This file
never merges what a stopped store holds, waits for a reader, or runs while nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import apsw

from ...errors import StoreFailed, StoreRefused
from ...runtime.ports import Clock, Ports, Worker
from .connection import BUSY_MS, durable_settings, is_out_of_room, set_pragma
from .files import files_of

__all__ = ["PAGE_BYTES", "WAL_BYTES_MAX", "WalInTurn", "WalMerger"]

PAGE_BYTES: Final = 8_192
WAL_BYTES_MIN: Final = 4 * 1024 * 1024
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Between these lies the size above which the write-ahead log is merged into the file."""
_FRAME_HEADER_BYTES: Final = 24
_FRAME_BYTES: Final = PAGE_BYTES + _FRAME_HEADER_BYTES
_PASSES_MAX: Final = 4
_REST_SHARE: Final = 16
"""The writer's turn comes when what is left is less than this part of the bound."""
_TIME_SHARE: Final = 10
"""The bound doubles after a merge that took more than this part of the time since the last one."""


class _Bound:
    """The size above which a log is merged, in bytes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.bytes = self.next = min(WAL_BYTES_MIN, WAL_BYTES_MAX)
        """Also what it has to grow by, where it could not be merged."""
        self._merged_at = clock.monotonic()

    def merged(self) -> None:
        """Note that all is merged, so that the log is begun anew."""
        self.next = self.bytes

    def put_off(self, size: int) -> None:
        """Note that a reader is at it: what could be merged is, the rest comes with growth."""
        self.next = size + self.bytes

    def adapt(self, seconds: float) -> None:
        """Merge larger logs if merging takes much of the time: then fewer pages merge twice."""
        now = self._clock.monotonic()
        if seconds * _TIME_SHARE > now - self._merged_at:
            grown = min(2 * self.bytes, WAL_BYTES_MAX)
            self.next += grown - self.bytes
            self.bytes = grown
        self._merged_at = now


class WalMerger:
    """Merges one file's write-ahead log whenever it is large.

    `writer` is the worker that `connection` belongs to, and makes this. `check` raises StoreRefused
    where the path does not lead to its file any more. `stop` is told what failed, in a worker's
    thread; from then on `is_stopped` must say so.
    """

    def __init__(
        self,
        path: str,
        ports: Ports,
        writer: Worker,
        connection: Any,
        *,
        check: Callable[[], None],
        stop: Callable[[BaseException], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._path = path
        self._ports = ports
        self._writer = writer
        self._connection = connection
        self._check = check
        self._stop = stop
        self._is_stopped = is_stopped
        self._worker: Worker | None = None
        self._beside: Any = None
        self._frames = 0
        self._bound = _Bound(ports.clock)
        self._seconds = 0.0
        """What this merge has taken so far."""
        self.task: asyncio.Task[None] | None = None
        """The merge that is under way."""
        self.begun = 0
        self.merges = 0
        self.put_off = 0
        # Its size does not tell how full the log is, since it is overwritten.
        connection.set_wal_hook(self._committed)
        # What a reader made it grow far beyond the bound goes back to the disk.
        set_pragma(connection, "journal_size_limit", 2 * WAL_BYTES_MAX)

    def _committed(self, _connection: Any, _database: str, frames: int) -> int:
        if frames < self._frames:
            self._bound.merged()  # it was begun anew, by whomever
        self._frames = frames
        return int(apsw.SQLITE_OK)

    @property
    def bytes(self) -> int:
        """What the log holds since it was begun anew."""
        return self._frames * _FRAME_BYTES

    def merge_if_large(self) -> None:
        """Begin a merge where there is enough to merge; from the loop, after a commit."""
        if self.task is None and self.bytes >= self._bound.next:
            self.task = asyncio.ensure_future(self._merge())

    async def close(self) -> None:
        """End the merge that is under way, and the worker."""
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

    async def _merge(self) -> None:
        self.begun += 1
        try:
            self._seconds = 0.0
            worker = self._worker = self._worker or self._started()
            if worker is not None:
                await worker.run(self._merge_beside)
            await self._writer.run(self._merge_rest)
            self._bound.adapt(self._seconds)
        finally:
            self.task = None

    def _started(self) -> Worker | None:
        try:
            return self._ports.workers.start("foldline-fold")
        except RuntimeError:
            return None  # the process has no thread to be had: the writer then merges it all

    def _merge_beside(self) -> None:
        """Merge what is there while the writer goes on, until little is left."""
        for _ in range(_PASSES_MAX):
            found = None if self._is_stopped() else self._checkpoint_beside()
            if found is None:
                return
            _, merged = found
            if (self._frames - merged) * _FRAME_BYTES * _REST_SHARE <= self._bound.bytes:
                return

    def _checkpoint_beside(self) -> tuple[int, int] | None:
        if self._beside is None:
            try:
                self._beside = self._connect()
            except (apsw.Error, OSError, StoreFailed, StoreRefused):
                return None  # no file to be had, for one: the writer then merges it all
        return self._checkpoint(self._beside, apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _connect(self) -> Any:
        self._check()
        connection = files_of(self._ports).connect(self._path)
        try:
            # Before a setting is made, which changes the file: it may be another one by now.
            self._check()
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            for pragma, value in durable_settings():
                set_pragma(connection, pragma, value)
        except BaseException:
            connection.close()
            raise
        return connection

    def _merge_rest(self) -> None:
        """Merge the rest, and let the next commit begin the log anew."""
        if self._is_stopped():
            return
        self._connection.set_busy_timeout(0)
        found = self._checkpoint(self._connection, apsw.SQLITE_CHECKPOINT_RESTART)
        self._connection.set_busy_timeout(BUSY_MS)
        if found is None:
            self.put_off += 1
            self._bound.put_off(self.bytes)
        else:
            self.merges += 1
            self._frames = 0
            self._bound.merged()

    def _checkpoint(self, connection: Any, mode: int) -> tuple[int, int] | None:
        """Give the frames that the log holds and those that are merged; None if that must wait.

        A reader or a full disk prevents it: what could be merged is, the rest comes with growth.
        """
        begin = self._ports.clock.monotonic()
        try:
            found: tuple[int, int] = connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError):
            return None
        except apsw.Error as error:
            if is_out_of_room(connection, error):
                return None
            # A sync of the file itself may have failed, and must not be tried again.
            self._stop(error)
            return None
        finally:
            self._seconds += self._ports.clock.monotonic() - begin
        return found


class WalInTurn:
    """Merges one file's write-ahead log between two transactions of `connection`."""

    def __init__(self, connection: Any, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self.bound = _Bound(clock)
        self._frame_bytes = connection.pragma("page_size") + _FRAME_HEADER_BYTES
        self._frames = 0
        self.is_put_off = False
        """Whether somebody who reads kept the last merge from its end."""
        # As above: its size does not tell, and what a reader made it grow goes back to the disk.
        connection.set_wal_hook(self._committed)
        set_pragma(connection, "journal_size_limit", 2 * WAL_BYTES_MAX)

    def _committed(self, _connection: Any, _database: str, frames: int) -> int:
        if frames < self._frames:
            self.bound.merged()
        self._frames = frames
        return int(apsw.SQLITE_OK)

    def merge_if_large(self) -> None:
        """Merge it where there is enough to merge; raises what SQLite raises, but for a reader."""
        if self._frames * self._frame_bytes >= self.bound.next:
            self.merge()

    def merge_on(self, _connection: Any) -> None:
        """Merge it, now that nobody reads; as `merge`."""
        self.merge()

    def merge(self) -> None:
        """Merge it, as far as those who read let it; raises as above."""
        size = self._frames * self._frame_bytes
        begin = self._clock.monotonic()
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error as error:
            if not (isinstance(error, apsw.BusyError) or is_out_of_room(self._connection, error)):
                raise
            self.is_put_off = True
            self.bound.put_off(size)
        else:
            self.is_put_off = False
            self._frames = 0
            self.bound.merged()
        finally:
            self._connection.set_busy_timeout(BUSY_MS)
        self.bound.adapt(self._clock.monotonic() - begin)
