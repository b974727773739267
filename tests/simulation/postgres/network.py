"""The driver of the modelled server, and the lines to it, which delay, break and say nothing.

Rules: a line keeps what it carries in order. It may lose a request before the server has it, carry
one so late that its client has long connected again, lose a reply, or fall silent, so that neither
end is told. The client hears of a broken line as from asyncpg, by its very exceptions. A process
that is dead sends nothing more, and its machine hangs up for it, unless that is lost too.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec

from engine.stores.postgres.address import Address
from engine.stores.postgres.failures import cannot_connect
from engine.testing.simulation.loop import SimulatedLoop

from .pooler import PooledClient, Pooler
from .process import Process
from .server import Backend, Server, server_error

__all__ = ["Fault", "Faults", "Network", "SimulatedDriver"]

Fault: TypeAlias = Literal["", "request", "late", "reply", "silent", "unheard"]

_CONNECT_SECONDS: Final = 10.0
_exceptions: Any = importlib.import_module("asyncpg.exceptions")


class _Warning:
    """A message of the server's, of which only the severity is told."""

    severity_en = "WARNING"


class Faults(msgspec.Struct):
    """How often a request meets each, by chance; and how slow the way is."""

    request: float = 0.0
    late: float = 0.0
    reply: float = 0.0
    silent: float = 0.0
    delay_seconds: float = 0.0003
    late_seconds: float = 2.0
    silent_max: int | None = None
    """How many lines may fall silent; None for any number."""

    def drawn(self, random: Random) -> Fault:
        """Give what becomes of one request."""
        chance = random.random()
        for name in ("request", "late", "reply", "silent"):
            chance -= getattr(self, name)
            if chance < 0 and not (name == "silent" and self.silent_max == 0):
                return name
        return ""


class Network:
    """What is between the processes and the server."""

    def __init__(self, loop: SimulatedLoop, random: Random, server: Server) -> None:
        self.loop = loop
        self.random = random
        self.server = server
        self.faults = Faults()
        self.parted_until = 0.0
        """Up to when nothing passes; what is sent meanwhile passes then."""
        self.cut_off: dict[int, float] = {}
        """By the number of a process: until when nothing passes between it and the server."""
        self.refusing = False
        self.full = False
        self.starting = False
        self.on_request: Callable[[str, Process], Fault] | None = None
        """Says what becomes of a statement, in place of chance."""
        self.pooler: Pooler | None = None
        self.is_pooler_hidden = False
        """Whether a client that connects does not notice it."""
        self.connections: list[SimulatedConnection] = []
        self.counts: dict[str, int] = {}

    @property
    def gate(self) -> Any:
        """What clients talk to: the pooler, or the server itself."""
        return self.pooler or self.server

    def arrival(self, process: Process) -> float:
        """Give when something arrives that is sent now, by a process or to it."""
        until = self.cut_off.get(process.number, 0.0)
        passes = max(self.loop.time(), self.parted_until, until)
        return passes + self.random.expovariate(1 / self.faults.delay_seconds)

    def counted(self, what: str) -> None:
        """Count what happened, to be told at the end."""
        self.counts[what] = self.counts.get(what, 0) + 1


class SimulatedDriver:
    """Connects one process."""

    def __init__(self, network: Network, process: Process) -> None:
        self.network = network
        self.process = process

    async def connect(self, address: Address) -> tuple[SimulatedConnection, bool]:
        """Connect as `Asyncpg` does, or raise what that raises."""
        network, loop = self.network, self.network.loop
        connection = SimulatedConnection(network, self.process)
        try:
            await self._reach()
            connection.begin()
            await asyncio.sleep(network.arrival(self.process) - loop.time())
            if connection.is_closed():
                raise ConnectionResetError(104, "Connection reset by peer")
        except (OSError, _exceptions.PostgresError) as error:
            connection.terminate()
            raise cannot_connect(address, error) from error
        except BaseException:
            connection.terminate()
            raise
        is_seen = network.pooler is not None and not network.is_pooler_hidden
        return connection, address.pooler or is_seen

    async def _reach(self) -> None:
        network = self.network
        seconds = network.arrival(self.process) - network.loop.time()
        await asyncio.sleep(min(seconds, _CONNECT_SECONDS))
        if seconds > _CONNECT_SECONDS:
            raise TimeoutError
        if network.refusing or not (network.server.up or network.starting):
            raise ConnectionRefusedError(111, "Connection refused")
        if network.starting:
            raise server_error("57P03", "the database system is starting up")
        if network.full:
            raise server_error("53300", "sorry, too many clients already")


class SimulatedConnection:
    """One connection, as asyncpg has it."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._loop = network.loop
        self.process = process
        self.backend: Backend | PooledClient | None = None
        self._closed = False
        self._silent = False
        self._hung_up = False
        self._waiter: asyncio.Future[Any] | None = None
        self._listeners: list[Callable[[Any, Any], None]] = []
        self._arrived = 0.0
        self._came_back = 0.0

    def begin(self) -> None:
        """The server takes it."""
        network = self._network
        backend = network.gate.connect(self._server_hangs_up, self.process.number)
        if network.pooler is None:
            backend.warn = self._warn
        else:
            backend.warned = self._warn
        self.backend = backend
        self._network.connections.append(self)

    # -- what a store calls -------------------------------------------------------------------

    async def execute(self, query: str, *values: Any) -> str:
        """Run a statement."""
        await self._call(query, values)
        return ""

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Give its rows."""
        rows: Sequence[Any] = await self._call(query, values)
        return rows

    async def fetchrow(self, query: str, *values: Any) -> Any:
        """Give its first row."""
        rows = await self._call(query, values)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *values: Any) -> Any:
        """Give the first value of its first row."""
        rows = await self._call(query, values)
        return rows[0][0] if rows else None

    async def prepare(self, query: str, *, name: str) -> SimulatedStatement:
        """Have it planned."""
        await self._call("PREPARE", (query,))
        return SimulatedStatement(self, query)

    async def run_prepared(self, query: str, values: Sequence[Any]) -> Sequence[Any]:
        """Run what was prepared, in whichever session this is now."""
        rows: Sequence[Any] = await self._call(query, values, prepared=True)
        return rows

    def transaction(self, *, isolation: str | None = None, readonly: bool = False) -> Block:
        """Give a block."""
        assert isolation is None, "the model knows READ COMMITTED"
        assert not readonly, "the model knows no such block"
        return Block(self)

    def add_log_listener(self, callback: Callable[[Any, Any], None]) -> None:
        """Have called what the server says besides an answer."""
        self._listeners.append(callback)

    def remove_log_listener(self, callback: Callable[[Any, Any], None]) -> None:
        """Call it no more."""
        self._listeners.remove(callback)

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Refuse it: the model has no notices."""
        raise NotImplementedError(channel, callback)

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        """Refuse it likewise."""
        raise NotImplementedError(callback)

    def is_closed(self) -> bool:
        """Tell whether it is of no use any more."""
        return self._closed

    def terminate(self) -> None:
        """Close it at once."""
        if not self._closed:
            self._lose(_exceptions.ConnectionDoesNotExistError("it was closed in an operation"))
        self._hang_up()

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it in peace."""
        if not self._closed:
            async with asyncio.timeout(timeout):
                wait = (
                    3_600.0
                    if self._silent
                    else self._network.arrival(self.process) - self._loop.time()
                )
                await asyncio.sleep(wait)
        self.terminate()

    # -- a request and its reply --------------------------------------------------------------

    async def _call(self, query: str, values: Sequence[Any], *, prepared: bool = False) -> Any:
        if self._closed:
            raise _exceptions.InterfaceError("connection is closed")
        if self._waiter is not None:
            raise _exceptions.InterfaceError("another operation is in progress")
        self._waiter = waiter = self._loop.create_future()
        self._send(query, values, waiter, prepared)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._cancel()
            raise

    def _send(
        self, query: str, values: Sequence[Any], waiter: asyncio.Future[Any], prepared: bool
    ) -> None:
        network, backend = self._network, self.backend
        assert backend is not None
        if self.process.dead:
            return
        fault: Fault = "silent" if self._silent else ""
        if network.on_request is not None:
            fault = fault or network.on_request(query, self.process)
        elif not (fault or self.process.spared):
            fault = network.faults.drawn(network.random)
        arrives = max(network.arrival(self.process), self._arrived + 1e-9)
        if fault:
            network.counted(f"{fault} faults")
        if fault in {"silent", "unheard"}:
            self._fall_silent()
            if fault == "unheard" or network.random.random() < 0.5:
                return
        if fault == "late":
            self._lost_at(arrives)
            arrives += network.random.expovariate(1 / network.faults.late_seconds)
        if fault == "request":
            self._lost_at(arrives)
            self._hang_up()
            return
        self._arrived = arrives
        dumb = bool(fault)

        def answered(rows: Any, error: BaseException | None) -> None:
            if dumb or self._silent:
                if fault == "reply":
                    self._lost_at(network.arrival(self.process))
                return
            self._came_back = max(network.arrival(self.process), self._came_back + 1e-9)
            network.server.later(
                self._came_back - self._loop.time(), self._deliver, waiter, rows, error
            )

        network.server.later(
            arrives - self._loop.time(), self._receive, query, values, answered, prepared
        )

    def _receive(self, query: str, values: Sequence[Any], answered: Any, prepared: bool) -> None:
        gate = self._network.gate
        gate.receive(self.backend, query, values, answered, prepared=prepared)

    def _warn(self) -> None:
        """Bring a warning, before the answer that it belongs to."""
        if self._silent or self._hung_up:
            return
        self._came_back = max(self._network.arrival(self.process), self._came_back + 1e-9)
        self._network.counted("warnings")
        self._network.server.later(self._came_back - self._loop.time(), self._hear)

    def _hear(self) -> None:
        for listener in () if self._closed else [*self._listeners]:
            listener(self, _Warning())

    def _fall_silent(self) -> None:
        if not self._silent and self._network.faults.silent_max is not None:
            self._network.faults.silent_max -= 1
        self._silent = True

    def _deliver(self, waiter: asyncio.Future[Any], rows: Any, error: Any) -> None:
        if self._waiter is waiter:
            self._waiter = None
        if waiter.done():
            return
        if error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(rows)

    def _cancel(self) -> None:
        backend, network = self.backend, self._network
        if backend is not None and not self._closed and not self._silent:
            network.server.later(
                network.arrival(self.process) - self._loop.time(), network.gate.cancel, backend
            )

    # -- how it ends --------------------------------------------------------------------------

    def _lost_at(self, when: float) -> None:
        error = _exceptions.ConnectionDoesNotExistError("connection was closed in the middle")
        self._network.server.later(when - self._loop.time(), self._lose, error)

    def _lose(self, error: BaseException) -> None:
        """Tell the client that the line is gone."""
        if self._closed:
            return
        self._closed = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        self._hang_up()

    def _hang_up(self) -> None:
        """Tell the server, behind all that is on the way to it."""
        backend, network = self.backend, self._network
        if backend is None or self._hung_up:
            return
        self._hung_up = True
        network.connections.remove(self)
        when = max(network.arrival(self.process), self._arrived + 1e-9)
        if self._silent or self.process.lost:
            when += network.random.choice((60.0, 7_200.0))
        network.server.later(when - self._loop.time(), network.gate.end_of_file, backend)

    def process_ended(self) -> None:
        """The process is dead: its machine hangs up, if it still can."""
        self._closed = True
        self._hang_up()

    def _server_hangs_up(self, error: BaseException | None) -> None:
        if self._silent or self._hung_up:
            return
        error = error or _exceptions.ConnectionDoesNotExistError("it was closed in the middle")
        seconds = self._network.arrival(self.process) - self._loop.time()
        self._network.server.later(seconds, self._lose, error)


class SimulatedStatement:
    """A statement that was prepared."""

    def __init__(self, connection: SimulatedConnection, query: str) -> None:
        self._connection = connection
        self._query = query

    async def fetch(self, *values: Any) -> Sequence[Any]:
        """Run it; give its rows."""
        return await self._connection.run_prepared(self._query, values)

    async def fetchrow(self, *values: Any) -> Any:
        """Run it; give its first row."""
        rows = await self.fetch(*values)
        return rows[0] if rows else None


class Block:
    """A transaction that commits as it ends, or takes all back."""

    def __init__(self, connection: SimulatedConnection) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        await self._connection.execute("BEGIN")

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
