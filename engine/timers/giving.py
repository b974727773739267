"""How the commands of timers are given, and what tells an aggregate of one that was rejected.

Rules: types alone. An engine that owns its log posts them to its own aggregates; where others
decide too, they go to the owners.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..errors import Rejected
from ..model.messages import Command, Envelope, Receipt
from ..stores.contract.timers import FiredTimer

__all__ = ["Fire", "SentCommand", "TellRejection"]


class SentCommand(Protocol):
    """The command of a timer that was sent: its mail."""

    @property
    def envelope(self) -> Envelope:
        """What was sent."""
        ...

    @property
    def answer(self) -> asyncio.Future[Receipt]:
        """Its answer."""
        ...

    @property
    def wrote(self) -> bool:
        """Whether events of it have taken the timer away, as far as that is known."""
        ...


class Fire(Protocol):
    """Posts the command of a timer: `Reception.fire`."""

    def __call__(self, envelope: Envelope, fired: FiredTimer, depth: int, /) -> SentCommand:
        """Give its mail; raise NotRun, with nothing run."""
        ...


class TellRejection(Protocol):
    """Gives what tells an aggregate that a command of its timer was rejected."""

    def __call__(self, stream: str, command: Command, rejection: Rejected, /) -> Command | None:
        """Give a command for the aggregate; None where it need not hear of it."""
        ...
