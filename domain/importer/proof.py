"""A proof: a log compared with what was acknowledged, by whoever heard the acknowledgements.

Rules: an acknowledged command is in the log, at the position that was told, and once; whatever
differs is counted, and nothing is mended. The whole log is read through the engine's feed. What a
torn line of acknowledgements says is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from engine import Engine

__all__ = ["Found", "LoggedKeys", "acknowledged_in", "keys_of"]


class Found(msgspec.Struct, frozen=True):
    """A log compared with what was acknowledged."""

    acknowledged: int
    events: int
    lost: int
    """Acknowledged commands that the log has not, or has elsewhere."""
    doubled: int
    """Commands that the log has twice."""


class LoggedKeys(msgspec.Struct, frozen=True):
    """The keys of a log."""

    events: int
    positions: Mapping[str, list[int]]
    """Where each key stands."""

    def compare(self, told: Mapping[str, int]) -> Found:
        """Compare with what was acknowledged: positions, by key."""
        lost = sum(at not in self.positions.get(key, ()) for key, at in told.items())
        doubled = sum(len(found) - 1 for found in self.positions.values())
        return Found(len(told), self.events, lost, doubled)


async def keys_of(engine: Engine) -> LoggedKeys:
    """Read the whole log."""
    positions: dict[str, list[int]] = {}
    events = 0
    async for logged in engine.feed():
        events += 1
        if logged.meta.key is not None:
            positions.setdefault(logged.meta.key, []).append(logged.meta.position)
    return LoggedKeys(events, positions)


def acknowledged_in(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Give key and position of each whole line."""
    for line in lines:
        key, _, position = line.partition("\t")
        if position.endswith("\n"):  # whoever is killed may leave the last one torn
            yield key, int(position)
