"""Looks at what may not answer: the disk of a log, and the manifest of its backup.

Rules: each kind of look has a thread of its own, started when it is first asked for, so that
neither the event loop nor another look waits for a disk that hangs. One is under way at a time; who
asks meanwhile is soon given what was seen last, and for how long nothing has been. The disk is
asked through the ports of the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..backups.places import FolderPlace, read_manifest
from ..errors import EngineError
from ..runtime.futures import retrieve
from ..runtime.ports import Clock, Ports, Worker
from ..stores.contract.disk import DiskSpace, OnDisk
from .report import Backup, Disk

__all__ = ["Growth", "Looks", "look_at_backup"]

T = TypeVar("T")

_FRESH_SECONDS: Final = 1.0
"""For how long nobody looks again."""
_PATIENCE_SECONDS: Final = 0.5
"""How long who asks waits for a look."""
_CLOSE_SECONDS: Final = 1.0
_AHEAD_SECONDS: Final = 60.0
"""By how much the clock that a backup was made by may be ahead of ours."""
_WINDOW_SECONDS: Final = 3_600.0
_STEP_SECONDS: Final = 15.0
_LEAST_SECONDS: Final = 60.0
"""Of looking, before anything is said of how fast a disk fills."""


class Growth:
    """How fast a disk fills, over the last hour."""

    def __init__(self) -> None:
        steps = int(_WINDOW_SECONDS / _STEP_SECONDS) + 1
        self._seen: deque[tuple[float, int]] = deque(maxlen=steps)

    def seconds_left(self, now: float, free: int) -> float | None:
        """Note what is free now; give for how long it lasts, None where it does not fill."""
        if not self._seen or now - self._seen[-1][0] >= _STEP_SECONDS:
            self._seen.append((now, free))
        while now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if now - since < _LEAST_SECONDS or before <= free:
            return None
        return free * (now - since) / (before - free)


class _Look(Generic[T]):
    """One kind of look, and what it has seen last."""

    def __init__(self, ports: Ports, name: str) -> None:
        self._ports = ports
        self._name = name
        self._worker: Worker | None = None
        self._under_way: asyncio.Future[T] | None = None
        self._asked = 0.0
        self.seen: T | None = None

    async def __call__(self, what: Callable[[], T]) -> float:
        """Look, if what was seen is old; give for how many seconds nothing has been seen."""
        now = self._ports.clock.monotonic
        under_way = self._under_way
        if under_way is None:
            if self.seen is not None and now() - self._asked < _FRESH_SECONDS:
                return 0.0
            self._asked = now()
            self._worker = self._worker or self._ports.workers.start(self._name)
            under_way = self._under_way = asyncio.ensure_future(self._worker.run(what))
            under_way.add_done_callback(self._take)
            under_way.add_done_callback(retrieve)
        await asyncio.wait([under_way], timeout=_PATIENCE_SECONDS)
        return 0.0 if under_way.done() else now() - self._asked

    def _take(self, done: asyncio.Future[T]) -> None:
        self._under_way = None
        failed = done.cancelled() or done.exception() is not None
        self.seen = None if failed else done.result()  # what was seen before is old by now

    def forget(self) -> None:
        """Believe no more what was seen."""
        self.seen = None

    async def close(self) -> None:
        """End the thread; wait only a moment for a look that hangs."""
        worker, self._worker = self._worker, None
        if worker is not None:
            closing = asyncio.ensure_future(worker.close())
            closing.add_done_callback(retrieve)
            await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
            closing.cancel()


class Looks:
    """All looks of one engine."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._clock: Clock = ports.clock
        self._disk: _Look[DiskSpace | str] = _Look(ports, "foldline disk")
        self._backup: _Look[Backup] = _Look(ports, "foldline backup")
        self._growth = Growth()
        self._folder = ""

    async def disk(self, store: object) -> tuple[Disk | None, float | None, str]:
        """Give what is known of a store's disk, and for how long it has not answered.

        Give also why nothing is known, where it has answered.
        """
        if not isinstance(store, OnDisk):
            return None, None, ""
        held = await self._disk(lambda: _space(store, self._ports))
        space = self._disk.seen
        if space is None or isinstance(space, str):
            return None, held, space or ""
        left = self._growth.seconds_left(self._clock.monotonic(), space.free_bytes)
        return Disk(space.free_bytes, dict(space.wal_bytes), left), held, ""

    async def backup(self, folder: str | None, log_id: str) -> Backup | None:
        """Give how old the backup in a folder is, and whether it is of this log."""
        if folder is None:
            return None
        if folder != self._folder:
            self._folder = folder
            self._backup.forget()
        now = self._clock.now()
        held = await self._backup(lambda: look_at_backup(folder, log_id, now))
        seen = self._backup.seen
        if seen is None:
            return Backup(None, f"{folder} does not answer")
        return Backup(None if seen.seconds is None else seen.seconds + held, seen.says)

    async def close(self) -> None:
        """End the threads."""
        await asyncio.gather(self._disk.close(), self._backup.close())


def _space(store: OnDisk, ports: Ports) -> DiskSpace | str:
    try:
        return store.disk(ports)
    except OSError as error:
        # An idle engine would find that out at its next commit only.
        return f"the file of the log cannot be looked at ({error.strerror}): see where it is"


def look_at_backup(folder: str, log_id: str, now: int) -> Backup:
    """Read the manifest of a backup; `now` is in µs since 1970-01-01 UTC. It blocks."""
    try:
        manifest = read_manifest(FolderPlace(folder))
    except EngineError as error:
        return Backup(None, str(error))
    if manifest is None:
        return Backup(None, f"there is no backup in {folder}: make one with `foldline backup`")
    age = max(0, now - manifest.made) / 1e6
    ahead = (manifest.made - now) / 1e6
    if ahead > _AHEAD_SECONDS:
        says = f"the backup in {folder} was made {ahead:,.0f} s from now, so its age is not known"
        return Backup(None, f"{says}: make it again, and see whose clock is wrong")
    if log_id and manifest.log_id != log_id:
        return Backup(age, f"the backup in {folder} is of another log")
    if not manifest.whole:
        return Backup(age, f"the backup in {folder} was interrupted: make it again")
    return Backup(age)
