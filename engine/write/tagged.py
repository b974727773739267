"""Brings durable events with tags to the boundaries in memory that fold them.

Rules: an event is brought once, right before its command is answered, in the order of the log. A
boundary that has folded it as it was decided is passed over. Where none is in memory, nothing is
done: it is loaded with its next command. An event without tags costs a look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import TypeAlias

from ..model.boundary import finder_of
from ..model.stored import StoredEvent
from .actor import Actor
from .boundary import BoundaryActor
from .directory import Directory
from .entries import Entry
from .kind import Kind

__all__ = ["Tagged"]

_Finder: TypeAlias = Callable[[Sequence[str]], Sequence[str]]


class Tagged:
    """Who folds events by their tags, in one engine."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._routes: dict[str, list[tuple[str, _Finder]]] = {}
        """Of the boundaries that fold events of a stored name: how their streams begin, and what
        finds the ids of those that an event belongs to."""

    def know(self, kinds: Sequence[Kind[Actor]]) -> None:
        """Take the kinds of an engine's boundaries."""
        for kind in kinds:
            definition = kind.definition
            route = f"{definition.kind}:", finder_of(definition.tags)
            for name in kind.registry.names_of(definition.appliers) if definition.tags else ():
                self._routes.setdefault(name, []).append(route)

    def deliver(self, entry: Entry, events: Sequence[StoredEvent]) -> None:
        """Bring the events of an entry to all who fold them, and have not yet."""
        have_it = {party[0] for party in entry.parties}
        place = 0
        for part in (entry, *entry.others):
            for data in part.write.events:
                if data.tags:
                    self._bring(have_it, events[place], data.tags)
                place += 1
        for owner in entry.readers:
            if isinstance(owner, BoundaryActor):
                owner.stored_elsewhere(events[-1].position)

    def _bring(self, have_it: Set[str], stored: StoredEvent, tags: Sequence[str]) -> None:
        for begin, find in self._routes.get(stored.name, ()):
            for boundary_id in find(tags):
                stream = begin + boundary_id
                actor = None if stream in have_it else self._directory.resident(stream)
                if isinstance(actor, BoundaryActor):
                    actor.offer(stored)

    def forget(self) -> None:
        """Have all boundaries in memory read again."""
        for actor in self._directory.actors:
            if isinstance(actor, BoundaryActor):
                actor.forget()
