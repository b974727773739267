"""The one task that holds the engine's tasks: opens, serves, drains, answers failures, closes.

Rules: the task groups live in a task of their own, so that a failure inside the engine never
cancels the host's code, and so that `async with` may begin and end in different tasks (a test
fixture's, a framework's). A task of the engine that ends is either asked to, or has failed, however
it ended: also where somebody cancelled it, or it returned. Whatever fails is kept in `failed`, and
every accepted command has been answered when this task ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, cast

import anyio
import anyio.abc
import msgspec

from ..errors import Closed, EngineFailed
from ..runtime.bell import Bell
from ..runtime.futures import retrieve
from ..runtime.safely import described, shows_messages
from ..runtime.tracebacks import traceback_text
from ..write.deliberation import Deliberations
from ..write.directory import Directory
from ..write.dispatcher import Dispatcher
from ..write.journal import Journal
from ..write.mailbox import Intake
from ..write.snapshot_writer import SnapshotWriter
from .watchdog import LoopMonitor

__all__ = ["Life", "Service", "State", "Supervisor"]

_LOADERS = 2
"""One folds what it has read while the store reads for the other."""

State: TypeAlias = Literal["new", "starting", "running", "stopping", "stopped", "failed"]


class Life(msgspec.Struct):
    """Where an engine is between its making and its end; only who leads it there changes it."""

    state: State = "new"
    failed: BaseException | None = None
    """What ended the engine after it had started, if it failed."""
    is_displaced: bool = False
    """Whether another log is now where the one stood that this engine shares with others."""


class Service(Protocol):
    """A projector, as far as its life goes."""

    async def run(self) -> None:
        """Work until `stop`."""
        ...

    def stop(self) -> None:
        """Finish the batch in hand, then let `run` return."""
        ...


class Supervisor:
    """The life of one engine, from `start` to `end`, once."""

    def __init__(
        self,
        life: Life,
        *,
        open_all: Callable[[], Awaitable[None]],
        close_all: Sequence[Callable[[], Awaitable[None]]],
        intake: Intake,
        journal: Journal,
        directory: Directory,
        dispatcher: Dispatcher,
        deliberations: Deliberations,
        snapshots: SnapshotWriter,
        watch: LoopMonitor | None,
        readers: Sequence[Service],
        logger: logging.Logger,
    ) -> None:
        self._life = life
        self._open_all = open_all
        self._close_all = close_all
        self._intake = intake
        self._journal = journal
        self._directory = directory
        self._dispatcher = dispatcher
        self._deliberations = deliberations
        self._snapshots = snapshots
        self._watch = watch
        self._readers = readers
        self._logger = logger
        self._stop_asked = Bell()
        self._asked: set[anyio.abc.TaskGroup] = set()
        """Groups whose tasks have been asked to end."""
        self.goes_on: Callable[[], bool] = _never
        """Tells whether this process goes on without this engine: then its end is no failure."""
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open everything and start the tasks; raise what prevents it, with all closed again."""
        assert self._life.state == "new", "the entrance lets it be started once"
        self._life.state = "starting"
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._supervise(started), name="foldline engine")
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:
            # Opening may wait long for a lock that another engine holds: do not wait with it.
            self.task.cancel()
            started.add_done_callback(retrieve)
            await self.end()
            raise
        except BaseException:
            started.add_done_callback(retrieve)
            await self.end()
            raise

    async def end(self) -> None:
        """Drain, and wait to the end, also where the host is cancelled meanwhile."""
        assert self.task is not None, "what was not started does not end"
        self._stop_asked.set()
        if self._life.state == "running":
            self._life.state = "stopping"
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not self.task.done():
                try:
                    await asyncio.wait([self.task])
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        try:
            await self._open_all()
            await self._serve_watched(started)
        except BaseException as error:
            self._fail(_root(error), started)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()
        if self._life.state != "failed":
            self._life.state = "stopped"

    async def _serve_watched(self, started: asyncio.Future[None]) -> None:
        async with self._group() as watching:
            if self._watch is not None:
                self._start(watching, self._watch.run)
            await self._serve(started)
            watching.cancel_scope.cancel()
            self._asked.add(watching)

    async def _serve(self, started: asyncio.Future[None]) -> None:
        async with self._group() as readers:
            for reader in self._readers:
                self._start(readers, reader.run)
            async with self._group() as writers:
                self._start(writers, self._journal.run)
                for _ in range(_LOADERS):
                    self._start(writers, self._directory.run)
                self._start(writers, self._directory.sweep)
                self._start(writers, self._snapshots.run)
                self._start(writers, self._deliberations.run)
                self._start(writers, partial(self._dispatcher.run, self._journal))
                self._life.state = "running"
                if not started.done():
                    started.set_result(None)
                await self._stop_asked.wait()
                self._life.state = "stopping"
                await self._intake.wait_idle()
                writers.cancel_scope.cancel()
                self._asked.add(writers)
            self._asked.add(readers)
            for reader in self._readers:
                reader.stop()

    # -- the watch over all tasks -----------------------------------------------------------

    @asynccontextmanager
    async def _group(self) -> AsyncGenerator[anyio.abc.TaskGroup]:
        """Give a group of tasks; raise EngineFailed where it ends and nobody has asked it to."""
        async with anyio.create_task_group() as group:
            yield group
        # A task that was cancelled before it began could not tell of it.
        if group not in self._asked:
            raise _ended("a task of the engine", "was cancelled by somebody")

    def _start(self, group: anyio.abc.TaskGroup, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task of the engine; this is the only place that does."""
        group.start_soon(self._run, group, run, name=_name_of(run))

    async def _run(self, group: anyio.abc.TaskGroup, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the group is ended, since it was asked to or something else has failed
            how = "was cancelled by somebody, or its event loop has ended"
            raise _ended(_name_of(run), how) from None
        if group not in self._asked:
            raise _ended(_name_of(run), "ended by itself")

    def _fail(self, error: BaseException, started: asyncio.Future[None]) -> None:
        """Answer everything, and keep the cause for `failed` and for the end."""
        self._life.state = "failed"
        if not started.done():
            started.set_exception(error)
            return
        self._life.failed = error
        self._journal.abandon()
        closed = Closed("the engine failed before the command was run: nothing was written")
        closed.__cause__ = error
        for actor in self._directory.actors:
            actor.refuse_waiting(closed)
        if not self.goes_on():
            messages = shows_messages(self._logger)
            self._logger.critical(
                "the engine failed with %s\n%s",
                described(error),
                traceback_text(error, messages=messages),
            )
        assert self._intake.open == 0, "every accepted command has its answer"

    async def _close(self) -> None:
        for close in self._close_all:
            try:
                await close()
            except BaseException as error:
                # What is durable is so already: a store that cannot close loses nothing.
                messages = shows_messages(self._logger)
                self._logger.error("closing failed\n%s", traceback_text(error, messages=messages))
                if self._life.state != "failed":
                    self._life.state, self._life.failed = "failed", error


def _never() -> bool:
    return False


def _name_of(run: Callable[[], Awaitable[None]]) -> str:
    function: Any = run.func if isinstance(run, partial) else run
    return f"foldline {function.__qualname__}"


def _ended(task: str, how: str) -> EngineFailed:
    return EngineFailed(
        f"{task} {how}, and the engine cannot go on without it. Cancel only tasks that you have "
        f"started; start a new engine."
    )


def _root(error: BaseException) -> BaseException:
    """Give the first real error inside an exception group."""
    inner: Any = error
    while isinstance(inner, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", inner).exceptions[0]
    return cast("BaseException", inner)
