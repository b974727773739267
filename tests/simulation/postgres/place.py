"""A modelled server for tests that say themselves what happens, step by step.

Rules: nothing is drawn but delays, from one seed; what goes wrong is what the test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from random import Random
from typing import Any

from engine.runtime.ports import Ports
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.simulation.fence import fence
from engine.testing.simulation.machine import SimulatedClock
from engine.testing.simulation.schedule import InOrder

from .database import Tables
from .deaf import deaf
from .network import Fault, Network, SimulatedDriver
from .pooler import Pooler
from .process import Process, ProcessesLoop, end_of
from .server import Server
from .statements import SCHEMA

__all__ = ["Place"]


class Place:
    """A modelled server in a loop, and processes with a store each."""

    def __init__(self, *options: str, pooled: bool = False) -> None:
        self.loop = ProcessesLoop(InOrder(), 50_000)
        random = Random(1)
        self.server = Server(self.loop, random, Tables("0" * 32))
        self.network = Network(self.loop, random, self.server)
        self.processes: list[Process] = []
        options = (f"schema={SCHEMA}", "patience=10", "lease=3", *options)
        if pooled:
            self.network.pooler = Pooler(self.server, random)
        self._address = read_address("postgresql://u@127.0.0.1/d?" + "&".join(options))

    def store(self) -> tuple[PostgresStore, Ports]:
        """Give a store of another process, which is not open yet."""
        process = Process(self.loop, len(self.processes) + 1)
        self.processes.append(process)
        ports = Ports(
            clock=SimulatedClock(self.loop, Random(1)),
            database=SimulatedDriver(self.network, process),
            watcher=None,
        )
        return PostgresStore(self._address), ports

    def faults(self, *faults: tuple[str, Fault]) -> None:
        """Break the next statements that have these words, one after the other."""
        left = list(faults)

        def fault(query: str, _: Process) -> Fault:
            return left.pop(0)[1] if left and left[0][0] in query else ""

        self.network.on_request = fault

    def run(self, main: Awaitable[Any]) -> Any:
        """Run something to its end in virtual time; give what it gives."""
        task: asyncio.Task[Any] = self.loop.create_task(_awaited(main))
        task.add_done_callback(lambda _: self.loop.stop())
        try:
            with fence(), deaf():
                self.loop.run_forever()
        finally:
            end_of(self.loop)
        assert self.server.unknown == [], self.server.unknown
        assert self.loop.errors == [], self.loop.errors
        return task.result()


async def _awaited(main: Awaitable[Any]) -> Any:
    return await main
