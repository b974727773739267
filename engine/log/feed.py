"""The feed for the host: committed events in position order, to the end or following it.

Rules: a feed reads pages of the log; one that follows is woken by the bus and takes from it what
goes on exactly where it stands, like a projector. It holds two pages, and on the bus never more
than `Limits.bus_events` and `bus_bytes`: a slow reader falls back to the log and slows nobody. Of
feeds there are `Limits.feeds` at most. What it is not asked for is passed over before it is
decoded, and its position moves over it. An event that cannot be decoded ends it with Damaged, after
everything before. It polls nothing, and keeps no checkpoint: where to go on is the reader's to
remember.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from ..authorization import Gate
from ..errors import Closed, InvalidInput, Overloaded, StoreFailed, UsageError
from ..limits import Limits
from ..model.aggregate import Aggregate, AggregateDefinition
from ..model.codec import EventRegistry
from ..model.given import as_text, shown
from ..model.messages import Event
from ..model.stored import StoredEvent
from ..runtime.bell import Bell
from ..stores.contract.log import LogSource
from .bus import Bus, Subscription
from .follower import Follower
from .history import LoggedEvent, logged
from .reader import LogReader

__all__ = ["Asked", "Feed", "Feeds", "Kinds", "Names", "Wanted"]

Names: TypeAlias = Collection[str | type[Event]]
"""Which events: stored names, or classes."""
Kinds: TypeAlias = Collection[str | type[Aggregate]]
"""Of which aggregates: kinds, or classes."""

Asked: TypeAlias = tuple[Sequence[object] | None, Sequence[object] | None]
"""Names and kinds, as they were asked for."""

_DECODE_SLICE = 250
"""Events gone through before the event loop gets its turn."""


class Wanted(msgspec.Struct, frozen=True):
    """Which events a feed gives; None where all do."""

    names: frozenset[str] | None = None
    """As they were asked for."""
    stored: frozenset[str] | None = None
    """Those, and the older ones that lead to them."""
    kinds: frozenset[str] | None = None

    @property
    def is_all(self) -> bool:
        """Whether every event is given."""
        return self.stored is None and self.kinds is None

    def may_be(self, stored: StoredEvent) -> bool:
        """Tell, undecoded, whether an event may be one to give."""
        if self.stored is not None and stored.name not in self.stored:
            return False
        return self.kinds is None or stored.stream.partition(":")[0] in self.kinds

    def is_given(self, event: LoggedEvent) -> bool:
        """Tell whether it is: an older name may lead to more than one of today's."""
        if self.names is None or event.name in self.names:
            return True
        return event.event is not None and type(event.event).event_name in self.names


class Feeds:
    """All feeds of one engine; the supervisor runs and stops them like a projector."""

    def __init__(
        self,
        store: LogSource,
        bus: Bus,
        registry: EventRegistry,
        definitions: Sequence[AggregateDefinition],
        limits: Limits,
        *,
        check_usable: Callable[[], object],
        position: Callable[[], int],
        gate: Gate | None = None,
    ) -> None:
        self.registry = registry
        self._store = store
        self._bus = bus
        self._kinds = frozenset(definition.kind for definition in definitions)
        self._limits = limits
        self._check_usable = check_usable
        self._position = position
        self._gate = gate
        self._open = 0
        """Feeds that are read at this moment."""
        self._followers: dict[Subscription, None] = {}
        self._stopping = Bell()
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

    def feed(
        self,
        after: int,
        follow: bool,
        names: Names | None,
        kinds: Kinds | None,
        principal: str | None,
    ) -> Feed:
        """Give the events after a position; nothing is read before it is iterated."""
        self._check_usable()
        asked = (
            None if names is None else _listed("names", names),
            None if kinds is None else _listed("kinds", kinds),
        )
        if self._gate is None:
            # Behind a gate nobody is told which names there are before it has let him in.
            self._wanted(*asked)
        return Feed(self, after, follow, asked, principal)

    def _wanted(self, names: Sequence[object] | None, kinds: Sequence[object] | None) -> Wanted:
        of_kinds = None if kinds is None else _chosen("kinds", kinds, self._kinds, _kind_of)
        if names is None:
            return Wanted(kinds=of_kinds)
        asked = _chosen("names", names, self.registry.names, _name_of)
        return Wanted(asked, self.registry.names_leading_to(asked), of_kinds)

    async def begin(self, after: object, asked: Asked, principal: str | None) -> Wanted:
        """Give which events a feed gives, if it may be read; raise what forbids it."""
        self._check_usable()
        if self._open >= self._limits.feeds:
            # One that nobody closed leaves in the event loop's next turn.
            await asyncio.sleep(0)
        if type(after) is not int or after < 0:
            raise InvalidInput(f"after is a position, a whole number from 0 on, not {shown(after)}")
        if self._gate is not None:
            await self._gate.check(principal, "feed", "*")
        # What this process has appended last may not be the end, where others append as well.
        if after > self._position() and after > (end := await self._store.head()).position:
            raise InvalidInput(
                f"the log ends at position {end.position}, and the feed was asked for what is "
                f"after {shown(after)}: that position belongs to another log, or to one from "
                f"before a backup was restored"
            )
        return self._wanted(*asked)

    def times_back(self) -> int:
        """Give how often the log was seen to go back; an engine that appends ends with that."""
        return 0

    def enter(self) -> None:
        """Count a feed that begins; raise Overloaded where there are too many."""
        if self._open >= self._limits.feeds:
            raise Overloaded(
                f"{self._open} feeds are read already (Limits.feeds): begin again after a pause, "
                f"and close those that are left early (contextlib.aclosing). Nothing was read"
            )
        self._open += 1

    def leave(self) -> None:
        """Count one that has ended."""
        self._open -= 1

    def follower(self) -> Subscription:
        """Give a place on the bus to one who follows."""
        follower = self._bus.subscribe("feed")
        self._followers[follower] = None
        return follower

    def drop(self, follower: Subscription) -> None:
        """Take that place away."""
        if follower in self._followers:
            del self._followers[follower]
            self._bus.unsubscribe(follower)

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

    def __init__(self, feeds: Feeds, after: int, follow: bool) -> None:
        feeds.enter()
        self._feeds = feeds
        self._log = feeds.reader()
        self._after = after
        self._times_back = feeds.times_back()
        self._bus = feeds.follower() if follow else None
        self._follower = None if self._bus is None else Follower(self._bus, self._log)
        self._is_closed = False

    async def next(self) -> Sequence[StoredEvent]:
        """Give the events that follow; nothing at the end. If it is cancelled, nothing is lost."""
        events = await (self._read() if self._follower is None else self._follow(self._follower))
        if events:
            assert events[0].position == self._after + 1, "a feed has no holes"
            self._after = events[-1].position
        return events

    def close(self) -> None:
        """End what is still being read; once."""
        self._is_closed = True
        self._feeds.leave()
        self._log.close()
        if self._bus is not None:
            self._feeds.drop(self._bus)
            self._bus.wake()

    async def _read(self) -> Sequence[StoredEvent]:
        self._feeds.check_usable()
        self._check_history()
        return await self._log.read(self._after)

    def _check_history(self) -> None:
        """Raise StoreFailed where what was given may be lost, and other events stand there."""
        if self._feeds.times_back() != self._times_back:
            raise StoreFailed(
                f"the log went back while it was read up to position {self._after}: a failover or "
                f"a restored backup has lost its last events, and others get their positions. Read "
                f"on from a position whose event you find there",
                written=False,
            )

    async def _follow(self, log: Follower) -> Sequence[StoredEvent]:
        while True:
            if self._is_closed:
                return ()
            events = log.take(self._after, self._feeds.events_max)
            if events or self._feeds.have_ended():
                return events
            self._check_history()
            if log.is_at_end:
                await log.bus.wait()
                continue
            try:
                page = await log.read(self._after)
            except StoreFailed:
                if self._feeds.have_ended():
                    return ()
                raise
            if page:
                return page


class Feed:
    """Committed events in order, for one reader: `async for logged in engine.feed(after)`.

    `position` is the place up to which all was given or passed over. A reader that keeps it
    continues there, `engine.feed(position)`, and reads nothing twice. To leave early, use
    `contextlib.aclosing`.
    """

    def __init__(
        self,
        feeds: Feeds,
        after: int,
        follow: bool,
        asked: Asked,
        principal: str | None,
    ) -> None:
        self._feeds = feeds
        self._follow = follow
        self._asked = asked
        self._wanted: Wanted | None = None
        """Where it does not give all; known when it has begun."""
        self._principal = principal
        self._position = after
        self._loop = asyncio.get_running_loop()
        self._reading: _Reading | None = None
        self._page: Iterator[StoredEvent] = iter(())
        self._gone_through = 0
        """Events since the event loop had its turn."""
        self._is_busy = self._is_closed = False

    @property
    def position(self) -> int:
        """The place up to which every event was given or passed over."""
        return self._position

    async def open(self) -> None:
        """Begin now, and not with the first event; raise what prevents it.

        Raises UsageError, Forbidden, Closed and Overloaded (Limits.feeds).
        """
        if self._reading is None and not self._is_closed:
            wanted = await self._feeds.begin(self._position, self._asked, self._principal)
            self._wanted = None if wanted.is_all else wanted
            if not self._is_closed:
                self._reading = _Reading(self._feeds, self._position, self._follow)

    def __aiter__(self) -> Feed:
        """Give itself."""
        return self

    async def __anext__(self) -> LoggedEvent:
        """Give the next event. If the wait for it is cancelled, nothing is lost."""
        if self._is_busy:
            raise UsageError("this feed is waited for in another task: give each its own")
        try:
            while True:
                if self._gone_through >= _DECODE_SLICE:
                    self._gone_through = 0
                    await asyncio.sleep(0)
                for stored in self._page:
                    event = self._decoded(stored)
                    self._position = stored.position
                    if event is not None:
                        return event
                self._page = iter(await self._next_page())
        except Exception:  # also the end, a StopAsyncIteration
            self._close()
            raise

    def _decoded(self, stored: StoredEvent) -> LoggedEvent | None:
        """Give an event, or None where it is not among those asked for."""
        self._gone_through += 1
        wanted = self._wanted
        if wanted is None:
            return logged(self._feeds.registry, stored)
        if not wanted.may_be(stored):
            return None
        event = logged(self._feeds.registry, stored)
        return event if wanted.is_given(event) else None

    async def _next_page(self) -> Sequence[StoredEvent]:
        self._is_busy = True
        try:
            await self.open()
            page = () if self._reading is None else await self._reading.next()
        finally:
            self._is_busy = False
        if not page or self._is_closed:
            raise StopAsyncIteration
        return page

    async def aclose(self) -> None:
        """Read no more; a wait for the next event ends."""
        self._close()

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._page = iter(())
            if self._reading is not None:
                self._reading.close()

    def __del__(self) -> None:
        """Leave the bus where nobody closed it, as a `break` out of `async for` does."""
        if self._reading is not None and not self._is_closed:
            # Whatever collects the garbage may do so in any thread.
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and all with it
                self._loop.call_soon_threadsafe(self._reading.close)


def _listed(what: str, given: Collection[Any]) -> Sequence[object]:
    """Give what was asked for, as it is now; refuse what is no collection."""
    try:
        listed = () if isinstance(given, str | type) else tuple(given)
    except Exception:
        listed = ()
    if not listed:
        raise UsageError(
            f"{what}={shown(given)} is no collection of {what}: write `{what}=[...]`, with one at "
            f"least, or leave it out for all"
        )
    return listed


def _chosen(
    what: str,
    given: Sequence[object],
    known: Collection[str],
    name_of: Callable[[object], str | None],
) -> frozenset[str]:
    """Give the names that were asked for; refuse those that nothing here has."""
    chosen: set[str] = set()
    for one in given:
        name = name_of(one)
        if name is None or name not in known:
            told = one.__qualname__ if isinstance(one, type) else shown(one)
            raise InvalidInput(
                f"a feed was asked for {what}=[{told}], and this engine knows {sorted(known)}"
            )
        chosen.add(name)
    return frozenset(chosen)


def _name_of(given: object) -> str | None:
    if isinstance(given, type) and issubclass(given, Event):
        return getattr(given, "event_name", None)
    return as_text("names", given) if isinstance(given, str) else None


def _kind_of(given: object) -> str | None:
    if isinstance(given, type) and issubclass(given, Aggregate):
        return given.__definition__.kind
    return as_text("kinds", given) if isinstance(given, str) else None
