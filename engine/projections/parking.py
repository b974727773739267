"""Parking: events that could not be folded, and all later ones of their keys, set aside.

Rules: an event is set aside in the transaction that moves the checkpoint over it, so that it is
either in the tables or among the parked. Once one of a key is, all later ones are, untried: a key's
events are folded in order or not at all. What is damaged is never parked: nobody knows what it was.
Nothing is parked beyond `limits.parked_events`; then the projector stops, as without parking. This
file keeps what one part has parked in memory, and writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..errors import Damaged
from ..model.stored import StoredEvent
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import traceback_text
from ..stores.contract.views import Parked, what_of

__all__ = ["Parking"]


class Parking:
    """What is parked of one part, and what the batch in hand adds."""

    def __init__(self, *, allowed: bool, events_max: int) -> None:
        """Take whether the projection parks at all, and how many events one part may park."""
        self.allowed = allowed
        """Whether what fails is set aside."""
        self._events_max = events_max
        self.keys: dict[str, int] = {}
        """How many events of a key are parked; those of the batch in hand included."""
        self.count = 0
        self.added: list[Parked] = []
        """What is to be written with the batch in hand."""
        self.causes: dict[int, Exception] = {}
        """What was raised, by position, of those that are parked for it and not told of yet."""

    def begin(self, keys: Mapping[str, int]) -> None:
        """Start from what the views say."""
        self.keys = dict(keys)
        self.count = sum(keys.values())
        self.added.clear()
        self.causes.clear()

    def park(self, stored: StoredEvent, key: str, error: Exception | None, now: int) -> bool:
        """Set an event aside, behind others of its key or for what it raised; tell whether it was.

        It is not where it fails and that is not allowed, where it is damaged, and where too many
        are.
        """
        # What the event's own class refuses is no damage: its bytes are those written.
        damaged = isinstance(error, Damaged) and not error.refused
        refused = error is not None and (not self.allowed or damaged)
        if refused or self.count >= self._events_max:
            return False
        self.keys[key] = self.keys.get(key, 0) + 1
        self.count += 1
        if error is not None:
            self.causes[stored.position] = error
        self.added.append(
            Parked(
                stored.position,
                key,
                what_of(stored.name, stored.event_version),
                stored.stream,
                now,
                attempts=0 if error is None else 1,
                cause="" if error is None else traceback_text(error),
            )
        )
        return True

    def undo(self, position: int = 0) -> None:
        """Take back what the batch added from a position on."""
        kept = [parked for parked in self.added if parked.position < position]
        undone = [parked for parked in self.added if parked.position >= position]
        self.released(undone)
        for parked in undone:
            self.causes.pop(parked.position, None)
        self.added[:] = kept

    def written(self) -> None:
        """Note that what the batch added is written."""
        self.added.clear()

    def tell(self, parked: Sequence[Parked], projection: str, logger: logging.Logger) -> None:
        """Log what is set aside and kept, with what the host's code raised."""
        for each in parked:
            error = self.causes.pop(each.position, None)
            if error is None:
                continue  # it waits behind another
            logger.error(
                "projection %s set the event at position %d aside (%s of %s), which it cannot "
                "fold: %s. All later events of key %s wait behind it, and everything else goes on. "
                "Mend the cause, then retry what is parked, or skip it\n%s",
                projection,
                each.position,
                each.event,
                each.stream,
                type(error).__qualname__,
                each.key,
                traceback_text(error, messages=shows_messages(logger)),
            )

    def released(self, events: Sequence[Parked]) -> None:
        """Note that events are parked no more."""
        for parked in events:
            left = self.keys.get(parked.key, 0) - 1
            self.count -= 1
            if left > 0:
                self.keys[parked.key] = left
            else:
                self.keys.pop(parked.key, None)
