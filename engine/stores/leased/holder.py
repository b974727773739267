"""Whoever has a log by a lease: for how long it has it, and why it has it no more.

Rules: the lease is counted from before it was asked for, by this process's own clock. What has
stopped once appends nothing more. Who it is that has the log is compared by the server with each
append, so that a former engine writes nothing whatever its clock says.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from ...errors import StoreFailed, StoreLocked
from ..contract.log import Batch, Committed, Head
from .known import Known

__all__ = ["MARGIN", "POLLS", "Away", "Holder", "locked"]

POLLS: Final = 10
"""In the time of a lease, whether its holder lives."""
MARGIN: Final = 1.05
"""Of a lease, for which it must stand still: two clocks do not run alike."""


class Away(Exception):
    """The server gave no answer: what was asked may be done or not."""


class Holder(ABC):
    """The end of a log as this engine knows it, and the lease by which it has that."""

    def __init__(self, name: str, lease_seconds: float, now: Callable[[], float]) -> None:
        self._name = name
        self._lease_seconds = lease_seconds
        self._now = now
        self.log_id = ""
        self.head = Head()
        self.known = Known({}, set())
        self.forms: Mapping[tuple[str, int], Any] = {}
        self.stopped: StoreFailed | None = None
        self._ended = asyncio.Event()
        self.is_succeeded = False
        self._renewed_at = 0.0
        self.renewed = asyncio.Event()
        self.found_written = 0
        self.written_again = 0

    @property
    @abstractmethod
    def reconnects(self) -> int:
        """Connections that were made in place of another one."""

    @abstractmethod
    async def append(self, batch: Batch) -> Committed:
        """Append what fits, and return when it is durable."""

    @abstractmethod
    async def renew(self, seconds: float) -> None:
        """Let the lease begin anew, unless an append has; raise Away."""

    @abstractmethod
    async def leave(self) -> None:
        """Give the log back."""

    @property
    def lease_left(self) -> float:
        """Seconds in which nobody else can have the log."""
        return self._renewed_at + self._lease_seconds - self._now()

    def began(self, moment: float) -> None:
        """Count the lease from a moment at which it was asked for."""
        self._renewed_at = moment
        renewed, self.renewed = self.renewed, asyncio.Event()
        renewed.set()

    def has_begun(self, seconds: float) -> bool:
        """Tell whether the lease began in the last seconds."""
        return self._now() < self._renewed_at + seconds

    async def wait_ended(self) -> StoreFailed:
        """Wait until it has stopped; give why."""
        await self._ended.wait()
        assert self.stopped is not None
        return self.stopped

    def _stop(self, failure: StoreFailed) -> StoreFailed:
        self.stopped = failure
        self._ended.set()
        return failure

    def _succeeded(self) -> StoreFailed:
        self.is_succeeded = True
        return StoreFailed(
            f"{self._name}: another engine has taken the log, since this one did not renew its "
            f"lease in time. Nothing was written",
            written=False,
            stopped=True,
        )


def locked(name: str) -> StoreLocked:
    """Say that another engine has the log."""
    return StoreLocked(
        f"{name} is open in another engine, which renews its lease. Stop that one first: one "
        f"engine at a time has a log"
    )
