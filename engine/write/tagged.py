"""Brings durable events with tags to the boundaries in memory that fold them.

Rules: an event is brought once, right before its command is answered, in the order of the log. A
boundary that has folded it as it was decided is passed over. Where none is in memory, nothing is
done: it is loaded with its next command. An event without tags costs a look.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.boundary import ids_of_tags
from ..model.stored import StoredEvent
from .actor import Actor
from .boundary import BoundaryActor
from .directory import Directory
from .entries import Entry
from .kind import Kind

__all__ = ["Tagged"]


class Tagged:
    """Who folds events by their tags, in one engine."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._routes: dict[str, list[tuple[str, Sequence[str]]]] = {}
        """Kind and tags of the boundaries that fold events of a stored name."""

    def know(self, kinds: Sequence[Kind[Actor]]) -> None:
        """Take the kinds of an engine's boundaries."""
        for kind in kinds:
            definition = kind.definition
            for name in kind.registry.names_of(definition.appliers) if definition.tags else ():
                self._routes.setdefault(name, []).append((definition.kind, definition.tags))

    def deliver(self, entry: Entry, events: Sequence[StoredEvent]) -> None:
        """Bring the events of an entry to all who fold them, and have not yet."""
        place = 0
        for part in (entry, *entry.others):
            for data in part.write.events:
                if data.tags:
                    self._bring(entry, events[place], data.tags)
                place += 1
        for owner in entry.readers:
            if isinstance(owner, BoundaryActor):
                owner.read_at = events[-1].position

    def _bring(self, entry: Entry, stored: StoredEvent, tags: Sequence[str]) -> None:
        for kind, wanted in self._routes.get(stored.name, ()):
            for boundary_id in ids_of_tags(wanted, tags):
                actor = self._directory.resident(f"{kind}:{boundary_id}")
                if isinstance(actor, BoundaryActor) and actor not in entry.owners:
                    actor.offer(stored)

    def forget(self) -> None:
        """Have all boundaries in memory read again."""
        for actor in self._directory.actors:
            if isinstance(actor, BoundaryActor):
                actor.forget()
