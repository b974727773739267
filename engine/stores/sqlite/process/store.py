"""The log in one SQLite file, written by a process of its own: `sqlite:PATH?writer=process`.

Rules: the child is a `SqliteStore` behind a socket (`child`), and has the file's lock; this
process reads. So the file, its promises and its tools are those of `SqliteStore`, and what a commit
costs in Python no longer waits for this interpreter's lock, nor keeps it. The child ends with this
process, however that ends, after the call that it is in. If the child ends first, what it was asked
has an unknown outcome, what it was not asked is not written, and the store takes nothing more until
it is opened again: it never starts a second child beside one that may still write. A call that
cannot be sent leaves no trace. The child imports what this process has imported, from where it has:
nothing of the folder that is current, and nothing that the environment names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from ....errors import StoreFailed, StoreRefused
from ....model.stored import EventType, Snapshot
from ....runtime.interpreter import (
    can_begin,
    child_arguments,
    child_environment,
)
from ....runtime.uncancelled import uncancelled
from ...contract.log import Batch, Committed, Head
from ...contract.tags import TagForm
from ...contract.timers import SettledTimer
from ..files import SystemFiles, files_of
from ..log.store import SqliteStore
from .protocol import (
    Added,
    Answer,
    Append,
    Call,
    Close,
    Done,
    Failed,
    IndexTags,
    Line,
    Look,
    Open,
    Opened,
    Settled,
    SettleTimers,
    WriteSnapshots,
    committed_of,
    decode_answer,
    encode,
    error_of,
)

__all__ = ["SqliteProcessStore"]

_BUFFER_BYTES: Final = 1024 * 1024

_lines: set[int] = set()
"""Descriptors of the lines to the children of this process."""


class SqliteProcessStore(SqliteStore):
    """A log in the file `path` that a child process writes."""

    def __init__(self, path: str, *, open_timeout: float = 0.0) -> None:
        super().__init__(path, open_timeout=open_timeout)
        self._line: Line | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._unanswered: deque[asyncio.Future[Answer]] = deque()
        self._is_lost = False
        self._is_open = False
        self._descriptor = -1
        self._ended = asyncio.Event()
        self._merges = (0, 0)

    # -- life -------------------------------------------------------------------------------

    async def _begin_writing(self) -> None:
        if type(files_of(self._ports)) is not SystemFiles:
            raise StoreRefused(
                f"{self.path} is to be written by another process, which knows the machine's own "
                f"files and none of Ports.files: leave ?writer=process away"
            )
        if not can_begin():
            raise StoreRefused(
                f"{self.path} is to be written by another process, and this program has no Python "
                f"interpreter to start one with: leave ?writer=process away"
            )
        self._is_lost = self._is_open = False
        self._ended = asyncio.Event()
        self._writer = self._ports.workers.start("foldline-log")
        here, there = socket.socketpair()
        with there:
            for end in (here, there):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            try:
                # Closed before the child has it, its number would be that of another file.
                starting = self._writer.run(self._start, there.fileno())
                self._child = await uncancelled(starting)
            except OSError as error:
                here.close()
                raise StoreRefused(f"no process to write {self.path}: {error}") from error
        loop, make = asyncio.get_running_loop(), partial(Line, self._received, self._lost)
        try:
            _, self._line = await loop.create_unix_connection(make, sock=here)
        except BaseException:
            here.close()  # which ends the child
            raise
        _lines.add(here.fileno())
        self._descriptor = here.fileno()
        found = await self._look(Open())
        self._is_open = True
        self._log_id, self._known.head = found.log_id, found.head

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        told = (self.path, self._open_timeout, descriptor, os.getpid())
        return subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a caller
            child_arguments("stores.sqlite.process.child", *told),
            env=child_environment(),
            cwd="/",
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
            # One that has not opened yet waits for a lock, and closes when that comes: it ends
            # with its line.
            if line is not None and self._is_open and not self._is_lost:
                await self._say(line, Close())
        except StoreFailed:
            if not self._is_lost:
                raise
            # It has ended already, and that was said to whoever had asked it something.
        finally:
            try:
                if line is not None:
                    _lines.discard(self._descriptor)
                    line.close()
                if child is not None and not self._is_open:
                    child.kill()  # it may still begin, and a log bears it
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
        if not self._is_lost and self._child is not None and self._child.poll() is not None:
            self._lost()
        if self._is_lost:
            raise StoreFailed(
                f"{self.path}: {self._writer_name()} has ended, and was not asked for this: "
                f"nothing of it was written. Open the store again.",
                written=False,
                stopped=True,
            )
        return await self._say(self._line, call)

    async def _look(self, call: Open | Look) -> Opened:
        opened = await self._ask(call)
        assert isinstance(opened, Opened)
        return opened

    async def _say(self, line: Line, call: Call) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            line.send(encode(call))
        except Exception as error:
            raise StoreFailed(
                f"{self.path}: a {type(call).__name__} cannot be sent to {self._writer_name()} "
                f"({type(error).__name__}: {error}). Nothing of it was written.",
                written=False,
            ) from error
        # Answers come in the order of what was sent, so that only that may wait for one.
        self._unanswered.append(answer)
        return await answer

    def _received(self, message: bytes) -> None:
        try:
            what = decode_answer(message)
            answer = self._unanswered.popleft()
        except (msgspec.MsgspecError, IndexError):
            # Whose answer the next one is nobody knows any more.
            self._lost()
            return
        if isinstance(what, Added):
            # Here, since it is so whether or not anybody waits for it still.
            self._merges = (what.wal_merges, what.wal_merges_put_off)
            if what.checksums:
                position = what.first + len(what.checksums) - 1
                self._known.head = Head(position, what.checksums[-1], what.recorded)
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
        self._ended.set()

    async def ended(self) -> StoreFailed:
        """Wait until the child has ended by itself; give what it means."""
        await self._ended.wait()
        return self._gone()

    def _gone(self) -> StoreFailed:
        return StoreFailed(
            f"{self.path}: {self._writer_name()} has ended, and nobody knows whether what it was "
            f"asked is durable. Open the store again to see.",
            written=None,
        )

    def _writer_name(self) -> str:
        pid = "" if self._child is None else f" {self._child.pid}"
        return f"the process{pid} that writes it"

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

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Take timers away, or let them wait."""
        answer = await self._ask(SettleTimers(settled))
        assert isinstance(answer, Settled)
        return answer.gone

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Make the index anew where its forms are others."""
        answer = await self._ask(IndexTags(forms))
        assert isinstance(answer, Settled)
        return answer.gone

    @property
    def merges(self) -> tuple[int, int]:
        """As of the last append."""
        return self._merges

    # -- reading ----------------------------------------------------------------------------

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return (await self._look(Look())).types


def _forget_parents_lines() -> None:
    """Leave no end of a line in a fork, which would keep the child when its engine has ended."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in _lines:
        # Not closed: its number is believed to be in use by what belongs to the parent.
        os.dup2(nothing, descriptor, inheritable=False)
    _lines.clear()
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_lines)
