"""The log in one SQLite file, written by a process of its own: `sqlite:PATH?writer=process`.

Rules: the child is a `SqliteStore` behind a socket (`sqlite_child`), and has the file's lock; this
process reads. So the file, its promises and its tools are those of `SqliteStore`, and what a commit
costs in Python no longer waits for this interpreter's lock, nor keeps it. The child ends with this
process, however that ends, after the call that it is in. If the child ends first, what it was asked
has an unknown outcome, and the store takes nothing more until it is opened again: it never starts
a second child beside one that may still write.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..errors import StoreFailed, StoreRefused
from ..ports import SystemFiles
from .contract import Batch, Committed, EventType, Head, Snapshot
from .sqlite import SqliteStore
from .sqlite_wire import (
    Added,
    Answer,
    Append,
    Call,
    Close,
    Done,
    Failed,
    Line,
    Look,
    Open,
    Opened,
    WriteSnapshots,
    committed_of,
    decode_answer,
    encode,
    error_of,
)

__all__ = ["SqliteProcessStore"]

_BEGIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from engine.stores.sqlite_child import main; main()"
)
"""Takes this process's own path of modules, whatever has changed it since it began."""
_BUFFER_BYTES: Final = 1024 * 1024


class SqliteProcessStore(SqliteStore):
    """A log in the file `path` that a child process writes."""

    def __init__(self, path: str, *, open_timeout: float = 0.0) -> None:
        super().__init__(path, open_timeout=open_timeout)
        self._line: Line | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._unanswered: deque[asyncio.Future[Answer]] = deque()
        self._is_lost = False
        self._folds = (0, 0)

    # -- life -------------------------------------------------------------------------------

    async def _begin_writing(self) -> None:
        if type(self._ports.files) is not SystemFiles:
            raise StoreRefused(
                f"{self.path} is to be written by another process, which knows the machine's own "
                f"files and none of Ports.files: leave ?writer=process away"
            )
        if not sys.executable or getattr(sys, "frozen", False):
            raise StoreRefused(
                f"{self.path} is to be written by another process, and this program has no Python "
                f"interpreter to start one with: leave ?writer=process away"
            )
        self._is_lost = False
        self._writer = self._ports.workers.start("foldline-log")
        here, there = socket.socketpair()
        with there:
            for end in (here, there):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            try:
                self._child = await self._writer.run(self._start, there.fileno())
            except OSError as error:
                here.close()
                raise StoreRefused(f"no process to write {self.path}: {error}") from error
        loop, make = asyncio.get_running_loop(), partial(Line, self._received, self._lost)
        try:
            _, self._line = await loop.create_unix_connection(make, sock=here)
        except BaseException:
            here.close()  # which ends the child
            raise
        found = await self._look(Open())
        self._log_id, self._head = found.log_id, found.head

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        told = (json.dumps(sys.path), self.path, self._open_timeout, descriptor, os.getpid())
        return subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a caller
            [sys.executable, "-c", _BEGIN, *map(str, told)],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Of Ctrl-C, this process hears alone: it closes the log when the engine is done.
            start_new_session=True,
        )

    async def _end_writing(self) -> None:
        line, self._line = self._line, None
        child, self._child = self._child, None
        writer, self._writer = self._writer, None
        try:
            if line is not None and not self._is_lost:
                await self._say(line, Close())
        except StoreFailed:
            if not self._is_lost:
                raise
            # It has ended already, and that was said to whoever had asked it something.
        finally:
            try:
                if line is not None:
                    line.close()
                if child is not None and writer is not None:
                    # Until then it has the lock.
                    await writer.run(child.wait)
            finally:
                if writer is not None:
                    await writer.close()

    # -- the child --------------------------------------------------------------------------

    async def _ask(self, call: Call) -> Answer:
        """Give the child's answer; raise what it raised, or StoreFailed where it is no more."""
        if self._line is None:
            raise StoreFailed(f"{self.path} is closed", written=False)
        if self._is_lost:
            raise self._gone()
        return await self._say(self._line, call)

    async def _look(self, call: Open | Look) -> Opened:
        opened = await self._ask(call)
        assert isinstance(opened, Opened)
        return opened

    async def _say(self, line: Line, call: Call) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._unanswered.append(answer)
        line.send(encode(call))
        return await answer

    def _received(self, message: bytes) -> None:
        answer, what = self._unanswered.popleft(), decode_answer(message)
        if isinstance(what, Added):
            # Here, since it is so whether or not anybody waits for it still.
            self._folds = (what.wal_folds, what.wal_folds_put_off)
            if what.checksums:
                position = what.first + len(what.checksums) - 1
                self._head = Head(position, what.checksums[-1], what.recorded)
        if answer.done():
            return  # who asked was cancelled
        if isinstance(what, Failed):
            answer.set_exception(error_of(what))
        else:
            answer.set_result(what)

    def _lost(self) -> None:
        self._is_lost = True
        while self._unanswered:
            answer = self._unanswered.popleft()
            if not answer.done():
                answer.set_exception(self._gone())

    def _gone(self) -> StoreFailed:
        pid = "" if self._child is None else f" {self._child.pid}"
        return StoreFailed(
            f"{self.path}: the process{pid} that writes it has ended, and nobody knows whether "
            f"what it was asked is durable. Open the store again to see.",
            written=None,
        )

    # -- writing ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, in one transaction and with one sync."""
        added = await self._ask(Append(batch))
        assert isinstance(added, Added)
        return committed_of(batch, added)

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these in place of what was kept of their streams."""
        done = await self._ask(WriteSnapshots(snapshots))
        assert isinstance(done, Done)

    @property
    def folds(self) -> tuple[int, int]:
        """As of the last append."""
        return self._folds

    # -- reading ----------------------------------------------------------------------------

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return (await self._look(Look())).types
