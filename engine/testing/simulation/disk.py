"""A disk that forgets what was not synced, under the real SQLite, and the ports that lead to it.

Rules: SQLite reads and writes real files on a RAM disk, so that WAL and several connections work as
they do outside; beside them this disk keeps what would survive a loss of power: what was synced,
and of each write since then a seeded part, cut at sectors. When the power is gone every call fails.
The next life starts on a folder that is made of what survived. A thread is a queue whose calls run
in the loop, at seeded moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import apsw

from ...errors import StoreLocked
from ...ports import SystemFiles
from .loop import SimulatedLoop

__all__ = ["Disk", "SimulatedFiles", "SimulatedWorkers"]

T = TypeVar("T")

SECTOR = 512


class Disk:
    """One machine's disk, over all its lives."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.root = folder
        self.random = random
        self.life = 0
        self.durable: dict[str, bytearray] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        """Per file what was written since its last sync: (offset, data), or (size, None)."""
        self.operations = 0
        self.crash_at: int | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self.fail_at: int | None = None
        """The operation that fails once: a sync that fails leaves what it was to sync for ever."""
        self.failed = 0
        """How many operations failed, of all lives."""
        self.dead = False
        self.locks: set[str] = set()
        self.connections: list[apsw.Connection] = []
        self.name = f"simulated-{id(self)}"
        self.vfs = _Vfs(self)
        self.folder.mkdir(parents=True)

    @property
    def folder(self) -> Path:
        """Where this life's files are."""
        return self.root / str(self.life)

    def reach(self) -> None:
        """Count an operation; the power may go here."""
        if self.dead:
            raise apsw.IOError("the power is gone")
        self.operations += 1
        if self.crash_at is not None and self.operations >= self.crash_at:
            self.power_off()
            raise apsw.IOError("the power is gone")

    def fails(self) -> bool:
        """Tell whether this operation is the one that fails."""
        if self.fail_at is None or self.operations < self.fail_at:
            return False
        self.fail_at = None
        self.failed += 1
        return True

    def power_off(self) -> None:
        """Let every further call fail."""
        self.dead = True
        self.on_crash()

    def written(self, name: str, offset: int, data: bytes) -> None:
        self.pending.setdefault(name, []).append((offset, data))

    def truncated(self, name: str, size: int) -> None:
        self.pending.setdefault(name, []).append((size, None))

    def synced(self, name: str) -> None:
        image = self.durable.setdefault(name, bytearray())
        for offset, data in self.pending.pop(name, ()):
            _apply(image, offset, data)

    def removed(self, name: str) -> None:
        self.durable.pop(name, None)
        self.pending.pop(name, None)

    def restart(self) -> None:
        """Begin the next life on what survived."""
        survived = {name: self._survived(name) for name in {*self.durable, *self.pending}}
        for connection in self.connections:
            with contextlib.suppress(apsw.Error):
                connection.close(True)
        self.connections.clear()
        self.locks.clear()
        self.life += 1
        self.folder.mkdir()
        self.durable = {}
        self.pending = {}
        for name, image in survived.items():
            if image is not None:
                (self.folder / name).write_bytes(image)
                self.durable[name] = bytearray(image)
        self.dead = False
        self.operations = 0
        self.crash_at = self.fail_at = None

    def _survived(self, name: str) -> bytes | None:
        if name not in self.durable and self.random.random() < 0.5:
            return None  # the folder's entry was lost
        image = bytearray(self.durable.get(name, b""))
        # Every write arrives, none does, or each by chance: what a kernel may have done by then.
        chance = self.random.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in self.pending.get(name, ()):
            if self.random.random() >= chance:
                continue
            if data is not None and self.random.random() < 0.2:
                data = data[: self.random.randrange(len(data) + 1) // SECTOR * SECTOR]
            _apply(image, offset, data)
        return bytes(image)


def _apply(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        image.extend(bytes(offset - len(image)))
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(disk.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._disk.reach()
        super().xDelete(filename, syncdir)
        self._disk.removed(Path(filename).name)

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return bytes(numbytes)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(path).name
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if self._disk.dead:
            raise apsw.IOError("the power is gone")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.reach()
        if self._disk.fails():
            raise self._disk.random.choice((apsw.IOError, apsw.FullError))("it fails once")
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType]
        self._disk.written(self._name, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.reach()
        super().xTruncate(newsize)
        self._disk.truncated(self._name, newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802
        self._disk.reach()
        if self._disk.fails():
            # As a kernel does: what it could not write is marked clean, and the next sync succeeds.
            self._disk.pending.pop(self._name, None)
            raise apsw.IOError("it fails once")
        self._disk.synced(self._name)


class SimulatedFiles(SystemFiles):
    """Opens SQLite on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        """Open a connection through the simulated disk."""
        if path == ":memory:":
            return apsw.Connection(path)
        self._disk.reach()
        if not readonly:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(path, flags=flags, vfs=self._disk.name)
        self._disk.connections.append(connection)
        return connection

    def lock(self, path: str) -> Any:
        """Take a path for this life."""
        if path in self._disk.locks:
            raise StoreLocked(f"{path} is held by another engine of this life")
        self._disk.locks.add(path)
        return _Lock(self._disk, path)

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        super().remove(path)
        self._disk.removed(Path(path).name)


class _Lock:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.discard(self._path)


class SimulatedWorkers:
    """Threads that are queues."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._loop = loop
        self._random = random

    def start(self, name: str) -> SimulatedWorker:  # noqa: ARG002 - the port's
        """Start one."""
        return SimulatedWorker(self._loop, self._random)


class SimulatedWorker:
    """Runs its calls one after the other, each at a seeded moment."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._loop = loop
        self._random = random
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._busy = False

    async def run(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run a call; it goes on to its end where the caller is cancelled."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._calls.append((lambda: call(*args), answer))
        if not self._busy:
            self._next()
        return await answer

    def _next(self) -> None:
        self._busy = bool(self._calls)
        if self._busy:
            self._loop.call_later(self._random.expovariate(1 / 0.001), self._work)

    def _work(self) -> None:
        call, answer = self._calls.popleft()
        try:
            result = call()
        except BaseException as error:
            self._loop.call_later(self._wait(), _settle, answer, None, error)
        else:
            self._loop.call_later(self._wait(), _settle, answer, result, None)
        self._next()

    def _wait(self) -> float:
        return self._random.expovariate(1 / 0.0005)

    async def close(self) -> None:
        """Finish what was accepted."""
        await self.run(lambda: None)


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
