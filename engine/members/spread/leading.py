"""What the process that leads gives: the commands of reactors and timers, for whoever owns them.

Rules: a command carries the session of the one that leads. Its owner writes it only while that one
leads, which the database tells: so nothing of a former one comes behind what the next one has read
of the log. A timer's command is written only if the timer stands. Whether it wrote anything is not
told, so each timer is settled, which does nothing to one that is gone. A receipt counts when its
events are in the log as this process reads it: a server that took over may lack them, while their
owner has not noticed yet.
"""

from __future__ import annotations

import asyncio

import msgspec

from ...errors import OutcomeUnknown
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
        self._seen_to = 0
        """Where the log ended as this looked last."""
        wiring.give_by(self.react, self.fire)

    def _origin(self, depth: int, fired: FiredTimer | None = None) -> Origin:
        return Origin(depth, getattr(self._store, "session", 0), fired)

    def react(self, envelope: Envelope, /, depth: int) -> Sent:
        """Send the command of a reactor."""
        return asyncio.ensure_future(self._seen(self._send(envelope, self._origin(depth))))

    async def _seen(self, sent: Sent) -> Receipt:
        receipt = await (sent if isinstance(sent, asyncio.Future) else await sent)
        if receipt.position > self._seen_to:
            self._seen_to = (await self._store.head()).position
        if receipt.position > self._seen_to:
            raise OutcomeUnknown(
                "the log ends before the events of this command: a failover has lost them. Send it "
                "again with its key"
            )
        return receipt

    def fire(self, envelope: Envelope, fired: FiredTimer, depth: int, /) -> _Fired:
        """Send the command of a timer; raise NotRun."""
        sent = self._send(envelope, self._origin(depth, fired))
        assert isinstance(sent, asyncio.Future), "nobody is asked about a timer's command"
        return _Fired(envelope, sent)
