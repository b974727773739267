"""The bus: carries committed events from the journal to the projectors, as a fast copy of the log.

Rules: publishing never waits and never fails because of a subscriber. Each subscription holds at
most `limits.bus_events` and `limits.bus_bytes`; beyond either it drops what it holds and remembers
that it lost something, and its projector reads the feed, which has everything. Nobody polls: a
subscriber waits to be woken. The bus carries stored events as bytes, so that no two readers share a
decoded one. It is never the only place where an event is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ..limits import Limits
from ..model.stored import StoredEvent
from ..runtime.bell import Bell
from ..statistics import SubscriptionStatistics

__all__ = ["Bus", "Subscription"]


class Subscription:
    """What waits on the bus for one projector."""

    def __init__(self, name: str, events_max: int, bytes_max: int) -> None:
        self.name = name
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._batches: deque[Sequence[StoredEvent]] = deque()
        self._sizes: deque[int] = deque()
        """Of the batches, in bytes."""
        self._waiting = self._bytes = 0
        self._lost = False
        self._muted = False
        self._wake = Bell()
        self._taken = 0
        self._dropped = 0
        self._overflows = 0

    def offer(self, events: Sequence[StoredEvent], size: int) -> None:
        """Take a batch of `size` bytes, or drop it and all before it where that is too much."""
        if self._muted or not events:
            return
        waiting = self._waiting + len(events)
        if waiting > self._events_max or self._bytes + size > self._bytes_max:
            self._overflows += 1
            self._dropped += self._waiting + len(events)
            self._drop()
        else:
            self._batches.append(events)
            self._sizes.append(size)
            self._waiting = waiting
            self._bytes += size
        self._wake.set()

    def take(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        """Give waiting events if they go on exactly after this position; else nothing.

        What is at or before the position is dropped: the feed has brought it already.
        """
        taken: list[StoredEvent] = []
        while self._batches and len(taken) < events_max:
            batch = self._batches[0]
            first, last = batch[0].position, batch[-1].position
            assert last - first == len(batch) - 1, "a published batch has no holes"
            if first > after + 1:
                break
            skipped = after + 1 - first
            part = batch[skipped : skipped + events_max - len(taken)]
            taken.extend(part)
            after += len(part)
            if last <= after:
                self._batches.popleft()
                self._waiting -= len(batch)
                self._bytes -= self._sizes.popleft()
        self._taken += len(taken)
        return taken

    def take_loss(self) -> bool:
        """Tell whether events were dropped since the last time this was asked."""
        lost, self._lost = self._lost, False
        return lost

    @property
    def first(self) -> int | None:
        """Position of the first event that waits, if any does."""
        return self._batches[0][0].position if self._batches else None

    @property
    def oldest(self) -> int | None:
        """When the first event that waits was recorded; asked from any thread."""
        try:
            return self._batches[0][0].recorded
        except IndexError:  # nothing waits, or it was taken just now
            return None

    async def wait(self) -> None:
        """Return when something was published, or `wake` called, since the last return."""
        await self._wake.wait()
        self._wake.clear()

    def wake(self) -> None:
        """Let `wait` return."""
        self._wake.set()

    def miss(self) -> None:
        """Note that the log has something that was not published here, and let `wait` return."""
        self._lost = True
        self._wake.set()

    def mute(self) -> None:
        """Drop what waits, and take nothing more until `listen`."""
        self._muted = True
        self._drop()

    def listen(self) -> None:
        """Take what is published from now on."""
        self._muted = False

    def statistics(self) -> SubscriptionStatistics:
        """Give the numbers as they are now."""
        return SubscriptionStatistics(self._waiting, self._taken, self._dropped, self._overflows)

    def _drop(self) -> None:
        self._batches.clear()
        self._sizes.clear()
        self._bytes = 0
        self._waiting = 0
        self._lost = True


class Bus:
    """All subscriptions of an engine."""

    def __init__(self, limits: Limits, failpoint: Callable[[str], None] | None = None) -> None:
        self._limits = limits
        self._failpoint = failpoint
        self._subscriptions: list[Subscription] = []

    def subscribe(self, name: str) -> Subscription:
        """Give a subscription that gets everything published from now on."""
        subscription = Subscription(name, self._limits.bus_events, self._limits.bus_bytes)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Let a subscription get nothing more."""
        self._subscriptions.remove(subscription)

    @property
    def is_followed(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self._subscriptions)

    def miss(self) -> None:
        """Let every subscriber read the log, which has something that was not published here."""
        for subscription in self._subscriptions:
            subscription.miss()

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Hand a committed batch to every subscription, and return at once."""
        if self._subscriptions:
            size = sum([len(event.payload) + len(event.metadata) for event in events])
            for subscription in self._subscriptions:
                subscription.offer(events, size)
        if self._failpoint is not None:
            self._failpoint("bus.published")
