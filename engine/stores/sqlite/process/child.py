"""The process that writes a log for an engine in another one: a `SqliteStore` behind a socket.

Rules: it does one call after the other and answers each. It lives as long as the engine's process:
when that is gone it ends at once, as by `kill -9`, which a log bears; a call that it has begun is
done before. It is told to end by nobody else: signals that a terminal or a supervisor sends to all
are the engine's to obey, which then closes the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from ....running import run
from ....runtime.machine import ThreadWorker
from ....runtime.ports import Ports, Worker
from ..files import FileLock, SystemFiles
from ..log.store import SqliteStore
from .protocol import (
    Answer,
    Append,
    Close,
    Done,
    IndexTags,
    Line,
    Open,
    Opened,
    Settled,
    SettleTimers,
    WriteSnapshots,
    added_of,
    decode_call,
    encode,
    failed_of,
)

__all__ = ["main"]

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.5
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(path: str, seconds: float, descriptor: int, engine: int) -> None:
    """Serve the engine that began this process, whose end of the line is `descriptor`."""
    for which in _IGNORED:
        signal.signal(which, signal.SIG_IGN)
    run(_serve, path, seconds, descriptor, engine)


async def _serve(path: str, seconds: float, descriptor: int, engine: int) -> None:
    calls: asyncio.Queue[bytes] = asyncio.Queue()
    make = partial(Line, calls.put_nowait, _leave)
    end = socket.socket(fileno=descriptor)
    _, line = await asyncio.get_running_loop().create_unix_connection(make, sock=end)
    watching = asyncio.create_task(_leave_with(engine))
    child = _Child(path, seconds, engine)
    while not child.has_closed:
        line.send(encode(await child.answer(await calls.get())))
    # Whoever is told that the log is closed hangs up, and waits for the end.
    await watching


async def _leave_with(engine: int) -> None:
    """Leave when the engine's process is gone, though what it has forked may hold the line."""
    while os.getppid() == engine:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(_LOOK_SECONDS)
    _leave()


def _leave() -> None:
    os._exit(0)


class _Child:
    """The store, and how a call is done on it."""

    def __init__(self, path: str, seconds: float, engine: int) -> None:
        self._store = SqliteStore(path, open_timeout=seconds)
        self._ports = Ports(workers=_Workers(), files=_Files(engine), watcher=None)
        self.has_closed = False

    async def answer(self, message: bytes) -> Answer:
        """Do what a call says."""
        try:
            return await self._do(message)
        except Exception as error:
            return failed_of(error)

    async def _do(self, message: bytes) -> Answer:
        call, store = decode_call(message), self._store
        if isinstance(call, Append):
            committed = await store.append(call.batch)
            return added_of(committed, *store.merges)
        if isinstance(call, WriteSnapshots):
            await store.write_snapshots(call.snapshots)
            return Done()
        if isinstance(call, SettleTimers):
            return Settled(await store.settle_timers(call.settled))
        if isinstance(call, IndexTags):
            return Settled(await store.index_tags(call.forms))
        if isinstance(call, Close):
            self.has_closed = True
            await store.close()
            return Done()
        if isinstance(call, Open):
            await store.open(self._ports)
        return Opened(store.log_id, await store.head(), await store.event_types())


class _Files(SystemFiles):
    """The machine's, with locks that name the engine's process."""

    def __init__(self, engine: int) -> None:
        self._engine = engine

    def lock(self, path: str, *, briefly: bool = False) -> FileLock:
        """Take it for the engine."""
        return FileLock(path, briefly=briefly, pid=self._engine)


class _Workers:
    """Only a fold is beside the writer; the writer has this process to itself."""

    def start(self, name: str) -> Worker:
        """Give a thread to whoever folds, and this one to the others."""
        return ThreadWorker(name) if name == "foldline-fold" else _ThisThread()


class _ThisThread:
    """Runs calls where they are asked for."""

    async def run(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run it."""
        return call(*args)

    async def close(self) -> None:
        """Leave nothing behind."""
