"""How many timers wait, and how many are set aside: kept by what happens, and counted again.

Rules: what the journal says is enough as long as no timer is set aside. Of one that is, nobody
tells whether it was set anew, fired or cancelled: then the store counts, once a second at most, and
less often if that takes it long. A count is ahead of what the journal has yet to say: it is not
taken if something changes meanwhile, as far as that can be helped, and is made again if something
changes soon after it.

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
_UNTAKEN_MAX: Final = 3
"""How many counts in a row are not taken, since something changed meanwhile."""


class Tally:
    """The numbers of the timers that stand in the log of one engine."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.waiting = self.parked = 0
        self._any_stood = False
        """Whether any stood at the start, cancelled ones included."""
        self._any_cancelled = False
        """Whether there is one that an operator has cancelled, as far as is known."""
        self._in_doubt = False
        self._counts = False
        """Whether the store is asked at this moment: it may have seen what changes, or not."""
        self._next = 0.0
        """From when on the store may be asked again."""
        self._overlaps_until = 0.0
        """Until when the journal may tell of what the store has counted."""
        self._untaken = 0

    def begin(self, timers: int, failed: int, cancelled: int) -> None:
        """Take how many there are, as `Store.count_timers` gives them."""
        self.waiting, self.parked = timers - failed, failed
        self._any_stood, self._any_cancelled = timers + cancelled > 0, cancelled > 0

    @property
    def any_stand(self) -> bool:
        """Whether there may be a timer."""
        stood = self._any_stood or self._any_cancelled
        return stood or self._in_doubt or self.waiting > 0 or self.parked > 0

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
        """Take that so many that had failed are tried again, unless somebody else let them, too."""
        self._change(failed, -failed, doubtful=failed > 0)

    def acted(self, *, waiting: int, failed: int, cancelled: bool) -> None:
        """Take what an operator did: how many more wait, and how many more have failed."""
        self._any_cancelled = self._any_cancelled or cancelled
        self._change(waiting, failed, doubtful=failed < 0)

    def _change(self, waiting: int, failed: int, *, doubtful: bool = False) -> None:
        self.waiting += waiting
        self.parked += failed
        overlaps = self._counts or self._clock.monotonic() < self._overlaps_until
        self._in_doubt = self._in_doubt or doubtful or overlaps

    @property
    def seconds(self) -> float | None:
        """In how many seconds the store is to be asked, 0 for now; None if it need not be."""
        return max(0.0, self._next - self._clock.monotonic()) if self._in_doubt else None

    async def count(self) -> None:
        """Ask the store; raise StoreFailed."""
        began = self._clock.monotonic()
        self._in_doubt, self._counts = False, True
        try:
            timers, parked, cancelled = await self._store.count_timers()
        except BaseException:
            self._in_doubt = True
            raise
        finally:
            self._counts = False
        ended = self._clock.monotonic()
        self._next = ended + max(_SECONDS, _TIMES * (ended - began))
        if self._in_doubt and self._untaken < _UNTAKEN_MAX:
            self._untaken += 1
            return
        self._untaken, self._overlaps_until = 0, ended + _SECONDS
        self.waiting, self.parked = timers - parked, parked
        self._any_cancelled = cancelled > 0
