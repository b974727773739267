"""An engine of counters whose events a relay publishes, and what its readers must find."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from engine import Engine, Event, Limits, Projection, ProjectionLag, Query, Views, answers
from engine.projections.operations import Status
from engine.relays import Relay
from tests.support.brokers import Broker, Seen
from tests.support.counters import Add, Added, Counter


class Published(Query[None]):
    """Waits for the relay."""


def relay_to(
    broker: Broker, topic: Any = "counted", *, url: str | None = None, **options: Any
) -> type[Projection]:
    given: dict[str, Any] = {"events": [Added], **options}

    def name_of(event: Any, meta: Any) -> str:
        return broker.named(topic(event, meta))

    where = name_of if callable(topic) else broker.named(topic)
    return Relay("outbound", to=url or broker.url, topic=where, **given)


def relaying(relay: type[Projection], store: str = "memory:", **options: Any) -> Engine:
    @answers(projections=[relay])
    async def published(query: Published, views: Views) -> None:
        return None

    return Engine([Counter], projections=[relay], answers=[published], store=store, **options)


async def add(engine: Engine, *counters: str, tags: dict[str, list[int]] | None = None) -> int:
    """Count once for each; give the last position."""
    position = 0
    for counter in counters:
        position = (await engine.execute(Add(counter, 1, tags=tags or {}))).position
    return position


async def published(engine: Engine, position: int, seconds: float = 60) -> None:
    """Wait until the relay has published the event at a position."""
    try:
        await engine.query(Published(), at=position, timeout=seconds)
    except ProjectionLag as lag:
        failure = (await status(engine)).failure
        if failure is not None:
            lag.add_note(failure.cause)
        raise


async def status(engine: Engine) -> Status:
    return await engine.projections.status("outbound")


async def why_it_tries_again(engine: Engine) -> str:
    retrying = (await status(engine)).retrying
    return "" if retrying is None else retrying.cause


def check_order(found: Sequence[Seen], log_id: str, last: int) -> int:
    """Check that every event is there, and each stream's in order; give how many came twice.

    The first of those that came twice counts, as a receiver that remembers ids sees it.
    """
    seen: set[str] = set()
    versions: dict[str, list[int]] = defaultdict(list)
    for message in found:
        if message.id not in seen:
            seen.add(message.id)
            of = message.attributes
            versions[of["subject"]].append(int(of["streamversion"]))
    places = [identity.rpartition("-")[0] for identity in seen]
    assert sorted(places) == sorted(f"{log_id}-{position}" for position in range(1, last + 1))
    for stream, order in versions.items():
        assert order == list(range(1, len(order) + 1)), stream
    return len(found) - len(seen)


__all__ = [
    "Added",
    "Counter",
    "Event",
    "Limits",
    "ProjectionLag",
    "add",
    "check_order",
    "published",
    "relay_to",
    "relaying",
    "ssl",
    "status",
    "why_it_tries_again",
]
