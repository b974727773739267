"""What becomes of timers whose commands have written nothing: taken away, tried again, set aside.

Rules: what gathers while one transaction is written goes into the next one. A store that cannot do
it now is asked again; one that does nothing more ends the engine. What is not settled when the
engine ends is fired again after the next start, and its command is decided anew. One that somebody
has fired before its time stands until then, since the log says that it waits; it is not run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ..errors import StoreFailed
from ..runtime.bell import Bell
from ..stores.contract.log import Store
from ..stores.contract.timers import SettledTimer, WaitingTimer

__all__ = ["SPENT", "Settling", "spent"]

SPENT: Final = "fired before its time, and its command wrote nothing: it is not run again"
"""The cause of one that stands until it would have been due; it stands in logs."""

_AGAIN_SECONDS = 0.5
_BATCH_MAX = 4_096


class Settling:
    """The task that settles timers, until `stop`."""

    def __init__(
        self,
        store: Store,
        failpoint: Callable[[str], None] | None,
        logger: logging.Logger,
        settled: Callable[[Sequence[SettledTimer], int], None],
    ) -> None:
        """Take whom to tell what is settled durably, and how many were taken away by that."""
        self._store = store
        self._failpoint = failpoint
        self._logger = logger
        self._settled = settled
        self._gathered: list[SettledTimer] = []
        self._bell = Bell()
        self._stopping = Bell()
        self._failed = False
        self.noting = asyncio.Lock()
        """Held until what was settled is told: who counts timers meanwhile would see it before."""

    def add(self, timer: SettledTimer) -> None:
        """Settle a timer with the next transaction."""
        self._bell.set()
        self._gathered.append(timer)

    async def run(self) -> None:
        """Settle until `stop`, and what was gathered then."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._gathered:
                batch = self._gathered[:_BATCH_MAX]
                async with self.noting:
                    is_settled = await self._settle(batch)
                if not is_settled:
                    await self._pause()
                    break
                del self._gathered[: len(batch)]
            if self._stopping.is_set():
                return

    def stop(self) -> None:
        """Let `run` return when what has gathered is settled."""
        self._stopping.set()
        self._bell.set()

    async def _settle(self, batch: Sequence[SettledTimer]) -> bool:
        """Settle a batch; tell whether that was done."""
        if self._failpoint is not None:
            self._failpoint("timers.settling")
        try:
            gone = await self._store.settle_timers(batch)
        except StoreFailed as failure:
            if failure.written is not False or failure.stopped:
                raise
            if not self._failed:
                self._logger.warning("timers are settled later: %s", failure)
            self._failed = True
            return False
        self._failed = False
        self._settled(batch, gone)
        return True

    async def _pause(self) -> None:
        """Let a store be asked again a little later, and at once at the end."""
        self._bell.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN_SECONDS):
                await self._stopping.wait()


def spent(timer: WaitingTimer, now: int) -> SettledTimer:
    """Let a timer go whose command has written nothing; `now` is in µs.

    Before its time the log says that it waits. Without a trace it would be called lost, and a
    repaired log would have it run again.
    """
    if timer.due <= now:
        return SettledTimer(timer.stream, timer.name, timer.position)
    return SettledTimer(timer.stream, timer.name, timer.position, timer.due, cause=SPENT)
