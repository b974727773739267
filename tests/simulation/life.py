"""One life of the simulated world: an engine, its clients, those who read, and those who disturb.

Rules: clients send commands with keys and without, alone and in bursts, wait for the answer or
leave, send again what they may send again, and write into the story all that they were told.
Nobody here judges, but for what can only be seen at the moment: an answer that the engine must
never give, an event that is shown twice or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import apsw
import msgspec

from engine.engine import Engine
from engine.errors import (
    Closed,
    Conflict,
    DeadlinePassed,
    HandlerFailed,
    KeyReused,
    NotRun,
    OutcomeUnknown,
    ProjectionLag,
    Rejected,
    StoreFailed,
    WrongVersion,
)
from engine.limits import Limits
from engine.model.messages import Receipt
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.loop import SimulatedLoop
from engine.testing.simulation.machine import simulated_ports

from .domain import (
    OPERATION,
    Brittle,
    Cell,
    Cells,
    FindCells,
    GetCell,
    GetCount,
    GetJourney,
    Hang,
    Put,
    Puts,
    Slowly,
    Spoil,
    Take,
    cell_class,
    find_cells,
    get_cell,
    get_count,
    get_journey,
)
from .looking import Readers
from .others import Others
from .steward import Steward
from .story import Operation, Seen, Sending, Story
from .swarm import Ending
from .tallies import Tallies, tallies_class

__all__ = ["Life"]

_SILENT = logging.Logger("simulation", logging.CRITICAL + 1)


class _Unruly(logging.Logger):
    """A host's logger that fails on every line."""

    def log(self, *_: object, **__: object) -> None:
        """Raise: what is told otherwise then asks for the time, and is dropped by the fence."""
        raise OSError("no line can be logged")


_UNRULY = _Unruly("unruly", logging.DEBUG)
_SEEDS_PER_UNRULY_LOGGER = 4
_BEFORE_A_COMMIT = frozenset(
    ("store.began", "store.inserted", "views.inserted", "views.checkpointed", "views.swapping")
)


class Life:
    """One life; `main` is what its process runs."""

    def __init__(
        self,
        story: Story,
        disk: Disk,
        random: Random,
        loop: SimulatedLoop,
        limits: Limits,
        ending: Ending | None,
    ) -> None:
        self._story = story
        self._swarm = story.swarm
        self._disk = disk
        self._random = random
        self._loop = loop
        self._ending = ending
        self.quiet = ending is None
        """Whether nothing is to go wrong in it any more."""
        self._limits = msgspec.structs.replace(limits, parked_events=10_000)
        if not self.quiet:
            self._limits = limits
        self._cell = cell_class(self._swarm.key_window, self._swarm.snapshot_every)
        self._open: dict[int, Operation] = {}
        self._decided_at: dict[int, float] = {}
        """By operation, when its handler began last, or returned, in the loop's seconds."""
        self._others = Others(story, random, loop)
        self._readers = Readers(story, random, self._cell)
        self._steward = Steward(story, random, loop)
        self._headers: dict[str, str] = {}
        """Filled by each call anew, while what was sent before is still under way."""
        self._batches_after_a_failed_sync = 0
        self._disturbers: list[asyncio.Task[None]] = []
        self._steward_at_work: asyncio.Task[None] | None = None
        self._calm = False
        """Whether the disk has ceased to fail."""
        self._leaving = 0
        """The moment at which the host began to leave; 0 before."""
        self.on_call: Callable[[asyncio.Task[None]], None] | None = None
        """Called with the task of each call, as it is made."""

    def where(self) -> str:
        """Say who waits, where that is worth saying."""
        names = [f"{o.number} {type(o.command).__name__}" for o in self._open.values()]
        return f"open operations: {names}"

    def _engine(self) -> Engine:
        loop, random = self._loop, self._random
        tallies, tally_answers = self._tallies()
        seconds = 0.001 if self.quiet else self._swarm.disk_seconds
        return Engine(
            [self._cell],
            projections=[Cells, Puts, Brittle, *tallies],
            answers=[get_cell, find_cells, get_journey, get_count, *tally_answers],
            store=f"sqlite:{self._disk.folder / 'log.db'}",
            rebuild="auto",
            limits=self._limits,
            logger=_SILENT if self._story.seed % _SEEDS_PER_UNRULY_LOGGER else _UNRULY,
            ports=simulated_ports(
                self._disk,
                loop,
                random,
                seconds=seconds,
                failpoint=None if self.quiet else self._failpoint,
            ),
        )

    def _tallies(self) -> tuple[list[type[Tallies]], list[Callable[..., Any]]]:
        """Give the tallies of this life, and what answers queries of them."""
        swarm = self._swarm
        if not swarm.tally_versions:
            return [], []
        Tallies.ailing = swarm.ailing
        projection, answers = tallies_class(
            *swarm.tallies_of(self._story.lives), swarm.tally_policy, swarm.tally_lanes
        )
        return [projection], answers

    def _failpoint(self, name: str) -> None:
        if name == "journal.gathered" and self._disk.failed_sync:
            self._batches_after_a_failed_sync += 1
            if self._batches_after_a_failed_sync > 1:
                self._problem(f"P6: the engine goes on after {self._disk.failed_sync}")
        chance = 0.0 if self._calm else self._swarm.step_failures
        if chance and name in _BEFORE_A_COMMIT and self._random.random() < chance:
            raise apsw.FullError("it fails once, before the commit")
        if self._ending in ("crash", "kill") and self._random.random() < self._swarm.step_crashes:
            self._disk.power_off()

    async def main(self) -> None:
        """Live, and end as it was said."""
        engine = self._engine()
        clients: list[asyncio.Task[None]] = []
        follower: list[asyncio.Task[None]] = []
        Cell.watch = self._decides
        self._loop.on_task = self._others.sabotage if self._swarm.sabotage else None
        try:
            async with engine:
                follower += [asyncio.ensure_future(self._others.follow(engine))]
                if self._swarm.tally_versions and self._swarm.steward:
                    deeds = self._random.choice((0, 10)) if self.quiet else 60
                    self._steward_at_work = asyncio.ensure_future(self._steward.work(engine, deeds))
                    follower.append(self._steward_at_work)
                self._disturbers = [
                    asyncio.ensure_future(work) for work in self._disturbing(engine)
                ]
                numbers = sorted({operation.client for operation in self._story.operations})
                clients += [asyncio.ensure_future(self._client(engine, n)) for n in numbers]
                try:
                    await self._stay(engine, clients)
                finally:
                    self._leaving = self._story.tick()
                    self._leave_in_peace()
            if engine.failed is not None:
                self._problem(f"P13: the engine failed with {engine.failed!r} and ended in silence")
        finally:
            for tasks in (clients, follower):
                if tasks:
                    await asyncio.wait(tasks)
            if not self._disk.failed and self._leaving:
                self._check_drained()
            if engine.failed is not None and not self._disk.failed and not self._swarm.flipped:
                self._problem(f"P13: the engine failed with {engine.failed!r}")
        for task in (*clients, *follower):
            task.result()

    def _leave_in_peace(self) -> None:
        for disturber in self._disturbers:
            disturber.cancel()

    def _disturbing(self, engine: Engine) -> list[Coroutine[Any, Any, None]]:
        others: list[Coroutine[Any, Any, None]] = [self._others.monitor(engine, self._limits)]
        if self.quiet:
            return others
        if self._swarm.rivals:
            others.append(self._others.rival(engine))
        if self._random.random() < 0.5:
            others.append(self._others.resume_projections(engine))
        return others

    def _decides(self, number: int) -> None:
        """Take note of a handler that begins, and of the time, by which its deadline is checked."""
        if number > 0:
            self._story.decided.setdefault(number, []).append(self._story.tick())
        self._decided_at[abs(number)] = self._loop.time()

    async def _stay(self, engine: Engine, clients: list[asyncio.Task[None]]) -> None:
        if self._ending == "cancel":
            self._be_cancelled()
            await asyncio.wait(clients)
            await asyncio.sleep(3_600)  # if all was done before
        elif self._ending == "close":
            await asyncio.wait(clients, timeout=self._random.expovariate(1 / 0.1))
            if self._random.random() < 0.5:
                await self._calm_down(engine)
        elif self.quiet:
            mending = asyncio.ensure_future(self._mend_while_it_runs(engine))
            await asyncio.wait(clients)
            await self._collect(engine)
            await mending
        else:
            await asyncio.wait(clients)

    async def _mend_while_it_runs(self, engine: Engine) -> None:
        """Mend the brittle projection, and resume it, at any moment."""
        if self._swarm.mended:
            await asyncio.sleep(self._random.expovariate(1 / 0.02))
            Brittle.mended = True
            with contextlib.suppress(Closed):
                await engine.projections.resume("brittle")

    async def _calm_down(self, engine: Engine) -> None:
        """Let nothing fail any more: then whatever has stopped can be resumed, and catches up."""
        self._disk.write_failures = self._disk.sync_failures = 0.0
        self._calm = True
        self._leave_in_peace()
        await asyncio.sleep(60)  # until nobody is left who is to be told of a failure
        with contextlib.suppress(Closed):
            for name in ("cells", "puts"):
                await engine.projections.resume(name)
            position = engine.statistics().position
            try:
                for query in (GetCell(""), GetJourney(0)):
                    await engine.query(query, at=position, timeout=600)
                if self._steward_at_work is not None:
                    await asyncio.wait([self._steward_at_work])
                    await self._steward.calm_down(engine, position)
            except (ProjectionLag, StoreFailed) as error:
                synced = not any(call.startswith("sync") for call in self._disk.failed)
                if engine.failed is None and synced:
                    self._problem(f"P9: nothing fails any more, and {error!r}")

    def _be_cancelled(self) -> None:
        """Let the host be cancelled, once or again and again."""
        task = asyncio.current_task()
        assert task is not None
        steps = int(self._random.expovariate(1 / 800)) + 1
        for _ in range(self._random.choice((1, 1, 2, 5))):
            self._loop.after_steps(steps, task.cancel)
            steps += self._random.randrange(1, 30)

    def _check_drained(self) -> None:
        """What was accepted before the host left is run, and not refused."""
        for operation in self._story.operations:
            for sending in operation.sendings:
                if (
                    sending.life == self._story.lives
                    and sending.begun < self._leaving
                    and isinstance(sending.answer, Closed)
                ):
                    self._problem(f"P13: operation {operation.number} was accepted and not drained")

    def _problem(self, text: str) -> None:
        self._story.problems.append(text)

    # -- clients ------------------------------------------------------------------------------

    async def _client(self, engine: Engine, client: int) -> None:
        waiting: list[asyncio.Task[None]] = []
        for operation in self._story.operations:
            if operation.client != client or not self._may_send(operation):
                continue
            waiting.append(asyncio.ensure_future(self._operate(engine, operation)))
            if len(waiting) >= self._swarm.burst:
                await asyncio.wait(waiting)
                [task.result() for task in waiting]
                waiting.clear()
                if self._random.random() < 0.5:
                    await asyncio.sleep(self._random.expovariate(1 / 0.01))
        if waiting:
            await asyncio.wait(waiting)
            [task.result() for task in waiting]

    def _may_send(self, operation: Operation) -> bool:
        """Send what was not sent, what certainly was not run, and with its key anything again."""
        if not operation.sendings:
            return True
        if isinstance(operation.sendings[-1].answer, Rejected | WrongVersion):
            return False
        if isinstance(operation.command, Hang | Spoil):
            return False
        if operation.key is None:
            return not operation.in_doubt and not operation.receipts
        return not operation.receipts or self._random.random() < self._swarm.repeated

    async def _operate(self, engine: Engine, operation: Operation) -> None:
        for _ in range(4):
            if not await self._call(engine, operation):
                return
            await asyncio.sleep(self._random.choice((0.0, 0.005)))

    async def _call(self, engine: Engine, operation: Operation) -> bool:
        """Send once, in a task that may be cancelled; give whether to send again."""
        sending = Sending(0, self._story.lives)
        task = asyncio.ensure_future(self._send(engine, operation, sending))
        if self.on_call is not None:
            self.on_call(task)
        elif not self.quiet and self._random.random() < self._swarm.cancelled:
            self._loop.after_steps(int(self._random.expovariate(1 / 20)), task.cancel)
        await asyncio.wait([task])
        self._open.pop(operation.number, None)
        if task.cancelled():
            self._story.answers["given up"] += 1
            sending.left = self._story.tick()
            return operation.key is not None and self._random.random() < 0.7
        task.result()
        return self._wants_again(operation, sending)

    async def _send(self, engine: Engine, operation: Operation, sending: Sending) -> None:
        seconds = (0.003, 0.01, 0.5)
        wanted = self._random.random() < self._swarm.deadlines
        deadline = self._random.choice(seconds) if wanted and not self.quiet else None
        sending.begun = self._story.tick()
        began = self._loop.time()
        operation.sendings.append(sending)
        self._open[operation.number] = operation
        self._headers[OPERATION] = str(operation.number)
        try:
            answer: Any = await engine.execute(
                operation.command,
                key=operation.key,
                expected=operation.expected,
                headers=self._headers,
                deadline=deadline,
            )
        except (Rejected, NotRun) as error:
            answer = error
        except OutcomeUnknown:
            self._story.answers["OutcomeUnknown"] += 1
            return
        except KeyReused as error:
            self._problem(f"P8: operation {operation.number} is told {error}")
            return
        self._story.answers[type(answer).__name__] += 1
        sending.ended = self._story.tick()
        sending.answer = answer
        self._check_answer(operation, answer, deadline, self._loop.time() - began)
        if isinstance(answer, Receipt) and self._random.random() < 0.3:
            await self._readers.look(engine, operation, answer)
            await self._reuse_key(engine, operation, answer)

    def _check_answer(
        self, operation: Operation, answer: Any, deadline: float | None, seconds: float
    ) -> None:
        if isinstance(answer, HandlerFailed):
            cause = answer.__cause__
            stopped = isinstance(cause, asyncio.CancelledError) and self._swarm.sabotage
            if isinstance(operation.command, Put | Take | Slowly) and not stopped:
                self._problem(f"P5: a handler failed that cannot: {cause!r}")
        if isinstance(answer, Conflict) and not self._swarm.rivals:
            self._problem(f"P6: nobody else writes, and operation {operation.number} gets {answer}")
        passed = isinstance(answer, DeadlinePassed)
        if passed and deadline is None and not isinstance(operation.command, Hang):
            self._problem(f"P6: operation {operation.number} has no deadline, and is told {answer}")
        if deadline is None:
            return
        if passed and seconds > deadline + 0.001 and not self._swarm.blocking_handlers:
            self._problem(
                f"P6: operation {operation.number} has a deadline of {deadline} s, and is told "
                f"after {seconds:.3f} s that it passed"
            )
        decided = self._decided_at.get(operation.number, 0.0) - (self._loop.time() - seconds)
        if isinstance(answer, Receipt) and len(operation.sendings) == 1 and decided > deadline:
            self._problem(
                f"P6: operation {operation.number} has a deadline of {deadline} s, and was decided "
                f"after {decided:.3f} s"
            )

    def _wants_again(self, operation: Operation, sending: Sending) -> bool:
        answer = sending.answer
        if answer is None:
            return False
        if isinstance(answer, Receipt):
            return operation.key is not None and self._random.random() < self._swarm.repeated
        final = Rejected | HandlerFailed | Closed | WrongVersion
        return not isinstance(answer, final)

    async def _reuse_key(self, engine: Engine, operation: Operation, receipt: Receipt) -> None:
        """Send another command with a key that counts: it must be refused."""
        if operation.key is None or not receipt.version or self._swarm.key_window < 1_000:
            return
        if isinstance(operation.command, Take) and not operation.command.amount:
            return  # what wrote nothing leaves no key
        other = Put(operation.command.cell_id, 0, 1)
        with contextlib.suppress(KeyReused, NotRun, OutcomeUnknown):
            got = await engine.execute(other, key=operation.key)
            self._problem(f"P8: the key of operation {operation.number} gave another one {got}")

    # -- the end ------------------------------------------------------------------------------

    async def _collect(self, engine: Engine) -> None:
        """Write down what the log, the views and the actors say in the end."""
        story = self._story
        story.log = [logged async for logged in engine.feed()]
        for logged in story.log:
            self._others.saw(logged)
        position = engine.statistics().position
        if not self._swarm.flipped:  # a follower may have met the damage, and have ended
            while self._others.followed < position:
                await asyncio.sleep(0.1)
        await self._collect_brittle(engine, position)
        if self._swarm.tally_versions:
            await self._collect_tallies(engine, position)
        for cell in sorted({logged.meta.id for logged in story.log}):
            row = await engine.query(GetCell(cell), at=position, timeout=600)
            story.cells[cell] = row
            if row is not None:
                story.found[row.words] = await engine.query(FindCells(row.words))
            story.counts[cell] = await engine.query(GetCount(cell))
            begun = story.tick()
            try:
                await engine.execute(Take(cell, 0, 10**9))
            except Rejected as rejected:
                total, version = rejected.details["total"], rejected.details["version"]
                story.seen.append(Seen("actor", cell, begun, story.tick(), version, total))
            state: Any = await engine.state(self._cell, cell)
            seen = Seen("state", cell, begun, story.tick(), state.version, state.total)
            story.seen.append(seen)
        for number in (0, *(operation.number for operation in story.operations)):
            query = GetJourney(number)
            story.journeys[number] = await engine.query(query, at=position, timeout=600)

    async def _collect_tallies(self, engine: Engine, position: int) -> None:
        if self._steward_at_work is not None:
            await asyncio.wait([self._steward_at_work])
        await self._steward.settle(engine, position)

    async def _collect_brittle(self, engine: Engine, position: int) -> None:
        if self._swarm.mended:
            # It may have stopped between its mending and its resuming.
            await asyncio.sleep(5)
            await engine.projections.resume("brittle")
        with contextlib.suppress(ProjectionLag):
            await engine.query(GetCount(""), at=position, timeout=600)
        failure = engine.statistics().projectors["brittle"].failure
        if failure is not None:
            self._story.brittle_stopped_at = failure.position
