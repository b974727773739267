"""What the process that leads gives: the commands of reactors and timers, for whoever owns them.

Rules: a command carries the session of the one that leads. Its owner writes it only while that one
leads, which the database tells: so nothing of a former one comes behind what the next one has read
of the log. A timer's command is written only if the timer stands. Whether it wrote anything is not
told, so each timer is settled, which does nothing to one that is gone.
"""

from __future__ import annotations

import asyncio

import msgspec

from ...model.messages import Envelope, Receipt
from ...stores.contract.timers import FiredTimer
from ...wiring import Wiring
from ...write.mailbox import Origin, Sent
from ..waiting import Post

__all__ = ["Leading"]


class _Fired(msgspec.Struct, eq=False):
    """A timer's command on its way."""

    envelope: Envelope
    answer: asyncio.Future[Receipt]
    wrote: bool = False


class Leading:
    """The way of what one engine that leads gives."""

    def __init__(self, wiring: Wiring, send: Post) -> None:
        """Let what this engine gives go to its owners by `send`."""
        self._store = wiring.store
        self._send = send
        wiring.give_by(self.react, self.fire)

    def _origin(self, depth: int, fired: FiredTimer | None = None) -> Origin:
        return Origin(depth, getattr(self._store, "session", 0), fired)

    def react(self, envelope: Envelope, /, depth: int) -> Sent:
        """Send the command of a reactor."""
        return self._send(envelope, self._origin(depth))

    def fire(self, envelope: Envelope, fired: FiredTimer, depth: int, /) -> _Fired:
        """Send the command of a timer; raise NotRun."""
        sent = self._send(envelope, self._origin(depth, fired))
        assert isinstance(sent, asyncio.Future), "nobody is asked about a timer's command"
        return _Fired(envelope, sent)
