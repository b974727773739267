"""The feed for the host: all committed events in position order, to the end or following it.

Rules: a feed reads pages of the log; one that follows is woken by the bus and takes from it what
goes on exactly where it stands, like a projector. It holds two pages, and on the bus never more
than `Limits.bus_events`: a slow reader falls back to the log and slows nobody. An event that cannot
be decoded ends it with Damaged, after everything before. It polls nothing, and keeps no checkpoint:
where to go on is the reader's to remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from .authorization import Gate
from .bus import Bus, Subscription
from .codec import EventRegistry
from .errors import Closed, InvalidInput, StoreFailed
from .history import LoggedEvent, logged
from .limits import Limits
from .log_reader import LogReader
from .stores.contract import Store, StoredEvent

__all__ = ["Feeds"]

_DECODE_SLICE = 250
"""Events given before the event loop gets its turn."""


class Feeds:
    """All feeds of one engine; the supervisor runs and stops them like a projector."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        registry: EventRegistry,
        limits: Limits,
        *,
        check_usable: Callable[[], object],
        position: Callable[[], int],
        gate: Gate | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._registry = registry
        self._limits = limits
        self._check_usable = check_usable
        self._position = position
        self._gate = gate
        self._followers: set[Subscription] = set()
        self._stopping = asyncio.Event()
        self._ended = False
        self._failed = False

    async def run(self) -> None:
        """Wait for the end of the engine, and let those that follow know."""
        self._failed = True
        try:
            await self._stopping.wait()
            self._failed = False
        finally:
            self._ended = True
            for follower in self._followers:
                follower.wake()

    def stop(self) -> None:
        """Let `run` return; those that follow end with what the bus still has for them."""
        self._stopping.set()

    async def feed(
        self, after: int, follow: bool, principal: str | None
    ) -> AsyncGenerator[LoggedEvent, None]:
        """Give all events after a position."""
        self._check_usable()
        self._check_position(after)
        if self._gate is not None:
            await self._gate.check(principal, "feed", "*")
        follower = self._bus.subscribe("feed") if follow else None
        reading = _Reading(self, after, follower)
        try:
            if follower is not None:
                self._followers.add(follower)
            while events := await reading.next():
                for number, stored in enumerate(events, 1):
                    yield logged(self._registry, stored)
                    if number % _DECODE_SLICE == 0:
                        await asyncio.sleep(0)
        finally:
            reading.close()
            if follower is not None:
                self._followers.discard(follower)
                self._bus.unsubscribe(follower)

    def _check_position(self, after: object) -> None:
        if type(after) is not int or after < 0:
            raise InvalidInput(f"after is a position, a whole number from 0 on, not {after!r:.60}")
        if after > self._position():
            raise InvalidInput(
                f"the log ends at position {self._position()}, and the feed was asked for what is "
                f"after {after}: that position belongs to another log, or to one from before a "
                f"backup was restored"
            )

    @property
    def events_max(self) -> int:
        """Events of one page."""
        return self._limits.page_events

    def reader(self) -> LogReader:
        """Give a reader of the log, for one feed."""
        return LogReader(self._store, self._limits)

    def check_usable(self) -> None:
        """Raise Closed where the engine can read no more."""
        self._check_usable()

    def have_ended(self) -> bool:
        """Whether the engine has stopped; raise Closed where it has failed."""
        if self._ended and self._failed:
            raise Closed("the engine has failed: go on in a new one after the last event you had")
        return self._ended


class _Reading:
    """One feed's way along the log."""

    def __init__(self, feeds: Feeds, after: int, follower: Subscription | None) -> None:
        self._feeds = feeds
        self._log = feeds.reader()
        self._after = after
        self._follower = follower
        self._behind = True

    async def next(self) -> Sequence[StoredEvent]:
        """Give the events that follow; nothing at the end."""
        events = await (self._read() if self._follower is None else self._follow(self._follower))
        if events:
            assert events[0].position == self._after + 1, "a feed has no holes"
            self._after = events[-1].position
        return events

    def close(self) -> None:
        """End what is still being read."""
        self._log.close()

    async def _read(self) -> Sequence[StoredEvent]:
        self._feeds.check_usable()
        return await self._log.read(self._after)

    async def _follow(self, bus: Subscription) -> Sequence[StoredEvent]:
        while True:
            if bus.take_loss():
                self._behind = True
            events = bus.take(self._after, self._feeds.events_max)
            if events or self._feeds.have_ended():
                return events
            if not self._behind and bus.first is None:
                await bus.wait()
                continue
            # Losses are noted before the read: what is published during it stays on the bus.
            try:
                page = await self._log.read(self._after)
            except StoreFailed:
                if self._feeds.have_ended():
                    return ()
                raise
            if page:
                return page
            self._behind = bus.take_loss()
