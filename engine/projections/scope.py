"""Scope: which events of the log one part of a projection works on, and which it sets aside.

Rules: an event is picked where the projection handles its class of today, its key belongs to the
part's slice, and nobody decided to skip it. One whose key has parked events waits behind them,
untried. One that failed is parked where the projection says so, unless it failed in a way that may
pass and is to be tried again first. This file runs no handler and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import Damaged, StoreFailed, UsageError
from ..limits import Limits
from ..model.codec import EventRegistry, decode_meta, masked
from ..model.messages import Event
from ..model.projection import ProjectionDefinition, reaching, slice_of
from ..model.stored import StoredEvent
from ..model.texts import is_text
from ..runtime.contained import contained
from ..stores.contract.views import Checkpoint, Part, ViewsStore
from .parking import Parking

__all__ = ["Scope", "may_pass"]


class _NotLasting(UsageError):
    """The slice of an event would be another one if its person were erased."""


def may_pass(error: BaseException) -> bool:
    """Tell whether a failure may be over when it is tried again: a busy file, a lost connection."""
    return isinstance(error, StoreFailed | OSError)


class Scope:
    """The choice of one part."""

    def __init__(
        self,
        definition: ProjectionDefinition,
        registry: EventRegistry,
        limits: Limits,
        *,
        slice_: int = 0,
        parks: bool = False,
        now: Callable[[], int] = lambda: 0,
        may_pass: Callable[[BaseException], bool] = may_pass,
    ) -> None:
        """Take what picks, for which slice, and whether events may be parked."""
        self.parking = Parking(allowed=parks, events_max=limits.parked_events)
        self.skipped: dict[int, int] = {}
        """Events that somebody decided to skip: the checksum of each by its position."""
        self.patience = True
        """Whether what a failure that may pass has hit is given back, to be tried again."""
        self.may_pass = may_pass
        definition = self.definition = self._definition = reaching(definition, registry.classes)
        self._registry = registry
        self._names = registry.names_of(definition.event_classes)
        self._all = Event in definition.handlers
        self._slice = slice_
        self._by_stream = definition.slices > 1 and definition.sequence is None
        self._by_key = definition.slices > 1 and definition.sequence is not None
        self._is_sink = definition.sink is not None  # tables are made anew behind an erasure
        self._now = now

    async def open(self, views: ViewsStore, part: Part) -> Checkpoint:
        """Take what the views say of a part: what is parked and skipped; give where they stand."""
        checkpoint = await views.checkpoint(part)
        self.parking.begin(await views.parked_keys(part))
        self.skipped.clear()
        self.skipped.update(await views.skipped(part.definition))
        return checkpoint

    def pick(self, stored: StoredEvent) -> Event | None:
        """Give the event, or None where this part has nothing to do with it.

        Raises Damaged where it cannot be decoded or no handler is there for its version, and
        whatever the projection's `sequence` raises.
        """
        if stored.name not in self._names and not self._all:
            return None
        if self.is_skipped(stored):
            return None
        if self._by_stream and not self.is_mine(None, stored):
            return None
        event = self.decode(stored)
        if event is None or (self._by_key and not self.is_mine(event, stored)):
            return None
        self.check_handled(event, stored)
        return event

    def is_skipped(self, stored: StoredEvent) -> bool:
        """Tell whether somebody decided to skip it: this very event, not one in its place."""
        return bool(self.skipped) and self.skipped.get(stored.position) == stored.checksum

    def decode(self, stored: StoredEvent) -> Event | None:
        """Give a fresh event, or None where it is retired or today one that nobody here handles."""
        event = self._registry.decode(stored)
        if event is None or self._all or type(event).event_name in self._definition.event_names:
            return event
        return None

    def decode_parked(self, stored: StoredEvent) -> Event | None:
        """Give an event that was parked; None also where it was skipped when it had been met."""
        return None if self.is_skipped(stored) else self.decode(stored)

    def is_mine(self, event: Event | None, stored: StoredEvent) -> bool:
        """Tell whether an event's key belongs to the part's slice."""
        slices = self._definition.slices
        if slices == 1:
            return True
        key = self.key_of(event, stored)
        if self._by_key and self._is_sink and event is not None:
            self._check_lasting(key, event, stored)
        return slice_of(key, slices) == self._slice

    def _check_lasting(self, key: str, event: Event, stored: StoredEvent) -> None:
        """Raise where an erasure would change the key."""
        later = masked(event)
        if later is event:
            return
        try:
            is_lasting = self.key_of(later, stored) == key
        except BaseException as raised:
            contained(raised)
            is_lasting = False
        if not is_lasting:
            raise _NotLasting(
                f"`sequence` of sink {self._definition.name} makes its key of personal data of "
                f"{stored.name}. When that person is erased, another slice would have the event, "
                f"and might be beyond it. Let it give an id, or write slices=1, and change the "
                f"number of slices in either case: then they begin where the last of them stands, "
                f"and nothing is lost"
            )

    def check_handled(self, event: Event, stored: StoredEvent) -> None:
        """Raise Damaged where the projection handles an event's name, and not what it is today."""
        definition = self._definition
        if type(event) not in definition.handlers and not self._all:
            raise Damaged(
                stored.position,
                f"projection {definition.name} handles {stored.name}, but not its version "
                f"{stored.event_version}: add a handler of {type(event).__name__}",
            )

    def key_of(self, event: Event | None, stored: StoredEvent) -> str:
        """Give the key whose events are kept in order."""
        sequence = self._definition.sequence
        if sequence is None:
            return stored.stream
        if event is None:
            event = self._registry.decode(stored)
        key: Any = sequence(event, decode_meta(stored))
        if not isinstance(key, str) or not is_text(key):
            what = "a text that no UTF-8 can hold" if isinstance(key, str) else type(key).__name__
            raise UsageError(
                f"`sequence` of projection {self._definition.name} gave {what} for "
                f"{stored.name}: it gives a str"
            )
        return str.__str__(key)

    def wait_behind(self, event: Event, stored: StoredEvent) -> tuple[bool, Exception | None]:
        """Park an event whose key waits already; tell whether it was, or why it cannot be."""
        parking = self.parking
        if not parking.keys:
            return False, None
        try:
            key = self.key_of(event, stored)
        except BaseException as raised:
            return False, contained(raised)
        if key not in parking.keys:
            return False, None
        if parking.park(stored, key, None, self._now()):
            return True, None
        return False, UsageError(
            f"{parking.count} events are parked (Limits.parked_events), and one more would "
            f"have to be: mend the handlers, then retry what is parked, or skip it"
        )

    def park(self, stored: StoredEvent, error: Exception) -> bool:
        """Park what failed; tell whether it was."""
        if isinstance(error, _NotLasting) or (self.patience and self.may_pass(error)):
            return False
        try:
            # Of a fresh event: a handler may have changed the one that it failed on.
            key = self.key_of(None, stored)
        except BaseException as raised:
            contained(raised)
            return False
        return self.parking.park(stored, key, error, self._now())
