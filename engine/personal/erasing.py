"""What follows the destruction of a person's key: memory, snapshots and views lose him too.

Rules: an erasure begins with the destruction of the key, in the store of keys, by whoever asks. It
is unfinished until this task has let go of all that was read before: aggregates leave memory,
snapshots become unreadable, and every projection of events with personal fields is built anew
beside the tables that serve, which are then taken away and written over. So one that was begun
before a crash, or by another process, is finished here. What fails is logged, and tried again. It
never changes an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from ..errors import EngineError, UsageError
from ..projections.runner import ProjectionRunner
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..runtime.tracebacks import traceback_text
from ..stores.contract.keys import Erasure
from ..stores.contract.views import Scrubbed, ViewsStore
from ..write.directory import Directory
from .vault import Vault

__all__ = ["Eraser"]

_LOOK_SECONDS: Final = 0.05
"""Between two looks at a build that folds."""
_REASON: Final = "a person's data was erased"
_AGAIN_SECONDS: Final = 5.0
"""After a failure."""


class Eraser:
    """Finishes erasures, beside the projectors, until `stop`."""

    def __init__(
        self,
        vault: Vault,
        directory: Directory,
        projecting: Mapping[str, ProjectionRunner],
        views: ViewsStore,
        personal: frozenset[str],
        poll_ms: int,
        ports: Ports,
        logger: logging.Logger,
    ) -> None:
        self._vault = vault
        self._directory = directory
        self._projecting = {
            name: runner
            for name, runner in projecting.items()
            if runner.definition.has_tables
            and any(cls.event_name in personal for cls in runner.definition.event_classes)
        }
        self._views = views
        self._poll_seconds = max(poll_ms, 100) / 1_000
        self._ports = ports
        self._logger = logger
        self._stopping = Bell()
        self._asked = Bell()
        self._changes: int | None = None

    # -- the task -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Finish what is begun until `stop`; it goes on after a restart."""
        while not self._stopping.is_set():
            pause = self._poll_seconds
            try:
                await self._look()
            except EngineError as error:
                self._logger.warning("an erasure is not finished, and is tried again: %s", error)
                pause = _AGAIN_SECONDS
            except Exception as error:
                self._logger.error(
                    "an erasure is not finished, and is tried again\n%s", traceback_text(error)
                )
                pause = _AGAIN_SECONDS
            await self._pause(pause)

    def stop(self) -> None:
        """Let `run` return; what is not finished is gone on with by the next engine."""
        self._stopping.set()
        self._asked.set()

    def ask(self) -> None:
        """Look at once: somebody of this process has begun an erasure."""
        self._changes = None
        self._asked.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return
        if not self._stopping.is_set():
            self._asked.clear()

    async def _look(self) -> None:
        changes = self._vault.store.change_count()
        if changes == self._changes:
            return
        begun = await self._vault.store.unfinished()
        if begun:
            await self._finish(begun)
        if not self._stopping.is_set():
            self._changes = changes

    # -- what is done -------------------------------------------------------------------------

    async def _finish(self, begun: Sequence[Erasure]) -> None:
        """Let go of everything that was read before these erasures began."""
        self._vault.forget()
        await self._vault.erase_states()
        await self._empty_memory()
        for runner in self._projecting.values():
            await self._begin_again(runner)
        for runner in self._projecting.values():
            if not await self._folded_again(runner):
                return
        if self._projecting and isinstance(self._views, Scrubbed):
            await self._views.scrub()
        for erasure in begun:
            await self._vault.store.finish(erasure.number, self._ports.clock.now())
            self._logger.info(
                "erasure %d is finished: %d keys were destroyed, and %d projections were built "
                "anew",
                erasure.number,
                erasure.keys,
                len(self._projecting),
            )

    async def _empty_memory(self) -> None:
        """Let all aggregates leave memory that were read before; busy ones when they rest."""
        waiting = [actor for actor in self._directory.actors if actor.kind.is_personal]
        while waiting and not self._stopping.is_set():
            waiting = self._directory.let_go(waiting)
            if waiting:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _begin_again(self, runner: ProjectionRunner) -> None:
        if runner.building and runner.serving:
            # What is on its way may have folded him already.
            with suppress(UsageError):
                await runner.desk.cancel(_REASON)
        # The first tables of this version have nothing that serves meanwhile.
        while runner.building and not self._stopping.is_set():  # noqa: ASYNC110 - it is not told
            await asyncio.sleep(_LOOK_SECONDS)
        if not self._stopping.is_set():
            await runner.desk.rebuild(_REASON)

    async def _folded_again(self, runner: ProjectionRunner) -> bool:
        """Wait until what is built anew serves; tell whether it does."""
        while not self._stopping.is_set():
            if not runner.building:
                await runner.desk.drop_former(_REASON)
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False
