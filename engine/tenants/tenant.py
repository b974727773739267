"""One tenant whose engine is open, or opening: who uses it, and whether it has something to do.

Rules: an engine is at work while it erases a person, and while a sink or a reactor of this process
is behind the log and goes on by itself. One that is paused, or stopped by a failure, waits for
people: it keeps no engine open. What is parked is not waited for either. Nothing is changed here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..engine import Engine
from ..statistics import ProjectorStatistics

__all__ = ["Tenant"]

_AT_WORK: Final = ("catching-up", "live", "retrying")


class Tenant:
    """A tenant whose engine is open, or opening."""

    __slots__ = ("is_wanted", "name", "opening", "running", "used", "users")

    def __init__(self, name: str) -> None:
        self.name = name
        self.users = 0
        self.used = 0.0
        """When it was used last."""
        self.running: Engine | None = None
        self.opening: asyncio.Task[None] | None = None
        self.is_wanted = False
        """Whether a caller has used it, and not only its timers."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, so that it may be closed."""
        return not self.users and self.running is not None

    @property
    def is_useless(self) -> bool:
        """Whether only another engine helps: it has failed, or another log is in its place."""
        engine = self.running
        return engine is not None and (engine.failed is not None or engine.is_displaced)

    @property
    def is_at_work(self) -> bool:
        """Whether it has something to do that would wait until it is opened again."""
        return self.is_erasing or self.is_delivering

    @property
    def is_erasing(self) -> bool:
        """Whether an erasure is under way in it."""
        return self.running is not None and self.running.personal.is_erasing()

    @property
    def is_delivering(self) -> bool:
        """Whether a sink or a reactor of it has events before it."""
        if self.running is None:
            return False
        definitions = [projection.__definition__ for projection in self.running.declared]
        delivering = {each.name for each in definitions if not each.has_tables}
        if not delivering:
            return False
        projectors = self.running.statistics().projectors
        return any(_is_behind(projectors[name]) for name in delivering if name in projectors)


def _is_behind(numbers: ProjectorStatistics) -> bool:
    is_behind = numbers.state in _AT_WORK and bool(numbers.lag_events)
    building = numbers.building
    return is_behind or (building is not None and building.state in _AT_WORK)
