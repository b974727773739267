"""What the modelled server answers is what a real one does: else its seeds would say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import msgspec
import pytest

from engine.stores.postgres.address import read_address
from engine.stores.postgres.driver import Asyncpg, Connection
from engine.testing.simulation.fence import fence
from engine.testing.simulation.schedule import InOrder
from tests.simulation.postgres.database import Tables
from tests.simulation.postgres.network import Network, SimulatedConnection, SimulatedDriver
from tests.simulation.postgres.process import Process, ProcessesLoop, end_of
from tests.simulation.postgres.scenarios import SCENARIOS, Scenario
from tests.simulation.postgres.scenarios_of_members import SCENARIOS_OF_MEMBERS
from tests.simulation.postgres.server import Backend
from tests.simulation.postgres.server import Server as Modelled
from tests.simulation.postgres.statements import SCHEMA
from tests.support.postgres import Server, asked

_STEPS_MAX: Final = 20_000


class ModelledPlace:
    """The modelled server, in virtual time."""

    def __init__(self) -> None:
        self.loop = ProcessesLoop(InOrder(), _STEPS_MAX)
        random = Random(3)
        self.server = Modelled(self.loop, random, Tables("0" * 32))
        self._network = Network(self.loop, random, self.server)
        self._driver = SimulatedDriver(self._network, Process(self.loop, 1))
        self.address = read_address(f"postgresql://u@127.0.0.1/d?schema={SCHEMA}")

    async def connect(self) -> Connection:
        """Connect."""
        connection, _ = await self._driver.connect(self.address)
        return connection

    async def terminate(self, connection: Connection) -> None:
        """End its backend."""
        assert isinstance(connection, SimulatedConnection)
        assert isinstance(connection.backend, Backend)
        self.server.terminate(connection.backend)
        await asyncio.sleep(0.1)

    def run(self, scenario: Scenario) -> Sequence[Any]:
        """Run a script to its end."""
        task: asyncio.Task[Sequence[Any]] = self.loop.create_task(_told(scenario, self))
        task.add_done_callback(lambda _: self.loop.stop())
        try:
            with fence():
                self.loop.run_forever()
        finally:
            end_of(self.loop)
        assert self.server.unknown == []
        assert self.loop.errors == []
        return task.result()


class RealPlace:
    """A schema of a real server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.address = read_address(server.url(server.new_schema()))
        self._connections: list[Connection] = []

    async def connect(self) -> Connection:
        """Connect."""
        connection, _ = await Asyncpg().connect(self.address)
        self._connections.append(connection)
        return connection

    async def terminate(self, connection: Connection) -> None:
        """End its backend."""
        pid = getattr(connection, "get_server_pid")()  # noqa: B009 - the driver's own
        await asked(self._server, "SELECT pg_terminate_backend($1)", pid)
        await asyncio.sleep(0.1)

    def run(self, scenario: Scenario) -> Sequence[Any]:
        """Run a script to its end."""

        async def run() -> Sequence[Any]:
            try:
                return await _told(scenario, self)
            finally:
                for connection in self._connections:
                    connection.terminate()

        return asyncio.run(run())


async def _told(scenario: Scenario, place: Any) -> Sequence[Any]:
    return await scenario(place)


ALL: Final = (*SCENARIOS, *SCENARIOS_OF_MEMBERS)


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.__name__)
def test_the_model_answers_as_a_server_does(scenario: Scenario, postgres: Server) -> None:
    modelled = ModelledPlace().run(scenario)
    real = RealPlace(postgres).run(scenario)

    assert msgspec.to_builtins(modelled) == msgspec.to_builtins(real)
    assert len(modelled) > 1
