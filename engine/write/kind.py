"""What all actors of one kind share in one engine: its definition, its events, its neighbours.

One struct stands here so that an actor holds one reference and not twelve. It decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ..limits import Limits
from ..model.aggregate import AggregateDefinition, Context
from ..model.codec import EventRegistry
from ..model.messages import Event
from ..model.projection import Projection
from ..model.stored import EventType
from ..model.tags import TagReader
from ..model.timers import TimedCommands
from ..model.upcasting import Upcasting
from ..runtime.ports import Ports
from .deliberation import Deliberations
from .journal import Journal
from .mailbox import Intake, Mail
from .sampling import Samples
from .shared import Shared
from .snapshot import Freezer

__all__ = [
    "EventBinding",
    "Kind",
    "Residents",
    "Turns",
    "bind_events",
    "bind_stored",
    "registry_of",
    "sealing",
]

A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)


class Turns(Protocol[A_contra]):
    """Who gives actors their turn: the dispatcher."""

    def ready(self, actor: A_contra, /) -> None:
        """Give the actor a turn; raise RecursionError, with nothing changed."""
        ...


class Residents(Protocol[A_contra]):
    """Where actors are found and loaded: the directory."""

    def load(self, actor: A_contra, /) -> None:
        """Have the actor's stream read; raise RecursionError, with nothing changed."""
        ...

    def forget(self, actor: A_contra, /) -> None:
        """Let the actor go, which has no state to keep."""
        ...


class EventBinding(msgspec.Struct, frozen=True):
    """What an actor does with one class of event."""

    type: EventType
    decode: Callable[[bytes], Any]
    read_back: Callable[[Any, bytes], Any]
    """Gives the copy that is folded, of an event and its bytes; see `EventRegistry.reader_of`."""
    apply: Callable[[Any, Any], None]
    seal: Callable[[Any, bytes, str, int], bytes] | None = None
    """Gives the JSON with personal fields encrypted, of an event and its JSON in a stream at a
    version; None where the class has none."""
    tags: TagReader | None = None
    """Gives what an event is tagged with; None where the class has no tags."""


class Kind(msgspec.Struct, Generic[A], frozen=True):
    """What all actors of one kind in one engine share; `A` is the actor, which is made above."""

    definition: AggregateDefinition
    events: Mapping[type[Event], EventBinding]
    stored: Mapping[tuple[str, int], EventBinding]
    """The same by stored name and version, of those that are folded as they were stored."""
    registry: EventRegistry
    intake: Intake
    journal: Journal
    limits: Limits
    ports: Ports
    failpoint: Callable[[str], None] | None
    """As `ports` have it: what is called at the places where a test may end the engine."""
    logger: logging.Logger
    freezer: Freezer | None
    """Makes and opens snapshots, where the kind has any."""
    resources: Mapping[type, object]
    deliberations: Deliberations
    turns: Turns[A]
    residents: Residents[A]
    timed: TimedCommands
    """The commands that timers may have."""
    timers_instead: str | None = None
    """What to do instead, where the store keeps no timers."""
    debug: bool = False
    """Whether handlers and appliers are checked as they run."""
    shared: Shared | None = None
    """Where other processes write to its aggregates as well."""
    samples: Samples = msgspec.field(default_factory=Samples)
    """Which handlers are checked where `debug` is off."""

    @property
    def is_personal(self) -> bool:
        """Whether its states have what is stored encrypted."""
        return self.registry.is_personal(self.events)

    def context(self, mail: Mail) -> Context:
        """Give what a handler may know besides the state and the command."""
        envelope = mail.envelope
        return Context(
            self.ports.clock.now(),
            self.ports.ids.new_id,
            envelope.key,
            envelope.correlation,
            envelope.causation,
            envelope.principal,
            envelope.headers,
        )


def bind_events(
    definition: AggregateDefinition, registry: EventRegistry
) -> Mapping[type[Event], EventBinding]:
    """Give, per event class of a kind, what its actors do with it."""
    return {
        cls: EventBinding(
            registry.type_of(cls),
            registry.decoder_of(cls).decode,
            registry.reader_of(cls),
            apply,
            sealing(registry, cls),
            registry.tags_of(cls),
        )
        for cls, apply in definition.appliers.items()
    }


def sealing(
    registry: EventRegistry, cls: type[Event]
) -> Callable[[Any, bytes, str, int], bytes] | None:
    """Give what encrypts the personal fields of a class; None where it has none."""
    form, sealer = registry.personal_of(cls), registry.sealer
    if form is None:
        return None
    assert sealer is not None, "keys are there before anything is written"
    return lambda event, payload, stream, at: form.seal(event, payload, sealer, stream, at)


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
