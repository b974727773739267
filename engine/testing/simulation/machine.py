"""The ports of an engine that lives on a simulated machine: clock, ids, threads, files.

Rules: a thread is a queue whose calls run in the loop, at seeded moments, each as one step: what
one call does is never mixed with what another does, which is true of SQLite's transactions. The
wall clock jumps; the monotonic one is the loop's. Locks of files last as long as the life.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import apsw

from ...errors import StoreLocked
from ...runtime.ports import Clock, Ports
from ...stores.sqlite.files import SystemFiles
from .disk import Disk
from .loop import SimulatedLoop

__all__ = [
    "SimulatedClock",
    "SimulatedFiles",
    "SimulatedIds",
    "SimulatedWorkers",
    "WallClock",
    "simulated_ports",
]

T = TypeVar("T")


class SimulatedClock:
    """Wall time that jumps by an hour now and then, and a monotonic one that does not."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._loop = loop
        self._random = random

    def now(self) -> int:
        """Give µs since 1970, more or less."""
        jump = self._random.choice((0, 0, 0, 0, -3_600, 3_600))
        return 1_700_000_000_000_000 + int((self._loop.time() + jump) * 1e6)

    def monotonic(self) -> float:
        """Give the loop's seconds."""
        return self._loop.time()


class WallClock:
    """Wall time that runs with the loop's, and can be moved ahead of it, as after a sleep."""

    def __init__(self, loop: SimulatedLoop, began: float) -> None:
        self._loop = loop
        self.began = began
        """The wall time at the loop's 0, in seconds since 1970-01-01 UTC."""
        self._told: list[Callable[[], None]] = []

    def now(self) -> int:
        """Give µs since 1970."""
        return int((self.began + self._loop.time()) * 1e6)

    def monotonic(self) -> float:
        """Give the loop's seconds."""
        return self._loop.time()

    def advance(self, seconds: float) -> None:
        """Move it, and tell whoever waits for a time of it."""
        self.began += seconds
        for call in tuple(self._told):
            call()

    def on_jump(self, call: Callable[[], None], /) -> Callable[[], None]:
        """Have it called after each move; give what ends that."""
        self._told.append(call)
        return lambda: self._told.remove(call)


class SimulatedIds:
    """Ids of the seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def new_id(self) -> str:
        """Give 128 bits."""
        return f"{self._random.getrandbits(128):032x}"


class SimulatedFiles(SystemFiles):
    """Opens SQLite on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def connect(self, path: str, *, readonly: bool = False) -> Any:
        """Open a connection through the simulated disk."""
        if path == ":memory:":
            return apsw.Connection(path)
        return self._disk.connect(path, readonly=readonly)

    def lock(self, path: str, *, briefly: bool = False) -> Any:
        """Take a path for this life."""
        if path in self._disk.locks:
            raise StoreLocked(f"{path} is held by another engine of this life")
        self._disk.locks.add(path)
        return _Lock(self._disk, path)

    def hold(self, path: str, connection: Any) -> Any:
        """Take nothing: no other machine has this disk."""
        return _Lock(self._disk, path + " itself")

    def is_locked(self, path: str) -> bool:
        """Tell whether somebody of this life has a path."""
        return path in self._disk.locks

    def rewrite(self, path: str) -> None:
        """Write a file's bytes over themselves, and sync it."""
        self._disk.rewrite(Path(path))

    def sync(self, path: str) -> None:
        """Sync a file."""
        self._disk.sync(Path(path))

    def blank(self, path: str, places: Sequence[int], size: int) -> None:
        """Write zeros at some places of a file."""
        for place in places:
            self._disk.blank(Path(path), place, size)

    def mark(self, path: str) -> Any:
        """Give what keeps nothing: a loss of power may take what is not synced."""
        return _NoMark()

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        super().remove(path)
        self._disk.removed(Path(path).name)

    def place(self, path: str, to: str) -> None:
        """Give a file another name, synced; the power may go before."""
        if self._disk.reach("rename", Path(path).name) is not None:
            raise OSError("the power is gone")
        super().place(path, to)
        self._disk.renamed(Path(path).name, Path(to).name)


class _NoMark:
    def read(self) -> bytes:
        return b""

    def write(self, said: bytes) -> None:
        """Write nothing."""

    def close(self, *, removing: bool) -> None:
        """Do nothing."""


class _Lock:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.discard(self._path)


class SimulatedWorkers:
    """Threads that are queues; a call takes `seconds` on average before it is done and told."""

    def __init__(self, loop: SimulatedLoop, random: Random, seconds: float = 0.001) -> None:
        self._loop = loop
        self._random = random
        self._seconds = seconds

    def start(self, name: str) -> SimulatedWorker:
        """Start one."""
        return SimulatedWorker(self._loop, self._random, self._seconds)


class SimulatedWorker:
    """Runs its calls one after the other, each at a seeded moment."""

    def __init__(self, loop: SimulatedLoop, random: Random, seconds: float) -> None:
        self._loop = loop
        self._random = random
        self._seconds = seconds
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._busy = False
        self._told = 0.0

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
            self._loop.call_later(self._wait(), self._work)

    def _work(self) -> None:
        call, answer = self._calls.popleft()
        try:
            result = call()
        except BaseException as error:
            self._tell(answer, None, error)
        else:
            self._tell(answer, result, None)
        self._next()

    def _tell(self, *answer: Any) -> None:
        # Answers of one thread come back in the order of its calls.
        self._told = max(self._loop.time() + self._wait(), self._told + 1e-9)
        self._loop.call_at(self._told, _settle, *answer)

    def _wait(self) -> float:
        return self._random.expovariate(1 / self._seconds)

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


def simulated_ports(
    disk: Disk,
    loop: SimulatedLoop,
    random: Random,
    *,
    clock: Clock | None = None,
    seconds: float = 0.001,
    failpoint: Callable[[str], None] | None = None,
) -> Ports:
    """Give the ports of one life; calls of its threads take so many seconds on average."""
    return Ports(
        clock=clock or SimulatedClock(loop, random),
        ids=SimulatedIds(random),
        workers=SimulatedWorkers(loop, random, seconds),
        files=SimulatedFiles(disk),
        watcher=None,
        stopwatch=loop.time,
        failpoint=failpoint,
    )
