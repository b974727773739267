"""Timers that are set aside since they failed too often: how they are found, and tried again.

Rules: an operator may have all of them tried again. Without being asked, an engine tries at its
start those that another release has set aside, because it did not know their commands: it was
rolled back, or ran beside the one that has set them. Those that an operator has cancelled stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from ..errors import HandlerFailed
from ..model.timers import TimedCommands
from ..runtime.ports import Clock
from ..stores.contract.log import Store
from ..stores.contract.timers import SettledTimer, WaitingTimer
from .tally import Tally

__all__ = ["UNKNOWN", "Aside", "has_failed", "reason_of"]

UNKNOWN: Final = "HandlerFailed (of another release): "
"""How the cause begins of one that another release may know; it stands in logs."""
_PAGE: Final = 1_024


def has_failed(timer: WaitingTimer) -> bool:
    """Tell whether a timer is set aside since its command failed, and not by an operator."""
    return timer.parked and not timer.cancelled


def reason_of(error: BaseException) -> tuple[BaseException, str]:
    """Give why a command has failed, and how the cause begins if another release may know it.

    A schedule's own command is known to each release; the one that it has to run may not be.
    """
    inside = error.__cause__
    return (inside, UNKNOWN) if isinstance(inside, HandlerFailed) else (error, "")


class Aside:
    """What tries timers again that are set aside."""

    def __init__(
        self,
        store: Store,
        known: TimedCommands,
        tally: Tally,
        clock: Clock,
        logger: logging.Logger,
    ) -> None:
        self._store = store
        self._commands = known
        self._tally = tally
        self._clock = clock
        self._logger = logger
        self._at_work = asyncio.Lock()

    async def retry(self, which: Callable[[WaitingTimer], bool] = has_failed) -> int:
        """Let some be due now, as if they had not failed; give how many, when that is durable.

        One that somebody else lets wait meanwhile is no more set aside. Raises StoreFailed.
        """
        async with self._at_work:
            return await self._retry(which)

    async def _retry(self, which: Callable[[WaitingTimer], bool]) -> int:
        count, after, now = 0, ("", ""), self._clock.now()
        while page := await self._store.read_timers(after, timers_max=_PAGE):
            after = page[-1].key
            parked = [timer for timer in page if which(timer)]
            if parked:
                await self._store.settle_timers(
                    [SettledTimer(t.stream, t.name, t.position, now) for t in parked]
                )
            count += len(parked)
            self._tally.let_wait(len(parked))
        return count

    async def retry_known(self) -> None:
        """Try those again that another release did not know, and this one does; as `retry`."""
        count = await self.retry(self._is_known_now)
        if count:
            self._logger.warning(
                "timers that were set aside are tried again: %d. Another release did not know "
                "their commands, and this one knows them",
                count,
            )

    def _is_known_now(self, timer: WaitingTimer) -> bool:
        if has_failed(timer) and timer.cause.startswith(UNKNOWN):
            with contextlib.suppress(HandlerFailed):
                self._commands.decode(timer.command, timer.payload)
                return True
        return False
