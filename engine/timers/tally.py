"""How many timers wait, and how many are set aside: kept by what happens, and counted again.

Rules: what the journal says is enough as long as no timer is set aside. Of one that is, nobody
tells whether it was set anew, fired or cancelled: then the store counts, once a second at most, and
less often if that takes it long. What changes while it counts is counted the next time.

It never changes a timer, and decides nothing.
"""

from __future__ import annotations

from typing import Final

from ..runtime.ports import Clock
from ..stores.contract.log import Store

__all__ = ["Tally"]

_SECONDS: Final = 1.0
"""From one count to the next, at least."""
_TIMES: Final = 100
"""How many times as long as a count takes there is none."""


class Tally:
    """The numbers of the timers that stand in the log of one engine."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.waiting = self.parked = 0
        self._any_cancelled = False
        """Whether there may be one that an operator has cancelled."""
        self._in_doubt = False
        self._counts = False
        """Whether the store is asked at this moment: it may have seen what changes, or not."""
        self._next = 0.0
        """From when on the store may be asked again."""

    def begin(self, timers: int, parked: int, *, any_stand: bool) -> None:
        """Take how many there are, how many of them have failed, and whether any stands at all."""
        self.waiting, self.parked, self._any_cancelled = timers - parked, parked, any_stand

    @property
    def any_stand(self) -> bool:
        """Whether there may be a timer."""
        return self._in_doubt or self._any_cancelled or self.waiting > 0 or self.parked > 0

    def changed(self, more: int) -> None:
        """Take that timers were set or taken away, and how many more there are."""
        self._change(more, 0, doubtful=self._any_cancelled or self.parked > 0)

    def doubt(self) -> None:
        """Let the store count: others may have changed timers."""
        self._in_doubt = True

    def went(self, timers: int) -> None:
        """Take that so many were settled, and are gone."""
        self._change(-timers, 0)

    def set_aside(self) -> None:
        """Take that one has failed too often; it may have been set anew, or be gone."""
        self._change(-1, 1, doubtful=True)

    def let_wait(self, failed: int) -> None:
        """Take that so many that had failed are tried again."""
        self._change(failed, -failed)

    def acted(self, *, waiting: int, failed: int, cancelled: bool) -> None:
        """Take what an operator did: how many more wait, and how many more have failed."""
        self._any_cancelled = self._any_cancelled or cancelled
        self._change(waiting, failed)

    def _change(self, waiting: int, failed: int, *, doubtful: bool = False) -> None:
        self.waiting += waiting
        self.parked += failed
        self._in_doubt = self._in_doubt or doubtful or self._counts

    @property
    def seconds(self) -> float | None:
        """In how many seconds the store is to be asked, 0 for now; None if it need not be."""
        return max(0.0, self._next - self._clock.monotonic()) if self._in_doubt else None

    async def count(self) -> None:
        """Ask the store; raise StoreFailed."""
        began = self._clock.monotonic()
        self._in_doubt, self._counts = False, True
        try:
            timers, parked = await self._store.count_timers()
        except BaseException:
            self._in_doubt = True
            raise
        finally:
            self._counts = False
        self.waiting, self.parked = timers - parked, parked
        ended = self._clock.monotonic()
        self._next = ended + max(_SECONDS, _TIMES * (ended - began))
