"""What the engine that owns a log tells of itself for its health, and for that of its members.

Rules: it is read out of memory, in the event loop. Only where nobody has seen yet how old the event
is that a projection waits for, that one event is read, and not waited for long. No id, no payload
and no text of an error is in it: names are those of the code.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec

from ..errors import EngineError
from ..projections.runner import ProjectionRunner
from ..statistics import ProjectorState
from ..stores.contract.traits import Served
from ..wiring import Wiring

__all__ = ["Facts", "ProjectionFacts", "facts_of"]

_READ_SECONDS: Final = 0.5
"""How long the read of one event may take."""


class ProjectionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a projection, a sink or a reactor stands."""

    name: str
    kind: Literal["projection", "sink", "reactor"]
    state: ProjectorState | Literal["at-rest"]
    position: int
    lag_events: int | None
    lag_seconds: float | None
    parked: int
    failed_at: int | None = None
    """The position at which it has stopped, if it has."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of a log tells."""

    position: int
    projections: tuple[ProjectionFacts, ...]
    timers_overdue: float | None
    """Seconds; None where that is not known."""
    timers_parked: int | None
    lease_seconds: float | None
    """None for a log that is not leased."""
    clock_behind: float
    """Seconds by which the last event's time is ahead of the clock."""
    erasures_wait_for: tuple[str, ...] = ()
    """Projections that hold erasures of people up."""
    not_asked: tuple[str, ...] = ()
    """Sinks that the last of them has asked nothing, since the owner does not declare them."""


async def facts_of(wiring: Wiring) -> Facts:
    """Give what an engine tells at this moment; called in its event loop."""
    timers = wiring.firing.statistics()
    server = wiring.store.server_statistics() if isinstance(wiring.store, Served) else None
    found = [_of(runner) for runner in wiring.projecting.values()]
    projections = await asyncio.gather(*(_with_age(wiring, each) for each in found))
    eraser = wiring.eraser
    return Facts(
        position=wiring.journal.position,
        projections=tuple(projections),
        timers_overdue=timers.lag_seconds,
        timers_parked=timers.parked,
        lease_seconds=None if server is None else server.lease_seconds_left,
        clock_behind=wiring.journal.time.behind(),
        erasures_wait_for=() if eraser is None else tuple(eraser.waits_for),
        not_asked=() if eraser is None else eraser.not_asked,
    )


def _of(runner: ProjectionRunner) -> ProjectionFacts:
    definition, numbers = runner.definition, runner.statistics()
    kind: Literal["projection", "sink", "reactor"] = "projection"
    if not definition.has_tables:
        kind = "reactor" if definition.sink is None else "sink"
    return ProjectionFacts(
        name=numbers.name,
        kind=kind,
        state=numbers.state,
        position=numbers.position,
        lag_events=numbers.lag_events,
        lag_seconds=numbers.lag_seconds,
        parked=numbers.parked,
        failed_at=None if numbers.failure is None else numbers.failure.position,
    )


async def _with_age(wiring: Wiring, facts: ProjectionFacts) -> ProjectionFacts:
    """Give it with the age of the first event that it has not handled, if it did not know that."""
    if not facts.lag_events or facts.lag_seconds is not None:
        return facts
    try:
        async with asyncio.timeout(_READ_SECONDS):
            events = await wiring.store.read_feed(facts.position, events_max=1, bytes_max=1)
    except (EngineError, TimeoutError):
        return facts
    if not events:
        return facts
    age = max(0, wiring.settings.ports.clock.now() - events[0].recorded) / 1e6
    return msgspec.structs.replace(facts, lag_seconds=age)
