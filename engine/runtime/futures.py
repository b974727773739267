"""Futures and tasks of asyncio: what it would report though nobody needs to hear it, and who ends.

Rules: an error that nobody waits for any more is looked at, so that asyncio does not report it as
never retrieved. A CancelledError ends a task only if somebody has asked for the end of that task.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["is_being_cancelled", "retrieve"]


def retrieve(future: asyncio.Future[Any]) -> None:
    """Look at a future's error, so that asyncio does not report it as unseen."""
    if not future.cancelled():
        future.exception()


def is_being_cancelled() -> bool:
    """Whether somebody wants this task to end; where not, a CancelledError is no end of it.

    Whoever awaits what another one has given up, such as a token that is fetched, is told so too.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
