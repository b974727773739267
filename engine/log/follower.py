"""One reader's way along the log: out of the bus if that has what comes next, else out of the log.

Rules: nothing is missed and nothing is given twice. What the bus had no room for is read from the
log; a loss is noted before each read, so that what is published meanwhile stays on the bus. The
reader says after which position it goes on, each time: it may go back.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.stored import StoredEvent
from .bus import Subscription
from .reader import LogReader

__all__ = ["Follower"]


class Follower:
    """A place on the bus, with the log behind it."""

    def __init__(self, bus: Subscription, log: LogReader) -> None:
        self.bus = bus
        self._log = log
        self._behind = True
        """Whether the log may have what the bus has not."""

    def begin(self) -> None:
        """Go on from wherever the reader is now; the log is read first."""
        self.bus.listen()
        self._behind = True

    def leave(self) -> None:
        """Take nothing for now; what is being read is given up."""
        self._log.close()
        self.bus.mute()

    def take(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        """Give what the bus has right after a position; nothing if it has none of it."""
        if self.bus.take_loss():
            self._behind = True
        return self.bus.take(after, events_max)

    @property
    def is_at_end(self) -> bool:
        """Whether there is nothing to be read before something is published."""
        return not self._behind and self.bus.first is None

    async def read(self, after: int) -> Sequence[StoredEvent]:
        """Read the log after a position; nothing at its end. Raises StoreFailed and Damaged."""
        page = await self._log.read(after)
        if not page:
            self._behind = self.bus.take_loss()
            follows = self.bus.first is None or self.bus.first <= after + 1
            assert follows or self._behind, "what is on the bus is in the log"
        return page
