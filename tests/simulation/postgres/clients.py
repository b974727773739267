"""The clients of one engine over the modelled server, and the life of the engine itself.

Rules: clients write into the story all that they were told, send again what they may send again,
and judge only what must never be said. An operation of a process that is dead or overtaken is
another one's to send, if it has a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from random import Random
from typing import Any, Final

from engine.engine import Engine
from engine.errors import (
    Conflict,
    EngineError,
    HandlerFailed,
    KeyReused,
    NotRun,
    OutcomeUnknown,
    Rejected,
    StoreFailed,
    WrongVersion,
)
from engine.limits import Limits
from engine.model.messages import Receipt
from engine.runtime.ports import SHARED_FAILPOINTS, Ports
from engine.stores.contract.log import Head
from engine.stores.postgres.address import Address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.simulation.machine import SimulatedClock, SimulatedIds, SimulatedWorkers
from tests.simulation.domain import OPERATION, Slowly, cell_class
from tests.simulation.story import Operation, Seen, Sending, Story

from .network import Network, SimulatedDriver
from .process import Process, ProcessesLoop
from .troubles import Troubles

__all__ = ["FINAL", "Life"]

_SILENT: Final = logging.Logger("simulation", logging.CRITICAL + 1)
FINAL: Final = (Rejected, HandlerFailed, WrongVersion)
"""Answers after which nothing is sent again."""


class Life:
    """One engine in one process."""

    def __init__(
        self,
        story: Story,
        troubles: Troubles,
        network: Network,
        process: Process,
        address: Address,
        *,
        quiet: bool = False,
    ) -> None:
        self._story = story
        self._troubles = troubles
        self._network = network
        self._random: Random = network.random
        self._loop: ProcessesLoop = process.loop
        self.process = process
        self.quiet = quiet
        self.store = PostgresStore(address, logger=_SILENT)
        self.leaves = asyncio.Event()
        """Set when its host is to close it."""
        self.stays = False
        """Whether it sends nothing, and stays until it is to leave."""
        self.opened = False
        self.error: BaseException | None = None
        """With what it ended."""
        self.cell = cell_class(story.swarm.key_window, story.swarm.snapshot_every)

    @property
    def head(self) -> Head | None:
        """The end of the log as its store was told last, as a god sees it."""
        writer = self.store._writer  # pyright: ignore[reportPrivateUsage]
        return None if writer is None else writer.head

    @property
    def position(self) -> int:
        """The position of that; 0 before the log is open."""
        return 0 if self.head is None else self.head.position

    async def main(self) -> None:
        """Live, and end."""
        try:
            async with self.make_engine() as engine:
                self.opened = True
                self.process.spared = False
                await self.stay(engine)
        except EngineError as error:
            self.error = error

    def make_engine(self) -> Engine:
        """Give the engine that lives."""
        loop, random = self._loop, self._random
        return Engine(
            [self.cell],
            store=self.store,
            views="memory:",
            limits=Limits(handler_seconds=5),
            logger=_SILENT,
            ports=Ports(
                clock=SimulatedClock(loop, random),
                ids=SimulatedIds(random),
                workers=SimulatedWorkers(loop, random),
                database=SimulatedDriver(self._network, self.process),
                watcher=None,
                stopwatch=loop.time,
                failpoint=None if self.quiet else self.failpoint,
            ),
        )

    def failpoint(self, name: str) -> None:
        """Die at a step, by chance; steps between processes are messages, which have their own."""
        if name not in SHARED_FAILPOINTS and self._random.random() < self._troubles.step_kills:
            self.kill()

    def kill(self, *, lost: bool = False) -> None:
        """End its process, or its machine."""
        self.process.kill(lost=lost)
        for connection in [c for c in self._network.connections if c.process is self.process]:
            connection.process_ended()

    async def stay(self, engine: Engine) -> None:
        """Let clients send, until all is done or it is to leave."""
        if self.stays:
            await self.leaves.wait()
            return
        clients = [
            asyncio.ensure_future(self._client(engine, number))
            for number in range(self._story.swarm.clients)
        ]
        leaving = asyncio.ensure_future(self.leaves.wait())
        done = asyncio.gather(*clients)
        try:
            waits: list[asyncio.Future[Any]] = [done, leaving]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                done.result()
                if self.quiet:
                    await self.collect(engine)
        finally:
            leaving.cancel()
            if not done.done():
                await asyncio.wait([done])

    # -- clients ------------------------------------------------------------------------------

    async def _client(self, engine: Engine, client: int) -> None:
        waiting: list[asyncio.Task[None]] = []
        for operation in self._story.operations:
            if operation.client != client or not self._may_send(operation):
                continue
            if self.leaves.is_set() or engine.failed is not None:
                break
            waiting.append(asyncio.ensure_future(self.operate(engine, operation)))
            if len(waiting) >= self._story.swarm.burst:
                await self._all(waiting)
                if not self.quiet:
                    seconds = self._troubles.thinking_seconds
                    await asyncio.sleep(self._random.expovariate(1 / seconds))
        await self._all(waiting)

    async def _all(self, tasks: list[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()
            tasks.clear()

    def _may_send(self, operation: Operation) -> bool:
        if not operation.sendings:
            return True
        if isinstance(operation.sendings[-1].answer, Rejected | WrongVersion):
            return False
        if operation.key is None:
            return not operation.in_doubt and not operation.receipts
        return not operation.receipts or self._random.random() < self._story.swarm.repeated

    async def operate(self, engine: Engine, operation: Operation) -> None:
        """Send a command, and again where that is allowed and wanted."""
        for _ in range(3):
            if operation.key is None and not self._may_send(operation):
                return  # another engine's client has sent it meanwhile
            sending = Sending(self._story.tick(), self.process.number)
            operation.sendings.append(sending)
            task = asyncio.ensure_future(self._send(engine, operation, sending))
            if not self.quiet and self._random.random() < self._troubles.cancelled:
                self._loop.after_steps(int(self._random.expovariate(1 / 20)), task.cancel)
            await asyncio.wait([task])
            if task.cancelled():
                self._story.answers["given up"] += 1
                return
            task.result()
            if sending.answer is None or not self._wants_again(operation, sending):
                return
            await asyncio.sleep(self._random.choice((0.0, 0.005, 1.0)))

    def _wants_again(self, operation: Operation, sending: Sending) -> bool:
        if isinstance(sending.answer, Receipt):
            return operation.key is not None and self._random.random() < self._story.swarm.repeated
        return not isinstance(sending.answer, FINAL)

    async def _send(self, engine: Engine, operation: Operation, sending: Sending) -> None:
        sending.begun = self._story.tick()
        try:
            answer: Any = await self.execute(
                engine,
                operation,
                key=operation.key,
                headers={OPERATION: str(operation.number)},
            )
        except (Rejected, NotRun) as error:
            answer = error
        except OutcomeUnknown as error:
            self._story.answers["OutcomeUnknown"] += 1
            self._refused(operation, error)
            return
        except KeyReused as error:
            self._problem(f"P8: operation {operation.number} is told {error}")
            return
        self._story.answers[type(answer).__name__] += 1
        sending.ended = self._story.tick()
        sending.answer = answer
        if isinstance(answer, NotRun) and not isinstance(answer, FINAL):
            self._refused(operation, answer)
        if isinstance(answer, HandlerFailed) and not isinstance(operation.command, Slowly):
            self._problem(f"P5: a handler failed that cannot: {answer.__cause__!r}")
        if isinstance(answer, Receipt) and self._random.random() < 0.2:
            await self._look(engine, operation)

    async def execute(self, engine: Engine, operation: Operation, **more: Any) -> Receipt:
        """Have an operation's command run."""
        return await engine.execute(operation.command, expected=operation.expected, **more)

    def _refused(self, operation: Operation, error: BaseException) -> None:
        """What nobody may be told where the server is back within the patience."""
        if isinstance(error, Conflict) and self._troubles.engines == 1:
            self._problem(f"P6: nobody else writes, and operation {operation.number} gets {error}")
        if (self._troubles.is_gentle or self.quiet) and not self.leaves.is_set():
            self._problem(
                f"P13: the server was back in time, and operation {operation.number} gets "
                f"{error!r}, from {error.__cause__!r}"
            )

    async def _look(self, engine: Engine, operation: Operation) -> None:
        cell = operation.command.cell_id
        begun = self._story.tick()
        with contextlib.suppress(NotRun, StoreFailed):
            state: Any = await engine.state(self.cell, cell)
            seen = Seen("state", cell, begun, self._story.tick(), state.version, state.total)
            self._story.seen.append(seen)

    def _problem(self, text: str) -> None:
        self._story.problems.append(text)

    # -- the end ------------------------------------------------------------------------------

    async def collect(self, engine: Engine) -> None:
        """Read the log and every cell."""
        story = self._story
        story.log = [logged async for logged in engine.feed()]
        for cell in sorted({logged.meta.id for logged in story.log}):
            begun = story.tick()
            state: Any = await engine.state(self.cell, cell)
            seen = Seen("state", cell, begun, story.tick(), state.version, state.total)
            story.seen.append(seen)
