"""Judges a world over a modelled server: what clients were told, and what is in its tables.

Rules: as `checker` does, of which most is used. The tables are looked at from outside of the
engine: places, versions, checksums, and who sent each event. Where the world lost acknowledged
events, what remains must be whole, and only what was lost is excused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from engine.errors import Damaged
from engine.model.stored import StoredEvent, verify
from tests.simulation.checker import judge_log, runs_of
from tests.simulation.domain import Put

from .database import Tables
from .world import World

__all__ = ["judge_world"]


def judge_world(world: World) -> list[str]:
    """Give what cannot be true; nothing for a world that holds together."""
    story = world.story
    if story.problems:
        return list(story.problems)
    problems = [*_tables(world.server.tables), *_senders(world), *world.judged_beside()]
    if problems:
        return problems
    if world.troubles.loses:
        return list(_what_remains(world))
    return judge_log(story)


def _tables(tables: Tables) -> Iterator[str]:
    versions: Counter[str] = Counter()
    recorded = 0
    for place, event in enumerate(tables.events, 1):
        versions[event.stream] += 1
        if event.position != place:
            yield f"P4: the event in place {place} has position {event.position}"
        if event.version != versions[event.stream]:
            yield f"P3: {event.stream} has version {event.version} in its place"
        if event.recorded < recorded:
            yield f"P14: recorded goes back at {event.position}"
        recorded = event.recorded
        name, version, _ = tables.types[event.type]
        try:
            verify(
                StoredEvent(
                    *(event.position, event.stream, event.version, name, version, event.recorded),
                    *(event.payload, event.metadata, event.encoding, event.checksum),
                    event.behind,
                )
            )
        except Damaged as error:
            yield f"P15: {error}"


def _senders(world: World) -> Iterator[str]:
    sent = {operation.number for operation in world.story.operations if operation.sendings}
    shown = [logged.meta.position for logged in world.story.log]
    if shown != [event.position for event in world.server.tables.events]:
        yield f"P4: the last engine reads {len(shown)} events, and others are in the table"
    for logged in world.story.log:
        # Those below zero are of a judge of their own.
        if logged.event.operation >= 0 and logged.event.operation not in sent:
            yield f"P5: nobody has sent {logged.event}, at {logged.meta.position}"


def _what_remains(world: World) -> Iterator[str]:
    lost = set(_lost(world))
    runs = runs_of(world.story)
    for operation in world.story.operations:
        number, found = operation.number, runs[operation.number]
        parts = operation.command.parts if isinstance(operation.command, Put) else 1
        if len(found) > 1 or any(len(run) != parts for run in found):
            yield f"P2: of operation {number} there are {[len(run) for run in found]} events"
        written = [receipt for receipt in operation.receipts if receipt.version]
        amount = getattr(operation.command, "amount", 1)
        if written and amount and not found and number not in lost:
            yield f"P1: operation {number} was acknowledged, not lost, and is not there"


def _lost(world: World) -> Iterator[int]:
    """Give the operations whose events the world lost."""
    for record in world.lost:
        for name, *values in record.changes:
            if name == "event":
                payload = msgspec.json.decode(values[0].payload)
                yield payload["operation"] if isinstance(payload, dict) else payload[0]
