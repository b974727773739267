"""Where a new reactor begins: decided once, kept with the decisions about it, and never again.

Rules: a reactor that is new in these views begins where its author has said. That is decided before
the engine takes its first command, synced, and written into the book of decisions: so a crash, or a
power loss that takes the last checkpoints back, lets it begin nowhere else. A decision about
another history of the log counts for nothing. This file runs no reaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import StoreRefused
from ..model.projection import ProjectionDefinition
from ..stores.contract.log import LogSource
from ..stores.contract.views import Changes, Checkpoint, Part, ProjectionDecision, ViewsStore

__all__ = ["begin", "event_at"]


async def begin(
    definition: ProjectionDefinition,
    views: ViewsStore,
    log: LogSource,
    now: Callable[[], int],
    logger: logging.Logger,
) -> None:
    """Let a reactor begin, if it has not; the views are open, and nothing is at work on them."""
    name = definition.name
    serving = next(b for b in await views.builds(name) if b.state == "serving")
    part = Part(definition, serving.number)
    checkpoint = await views.checkpoint(part)
    begun = await _begun(name, views, log)
    if begun is None and not checkpoint.position:
        begun = await _beginning(definition, log)
        end = (await log.head()).position
        logger.log(
            logging.WARNING if end else logging.INFO,
            "reactor %s is new to these views and begins behind position %d of %d (begins=%r)",
            *(name, begun.position, end, definition.begins),
        )
        await views.decide(
            ProjectionDecision(
                name,
                "begin",
                now(),
                definition.version,
                begun.position,
                f"begins={definition.begins!r}",
                checksum=begun.checksum,
            )
        )
    if begun is not None and begun.position > checkpoint.position:
        await views.write(Changes(part, checkpoint, begun, {}))


async def _begun(name: str, views: ViewsStore, log: LogSource) -> Checkpoint | None:
    """Give where a reactor has begun in this history, if it has."""
    for decision in reversed(await views.decisions(name)):
        if decision.kind == "begin" and decision.position is not None:
            found = await event_at(decision.position, log)
            return found if found and found.checksum == decision.checksum else None
    return None


async def _beginning(definition: ProjectionDefinition, log: LogSource) -> Checkpoint:
    """Give where a new reactor begins; raise StoreRefused for a position behind the log's end."""
    head = await log.head()
    if definition.begins == "now":
        return Checkpoint(head.position, head.checksum)
    position = 0 if definition.begins == "start" else int(definition.begins or 0)
    found = await event_at(position, log)
    if found is None:
        raise StoreRefused(
            f"reactor {definition.name!r} begins behind position {position}, and the log ends at "
            f'{head.position}: give a position of this log, or begins="now". Nothing was changed'
        )
    return found


async def event_at(position: int, log: LogSource) -> Checkpoint | None:
    """Give the checkpoint behind an event; None where the log has none there."""
    if not position:
        return Checkpoint()
    page = await log.read_feed(position - 1, events_max=1, bytes_max=1)
    if not page or page[0].position != position:
        return None
    return Checkpoint(position, page[0].checksum)
