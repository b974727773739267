"""Engines whose health is asked, on a disk that tests fill and hold up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from engine import Delivery, Engine, HealthCheck, HealthReport, Ports, Sink
from engine.stores.sqlite.files import SystemFiles
from engine.testing.scenario import ManualClock
from tests.support.counters import Added, Counter
from tests.support.tallies import Tallies

GIB = 1024**3
DOWN: list[str] = []
"""Why the system outside takes nothing, if it does not."""


class Outside(Sink, name="outside", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]]) -> None:
        if DOWN:
            raise ConnectionError(DOWN[0])


class SomeDisk(SystemFiles):
    """A disk with as much room as a test says, which may not answer."""

    def __init__(self, free: int = 100 * GIB) -> None:
        self.room = free
        self.asked_by: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def free(self, path: str) -> int:
        self.asked_by.append(threading.current_thread().name)
        self.answers.wait()
        return self.room


def engine_on(
    store: str, disk: SomeDisk | None = None, clock: ManualClock | None = None, **options: Any
) -> Engine:
    """Give an engine of counters, their tallies and a sink."""
    ports = Ports(files=disk or SomeDisk())
    if clock is not None:
        ports = Ports(files=ports.files, clock=clock)
    return Engine([Counter], projections=[Tallies, Outside], store=store, ports=ports, **options)


def check(report: HealthReport, name: str, of: str = "") -> HealthCheck:
    """Give the one check of that name."""
    (found,) = [one for one in report.checks if (one.name, one.of) == (name, of)]
    return found


def failing(report: HealthReport) -> list[str]:
    """Give the names of those that are beyond their bounds."""
    return [f"{one.name} {one.of}".strip() for one in report.failing]
