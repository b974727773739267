"""Timers that are due now and soon, as they were read from the store, in order of their times.

Rules:
- Only a page of what is due soon is read, so that a million others cost nothing. From its horizon
  on nothing is known, and the store has to be asked.
- What changes while the store is asked is not believed as it was read: it is read again.
- A timer that was taken away or set anew since it was read is not given. Nor is one that an
  operator acts on, or one whose stream or name is damaged, which is logged once.

It sends nothing, sleeps for nobody, and writes nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Collection, Generator
from typing import Final

from ..errors import UsageError
from ..runtime.ports import Clock
from ..stores.contract.log import Store
from ..stores.contract.timers import FOREVER, TimerKey, WaitingTimer

__all__ = ["DueTimers", "Sent"]

Sent = tuple[str, str, int]
"""Stream, name and position of a timer whose command was sent."""
_AHEAD: Final = 1_000_000
"""µs ahead of the clock that are read at once."""
_PAGE: Final = 1_024


class DueTimers:
    """What one engine knows of the timers that come next."""

    def __init__(
        self, store: Store, clock: Clock, sent: Collection[Sent], logger: logging.Logger
    ) -> None:
        """Take the log, and those that were sent and are not settled: none of them is read."""
        self._logger = logger
        self._store = store
        self._clock = clock
        self._sent = sent
        self._ahead: deque[WaitingTimer] = deque()
        """Those that were read and not given yet, in order."""
        self._wanted: dict[TimerKey, int] = {}
        """Their positions, as far as they are known to stand still."""
        self._horizon = 0
        """The time from which on the store has to be asked."""
        self._reading: set[TimerKey] | None = None
        """What changes while the store is asked."""
        self._held: set[TimerKey] = set()
        """Those that an operator acts on."""
        self._damaged: set[TimerKey] = set()
        """Those of which it was told."""

    @property
    def next(self) -> int:
        """When there is something to do: a timer to send, or the store to ask."""
        return min(self._ahead[0].next if self._ahead else FOREVER, self._horizon)

    @property
    def is_due(self) -> bool:
        """Whether the first of those that were read is due, and none is before it."""
        return bool(self._ahead) and self._ahead[0].next <= min(self._clock.now(), self._horizon)

    @property
    def is_to_read(self) -> bool:
        """Whether the store has to be asked before anything else is known to be due."""
        return self._horizon <= self._clock.now() and not self.is_due

    def late(self, now: int) -> list[int]:
        """Give when those were due that were read and not given; called from any thread."""
        with contextlib.suppress(RuntimeError):  # it changes at this moment
            return [timer.due for timer in list(self._ahead) if timer.next <= now]
        return []

    def take(self) -> WaitingTimer | None:
        """Give the next one that is due and stands still; None if there is none."""
        due, ahead = min(self._clock.now(), self._horizon), self._ahead
        while ahead and ahead[0].next <= due:
            timer = ahead.popleft()
            if self._wanted.pop(timer.key, None) == timer.position:
                return timer
        return None

    def look_at(self, time: int) -> None:
        """See that the store is asked at a time of which nothing is known; 0 is at once."""
        self._horizon = min(self._horizon, time)

    def forget(self, key: TimerKey) -> None:
        """Note that a timer was set anew or taken away: what was read of it is true no more."""
        self._wanted.pop(key, None)
        self.doubt(key)

    def doubt(self, key: TimerKey) -> None:
        """Note that what is being read of a timer at this moment may be as it was before."""
        if self._reading is not None:
            self._reading.add(key)

    @contextlib.contextmanager
    def held(self, key: TimerKey) -> Generator[None]:
        """Give a timer to nobody until the block ends; raise UsageError if another holds it."""
        if key in self._held:
            raise UsageError("somebody else acts on this timer at this moment: nothing was done")
        self._held.add(key)
        self.forget(key)
        try:
            yield
        finally:
            self._held.discard(key)
            self.forget(key)  # it may be read as it was before

    async def read(self) -> None:
        """Read what is due now and soon; where that is nothing, when the next one is.

        Raises StoreFailed; then the store is to be asked again.
        """
        until = self._clock.now() + _AHEAD
        self._ahead.clear()
        self._wanted.clear()
        self._reading = set()
        self._horizon = FOREVER  # lower again at once, by what is set meanwhile
        try:
            most = _PAGE + len(self._sent)
            page = await self._store.read_due(until=until, timers_max=most)
            if len(page) == most:
                until = page[-1].next
            elif not page:
                after = until, FOREVER, "", ""
                later = await self._store.read_due(after, until=FOREVER, timers_max=1)
                until = later[0].next if later else FOREVER
            self.look_at(until)
            for timer in page:
                self._keep(timer, self._reading)
        except BaseException:
            self._horizon = 0
            raise
        finally:
            self._reading = None

    def _keep(self, timer: WaitingTimer, changed: Collection[TimerKey]) -> None:
        if timer.key in changed:
            self.look_at(timer.next)  # what became of it is read next
        elif timer.key in self._held:
            pass  # read again when it is let go
        elif not timer.command:
            self._tell_damaged(timer)
        elif (*timer.key, timer.position) not in self._sent:
            self._ahead.append(timer)
            self._wanted[timer.key] = timer.position

    def _tell_damaged(self, timer: WaitingTimer) -> None:
        if timer.key not in self._damaged:
            self._damaged.add(timer.key)
            self._logger.error(
                "the timer %r of %r is not run, since one of these names is damaged: a text in it "
                "is no UTF-8. Run `foldline verify` on the log, and restore a backup",
                timer.name[:100],
                timer.stream[:100],
            )
