"""What all actors of one kind share in one engine: its definition, its events, its neighbours.

One struct stands here so that an actor holds one reference and not twelve. It decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..limits import Limits
from ..model.aggregate import AggregateDefinition, Context
from ..model.codec import EventRegistry
from ..model.messages import Event
from ..model.projection import Projection
from ..model.stored import EventType
from ..model.upcasting import Upcasting
from ..runtime.ports import Ports
from .deliberation import Deliberations
from .journal import Journal
from .mailbox import Intake, Mail
from .snapshot import Freezer

__all__ = ["EventBinding", "Kind", "bind_events", "bind_stored", "registry_of"]


class EventBinding(msgspec.Struct, frozen=True):
    """What an actor does with one class of event."""

    type: EventType
    decode: Callable[[bytes], Any]
    read_back: Callable[[Any, bytes], Any]
    """Gives the copy that is folded, of an event and its bytes; see `EventRegistry.reader_of`."""
    apply: Callable[[Any, Any], None]


class Kind(msgspec.Struct, frozen=True):
    """What all actors of one kind in one engine share."""

    definition: AggregateDefinition
    events: Mapping[type[Event], EventBinding]
    stored: Mapping[tuple[str, int], EventBinding]
    """The same by stored name and version, of those that are folded as they were stored."""
    registry: EventRegistry
    intake: Intake
    journal: Journal
    limits: Limits
    ports: Ports
    logger: logging.Logger
    freezer: Freezer | None
    """Makes and opens snapshots, where the kind has any."""
    resources: Mapping[type, object]
    deliberations: Deliberations
    ready: Callable[[Any], None]
    """Gives the actor a turn."""
    load: Callable[[Any], None]
    """Has the actor's stream read."""
    forget: Callable[[Any], None]
    """Takes the actor out of the directory."""
    debug: bool = False
    """Whether handlers and appliers are checked as they run."""

    def context(self, mail: Mail) -> Context:
        """Give what a handler may know besides the state and the command."""
        return Context(
            self.ports.clock.now(),
            self.ports.ids.new_id,
            mail.key,
            mail.correlation,
            mail.causation,
            mail.principal,
            mail.headers,
        )

    def reach(self, name: str) -> None:
        """Reach a failpoint."""
        if self.ports.failpoint is not None:
            self.ports.failpoint(name)


def bind_events(
    definition: AggregateDefinition, registry: EventRegistry
) -> Mapping[type[Event], EventBinding]:
    """Give, per event class of a kind, what its actors do with it."""
    return {
        cls: EventBinding(
            registry.type_of(cls), registry.decoder_of(cls).decode, registry.reader_of(cls), apply
        )
        for cls, apply in definition.appliers.items()
    }


def bind_stored(
    definition: AggregateDefinition, registry: EventRegistry
) -> Mapping[tuple[str, int], EventBinding]:
    """Give, per stored type, what folds its JSON as it stands; others are left to the registry."""
    bindings = bind_events(definition, registry).values()
    by_type = {(each.type.name, each.type.version): each for each in bindings}
    return {type_: each for type_, each in by_type.items() if registry.plain_decoder(*type_)}


def registry_of(
    definitions: Sequence[AggregateDefinition],
    projections: Sequence[type[Projection]],
    upcasting: Upcasting,
) -> EventRegistry:
    """Give all classes of event that are folded, and those that lead to them."""
    folded = [
        *((cls, d.cls.__qualname__) for d in definitions for cls in d.appliers),
        *((cls, p.__qualname__) for p in projections for cls in p.__definition__.event_classes),
    ]
    upcasting.check(folded)
    return EventRegistry((cls for cls, _ in folded), upcasting)
