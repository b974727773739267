"""What an engine tells about itself: one frozen struct of numbers, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["EngineStatistics"]


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start where they count, and levels as they are now."""

    state: str
    """"new", "running", "stopping", "stopped" or "failed"."""
    position: int
    """Position of the last durable event."""
    commands_open: int
    """Accepted commands that have no answer yet."""
    commands_answered: int
    """Commands that were answered, whatever the answer."""
    aggregates_resident: int
    aggregates_loaded: int
    aggregates_passivated: int
    """Aggregates that left memory, to make room for others or because they were idle."""
    aggregate_bytes: int
    """What one resident aggregate holds (actor, state, keys): an estimate from a few of them."""
    snapshots_written: int
    snapshots_dropped: int
    """Snapshots that were not written, because too many waited or the store refused."""
    snapshots_restored: int
    """Aggregates loaded from a snapshot and the events after it."""
    snapshots_distrusted: int
    """Snapshots that did not fit, so that the stream was folded from its beginning."""
    handlers_running: int
    """Async handlers at work, those included whose outcome nobody waits for any more."""
    loop_blocked: int
    """How often the event loop was blocked for longer than Limits.loop_blocked_ms."""
    undurable_events: int
    """Events that gather for the next commit."""
    commits: int
    events: int
    """Events committed."""
    batch_events_last: int
    batch_events_max: int
    projectors: Mapping[str, Any]
    """ProjectorStatistics by the name of the projection."""
