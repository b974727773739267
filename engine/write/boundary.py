"""A boundary in memory: an actor whose state is folded from the events with its tags.

Rules:
- Its stream says its version and its keys; its state is what the log has by its tags, wherever.
- Once it is loaded, each durable event that its query selects is brought to it, in order. So it has
  seen all of them up to the end of the log, as the journal knows that.
- In a decision it folds what is decided too, before that is durable: what cannot be folded is not
  written. If that is not stored, it goes back to its state before, and reads on from there. Where
  a state holds more than plain values, no copy was kept, and it is loaded from its beginning.
- What comes while it is loaded is folded behind what was read, so that loading comes to an end.
- What comes while a decision on it is on its way is not folded. That decision is refused by the
  store, or has its answer, and then the boundary is loaded again.

It takes no command of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from msgspec.structs import astuple

from ..errors import Damaged
from ..limits import Limits
from ..model.aggregate import Aggregate
from ..model.boundary import tags_by
from ..model.codec import decode_metadata
from ..model.joint import Share
from ..model.messages import Event
from ..model.stored import StoredEvent
from ..runtime.safely import as_error
from ..stores.contract.log import Store
from ..stores.contract.tags import TagPage, TagRead, Unchanged
from .actor import Actor
from .encoding import FoldInto
from .entries import Entry
from .kind import EventBinding, Kind
from .phase import COLD, JOINT, LIVE, LOADING
from .proving import Refolds

__all__ = ["BoundaryActor", "fold_into", "parties_of", "select"]

_PLAIN = frozenset(
    (int, str, bool, float, bytes, type(None), datetime, date, time, timedelta, Decimal)
)
"""Types of which a shallow copy of a state shares nothing that changes."""
_MISSED_MAX = 1_000
"""Events kept that come while a boundary is loaded; above that it is read once more."""
_FOLD_SLICE = 250
"""Events folded before the event loop gets its turn."""


class BoundaryActor(Actor):
    """One resident boundary."""

    __slots__ = ("_again", "_kept", "_missed", "names", "read_at", "tags")

    def __init__(self, kind: Kind[Actor], stream: str, id: str) -> None:  # noqa: A002 - the domain's word
        self.tags = tags_by(kind.definition.tags, id)
        self.names = tuple(sorted(kind.registry.names_of(kind.definition.appliers)))
        super().__init__(kind, stream, id)

    def _begin(self) -> None:
        super()._begin()
        self.read_at = 0
        """Position of the last durable event that it has folded."""
        self._again = False
        """Whether an event came, or may have come, that it has not folded."""
        self._missed: list[StoredEvent] = []
        """What came while it was loaded, in order."""
        self._kept: tuple[Aggregate, int, int] | None = None
        """State, version and number of keys before the decision on its way; None for no copy."""

    @property
    def is_behind(self) -> bool:
        """Whether there may be an event that it has not folded."""
        return self._again or bool(self._missed)

    def take_missed(self) -> Sequence[StoredEvent]:
        """Give what came while the last page was read, to be folded behind it."""
        missed, self._missed = self._missed, []
        return missed

    def read_on(self) -> TagRead:
        """Give what is to be read; what comes from now on may not be in it."""
        self._again = False
        return TagRead(self.tags, self.names, self.read_at)

    def begin_load(self) -> None:
        """Start from the state before the decision that was not stored, or from nothing."""
        kept, self._kept = self._kept, None
        if kept is None or not self._go_back(*kept):
            super().begin_load()

    def _go_back(self, state: Aggregate, version: int, keys: int) -> bool:
        """Be as before a decision; give whether nothing of the keys was lost for it."""
        held = self._keys
        if held is not None:
            held.forget_behind(version)
        self.state, self.version = state, version
        self._again, self._missed = False, []
        return keys == (0 if held is None else len(held))

    def keep(self) -> None:
        """Keep a copy of the state, before a decision is folded, if it is made of plain values."""
        state = self.state
        if _PLAIN.issuperset(map(type, astuple(state))):
            keys = 0 if self._keys is None else len(self._keys)
            self._kept = copy(state), self.version, keys

    def _reload(self) -> None:
        if self._kept is not None and self._waiting is None:
            self.phase = COLD  # it stays, and reads on with its next command
        else:
            super()._reload()

    def distrust(self) -> None:
        """Be loaded from the beginning, since the host's code may have changed the state."""
        self._kept = None
        super().distrust()

    def replay(self, events: Sequence[StoredEvent], end: int) -> None:  # noqa: ARG002 - as `Folded`
        """Take version and keys of stored events of its stream; see `Folded.replay`."""
        for stored in events:
            self.version += 1
            assert stored.version == self.version, "versions of a stream have no holes"
            if b'"key"' in stored.metadata:
                self._replay_key(stored, decode_metadata(stored))
            self.position = stored.position
        self._replayed += len(events)

    def fold(self, stored: StoredEvent) -> None:
        """Fold a durable event that its query selects; raise what its applier raises."""
        event = self.kind.registry.decode(stored)
        binding = None if event is None else self.kind.events.get(type(event))
        if binding is not None:
            binding.apply(self.state, event)
            self.state.version += 1
        self.read_at = stored.position

    def selects(self, event: Event, tags: Sequence[str]) -> bool:
        """Tell whether an event with these tags is one of those that it is folded from."""
        return type(event) in self.kind.events and all(tag in tags for tag in self.tags)

    @property
    def shown_version(self) -> int:
        """How many events its state is folded from."""
        return self.state.version

    def fold_own(self, event: Event, payload: bytes, tags: tuple[str, ...]) -> EventBinding | None:
        """Fold an event that is decided, if its query selects it; give what it was folded by."""
        if not self.selects(event, tags):
            return None
        binding = self.kind.events[type(event)]
        binding.apply(self.state, binding.read_back(event, payload))
        self.state.version += 1
        return binding

    def condition(self, seen: int, stream: str) -> Unchanged:
        """Give what must hold where a decision is stored that saw all up to position `seen`."""
        # What it has read may be behind what the journal knows, where others write too. Where
        # several own the log, nothing is brought to it, and only what it has folded counts.
        after = self.read_at if self.kind.shared is not None else max(self.read_at, seen)
        return Unchanged(self.tags, self.names, after, stream)

    def offer(self, stored: StoredEvent) -> None:
        """Take a durable event that its query selects."""
        if stored.position <= self.read_at:
            return
        joint = self._joint
        if self.phase is LIVE or (self.phase is JOINT and joint is not None and not joint.begun):
            try:
                self.fold(stored)
            except BaseException as error:
                self.kind.logger.error(
                    "%s cannot fold the event at position %d: %s. It is loaded again",
                    *(self.stream, stored.position, type(as_error(error)).__name__),
                )
                self.forget()
        elif self.phase is LOADING and len(self._missed) < _MISSED_MAX:
            self._missed.append(stored)
        else:
            self._again = True

    def forget(self) -> None:
        """Be loaded again, as there may be events that it has not folded."""
        self._again = True
        if self.phase is LIVE:
            self._reload()

    def _be_live(self) -> None:
        if self._again:
            self._reload()
        else:
            super()._be_live()

    def stored_elsewhere(self, position: int) -> None:
        """Note that a decision is durable that it has folded, up to this position."""
        self._kept = None  # to go back would lose events that it does not read again
        self.read_at = position

    def settled(self, entry: Entry, position: int) -> None:
        """Note that an entry is durable, which it has folded."""
        self._kept = None
        shared = self.kind.shared is not None
        # Where others write too, its condition held: nothing that it folds came before the end.
        self.read_at = max(self.read_at, position, entry.end) if shared else position
        super().settled(entry, position)


def parties_of(
    actors: Sequence[Actor], shares: Sequence[Share], counts: Sequence[int]
) -> tuple[tuple[str, int, int], ...]:
    """Give the stream of each aggregate, the version that it comes to, and its number of events.

    A boundary comes to the number of events that it selects, wherever they are stored. Raises
    HandlerFailed for a tag that no event can have.
    """
    tagged: list[tuple[Event, Sequence[str]]] = []
    if any(isinstance(actor, BoundaryActor) for actor in actors):
        for share in shares:
            events = actors[share.place].kind.events
            for event in share.events:
                binding = events.get(type(event))  # without one it is refused as it is encoded
                read = None if binding is None else binding.tags
                tagged.append((event, () if read is None else read(event)))
    parties: list[tuple[str, int, int]] = []
    for actor, count in zip(actors, counts, strict=True):
        more = count
        if isinstance(actor, BoundaryActor):
            more = sum(actor.selects(event, tags) for event, tags in tagged)
        parties.append((actor.stream, actor.shown_version + more, count))
    return tuple(parties)


def fold_into(
    home: Actor, boundaries: Sequence[BoundaryActor], refolds: Refolds | None = None
) -> FoldInto:
    """Give what folds the events that `home` gets, of a decision on boundaries.

    `refolds` notes all that is folded.
    """

    def fold(event: Event, payload: bytes, tags: tuple[str, ...], version: int) -> None:
        if not isinstance(home, BoundaryActor):
            binding = home.kind.events[type(event)]
            binding.apply(home.state, binding.read_back(event, payload))
            home.state.version = version
            if refolds is not None:
                refolds.note(home.state, binding, payload)
        for boundary in boundaries:
            folded = boundary.fold_own(event, payload, tags)
            if refolds is not None and folded is not None:
                refolds.note(boundary.state, folded, payload)

    return fold


# -- loading --------------------------------------------------------------------------------------


async def select(
    store: Store,
    limits: Limits,
    actors: list[BoundaryActor],
    loaded: Callable[[BoundaryActor], None],
) -> None:
    """Read what the boundaries fold, until each has all that is in the log."""
    while actors:
        reads = [actor.read_on() for actor in actors]
        try:
            pages = await store.read_tagged(
                reads, events_max=limits.page_events, bytes_max=limits.page_bytes
            )
        except Exception as error:
            if len(actors) == 1 or not isinstance(error, Damaged):
                for actor in actors:
                    actor.unreadable(error)
                return
            # One damaged event must not cost the others their answers: each by itself.
            for actor in actors:
                await select(store, limits, [actor], loaded)
            return
        actors = await _fold(actors, pages, loaded)


async def _fold(
    actors: list[BoundaryActor],
    pages: Sequence[TagPage],
    loaded: Callable[[BoundaryActor], None],
) -> list[BoundaryActor]:
    unfinished: list[BoundaryActor] = []
    folded = 0
    for actor, page in zip(actors, pages, strict=True):
        failed = None
        for stored in page.events if page.more else [*page.events, *actor.take_missed()]:
            if stored.position <= actor.read_at:
                continue
            failed = _failure(actor, stored)
            if failed is not None:
                break
            folded += 1
            if folded % _FOLD_SLICE == 0:
                await asyncio.sleep(0)
        if failed is not None:
            actor.unreadable(failed)
        elif page.more or actor.is_behind:
            unfinished.append(actor)
        else:
            loaded(actor)
    return unfinished


def _failure(actor: BoundaryActor, stored: StoredEvent) -> Any:
    try:
        actor.fold(stored)
    except BaseException as error:  # of the host's code, whatever it is
        return as_error(error)
    return None
