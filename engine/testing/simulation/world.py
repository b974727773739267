"""One seed: several lives of one engine, ended by loss of power, and a quiet life that must finish.

Rules: everything that happens comes from the seed. Clients send commands with keys and without,
wait for the answer or leave, send again what they may send again, and remember all that they were
told. A follower remembers every event that it was shown. What they know is judged by `checker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ...engine import Engine
from ...errors import (
    Closed,
    EngineError,
    EngineFailed,
    HandlerFailed,
    NotRun,
    OutcomeUnknown,
    ProjectionLag,
    Rejected,
    StoreFailed,
    StoreRefused,
)
from ...limits import Limits
from ...messages import Receipt
from ...ports import Ports
from ...stores.contract import AppendRequest, Batch, EventData, StreamRead, Write
from .disk import Disk, SimulatedFiles, SimulatedWorkers
from .domain import Cell, Cells, GetCell, Hang, Put, Puts, Slowly, Spoil, Take, Was, get_cell
from .loop import DeadLock, SimulatedLoop, ordered_scopes

__all__ = ["Operation", "Story", "run_seed"]

STEPS_MAX = 200_000
CELLS = 6


class Operation(msgspec.Struct):
    """One command, and all that its client was told about it."""

    number: int
    client: int
    command: Any
    key: str | None
    expected: int | None = None
    sent: int = 0
    """How often it was sent."""
    doubt: bool = False
    """Whether a sending of it ended without an answer, or in an unknown outcome."""
    receipts: list[Receipt] = []
    rejections: list[Rejected] = []
    not_run: int = 0
    begun: int = 0
    """The order in which it was first sent, over all clients."""
    ended: int = 0
    """The order in which its first receipt came; 0 for none."""


class Story(msgspec.Struct):
    """What a seed left behind."""

    seed: int
    operations: list[Operation]
    seen: dict[int, tuple[str, int, str]]
    """By position: stream, version and event, as any follower was shown it."""
    problems: list[str]
    answers: Counter[str]
    """How often each kind of answer was given."""
    failures: int = 0
    """Operations of the disk that failed."""
    strangers: int = 0
    """Events that somebody else tried to write."""
    lives: int = 0
    crashes: int = 0
    steps: int = 0
    digest: str = ""
    log: list[Any] = []
    rows: dict[str, Any] = {}
    counts: dict[int, int] = {}
    states: dict[str, Any] = {}


class _Clock:
    """Wall time that jumps, and a monotonic one that does not."""

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self._loop = loop
        self._random = random

    def now(self) -> int:
        jump = self._random.choice((0, 0, 0, 0, -3_600, 3_600))
        return 1_700_000_000_000_000 + int((self._loop.time() + jump) * 1e6)

    def monotonic(self) -> float:
        return self._loop.time()


class _Ids:
    def __init__(self, random: Random) -> None:
        self._random = random

    def new_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def run_seed(seed: int) -> Story:
    """Live through a seed; give its story, not judged yet."""
    with ordered_scopes():
        return _run_seed(seed)


def _run_seed(seed: int) -> Story:
    random = Random(seed)  # noqa: S311 - reproducible on purpose
    story = Story(seed, _operations(random), {}, [], Counter())
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_ram()))
    disk = Disk(folder / "disk", random)
    logging.getLogger("foldline").setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        lives = random.choice((1, 1, 2, 2, 3))
        for life in range(lives + 1):
            _live(story, disk, random, quiet=life == lives)
            if story.problems:
                break
            if life < lives:
                disk.restart()
    finally:
        story.failures = disk.failed
        disk.dead = True
        for connection in disk.connections:
            with contextlib.suppress(Exception):
                connection.close(True)
        disk.vfs.unregister()
        shutil.rmtree(folder, ignore_errors=True)
        gc.enable()
    return story


def _ram() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a RAM disk


def _operations(random: Random) -> list[Operation]:
    count, clients = random.randrange(5, 60), random.randrange(1, 5)
    hot = random.random() < 0.3
    operations: list[Operation] = []
    for number in range(1, count + 1):
        cell = "hot" if hot and random.random() < 0.8 else f"c{random.randrange(CELLS)}"
        kind, amount = random.random(), random.randrange(1, 20)
        command: Any
        if kind < 0.55:
            command = Put(cell, number, amount, random.choice((1, 1, 1, 2, 5)))
        elif kind < 0.8:
            command = Take(cell, number, random.choice((0, amount, amount, 40)))
        elif kind < 0.9:
            command = Slowly(cell, number, amount, random.random() * 0.02)
        elif kind < 0.96:
            command = Spoil(cell, number)
        else:
            command = Hang(cell, number)
        key = f"k{number}" if random.random() < 0.7 else None
        expected = random.randrange(4) if random.random() < 0.1 else None
        operations.append(Operation(number, random.randrange(clients), command, key, expected))
    return operations


def _live(story: Story, disk: Disk, random: Random, *, quiet: bool) -> None:
    loop = SimulatedLoop(random, STEPS_MAX)
    disk.on_crash = loop.crash
    if not quiet:
        disk.crash_at = random.randrange(1, random.choice((30, 150, 600)))
        if random.random() < 0.3:
            disk.fail_at = random.randrange(1, 150)
    story.lives += 1
    life = _Life(story, disk, random, loop, quiet)
    asyncio.events._set_running_loop(None)
    task = loop.create_task(life.main())
    task.add_done_callback(lambda _: loop.stop())
    try:
        loop.run_forever()
    except DeadLock as error:
        story.problems.append(f"dead-lock in life {story.lives}: {error}; {life.where()}")
    story.steps += loop.steps
    story.digest += loop.digest
    story.crashes += loop.dead
    if not loop.dead and not story.problems:
        _look_at_end(story, task, loop, quiet)
    if not quiet:
        disk.power_off()
    _bury(loop)


def _look_at_end(story: Story, task: Any, loop: SimulatedLoop, quiet: bool) -> None:
    error = task.exception() if task.done() and not task.cancelled() else None
    if not quiet and isinstance(error, EngineFailed | StoreFailed | StoreRefused):
        return  # the disk failed, and the engine stopped for it
    if error is not None:
        story.problems.append(f"life {story.lives} ended with {error!r}")
    story.problems += [f"an error that nobody saw: {e!r}" for e in loop.errors]


def _bury(loop: SimulatedLoop) -> None:
    """Let no `finally` of a dead process speak."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop._ready.clear()  # type: ignore[attr-defined]
    loop._scheduled.clear()  # type: ignore[attr-defined]
    loop._closed = True  # type: ignore[attr-defined]
    GRAVES.append(loop)


GRAVES: list[Any] = []
"""Dead processes, kept until their seed is over: freeing them runs what they had in `finally`."""


class _Life:
    """One life: an engine, its clients, a follower."""

    def __init__(
        self, story: Story, disk: Disk, random: Random, loop: SimulatedLoop, quiet: bool
    ) -> None:
        self._story = story
        self._disk = disk
        self._random = random
        self._loop = loop
        self._quiet = quiet
        self._open: set[int] = set()
        self._order = max((max(o.begun, o.ended) for o in story.operations), default=0)

    def where(self) -> str:
        """Say who waits, where that is worth saying."""
        return f"open: {sorted(self._open)}"

    def _ports(self) -> Ports:
        loop, random = self._loop, self._random
        return Ports(
            clock=_Clock(loop, random),
            ids=_Ids(random),
            workers=SimulatedWorkers(loop, random),
            files=SimulatedFiles(self._disk),
            watcher=None,
            stopwatch=loop.time,
            failpoint=None if self._quiet else self._failpoint,
        )

    def _failpoint(self, _: str) -> None:
        if self._random.random() < 0.002:
            self._disk.power_off()

    def _limits(self) -> Limits:
        random = self._random
        if random.random() < 0.4:
            return Limits(handler_seconds=5)
        return Limits(
            resident_aggregates=random.choice((2, 4, 100)),
            mailbox_commands=random.choice((2, 64)),
            batch_events=random.choice((5, 16, 100)),
            command_events=5,
            turn_commands=random.choice((1, 4, 256)),
            actor_commands=1,
            page_events=random.choice((2, 10, 1_000)),
            bus_events=random.choice((1, 8, 1_000)),
            projector_events=random.choice((1, 7, 1_000)),
            projector_rows=random.choice((1, 20_000)),
            loads_at_once=random.choice((1, 256)),
            idle_seconds=1,
            handler_seconds=5,
        )

    async def main(self) -> None:
        engine = Engine(
            [Cell],
            projections=[Cells, Puts],
            answers=[get_cell],
            store=f"sqlite:{self._disk.folder / 'log.db'}",
            limits=self._limits(),
            ports=self._ports(),
        )
        async with engine:
            following = asyncio.ensure_future(self._follow(engine))
            stranger = asyncio.ensure_future(self._be_a_stranger(engine))
            clients = {operation.client for operation in self._story.operations}
            await asyncio.gather(*(self._client(engine, client) for client in sorted(clients)))
            if self._quiet:
                await self._collect(engine)
            for task in (following, stranger):
                task.cancel()
            await asyncio.wait([following])
            await asyncio.wait([stranger])

    async def _follow(self, engine: Engine) -> None:
        after = self._random.choice((0, engine.statistics().position))
        async with contextlib.aclosing(engine.feed(after, follow=True)) as feed:
            async for logged in feed:
                self._saw(logged)

    async def _be_a_stranger(self, engine: Engine) -> None:
        """Write to streams behind the engine's back, as a second engine would."""
        store: Any = engine._store  # pyright: ignore[reportPrivateUsage]
        while not self._quiet and self._random.random() < 0.7:
            await asyncio.sleep(self._random.expovariate(1 / 0.02))
            command = self._random.choice(self._story.operations).command
            stream = f"cell:{command.cell_id}"
            [page] = await store.read_streams(
                [StreamRead(stream)], events_max=10_000, bytes_max=1 << 30
            )
            self._story.strangers += 1
            event = Was(-self._story.strangers, 3, 0, 1)
            kind = engine.registry.type_of(Was)
            data = EventData(kind, engine.registry.encode(event))
            write = Write(stream, len(page.events), [data])
            with contextlib.suppress(EngineError):
                await store.append(Batch([AppendRequest([write])], 0))

    def _saw(self, logged: Any) -> None:
        meta = logged.meta
        shown = (meta.stream, meta.version, repr(logged.event))
        before = self._story.seen.setdefault(meta.position, shown)
        if before != shown:
            self._story.problems.append(f"position {meta.position} was {before} and is {shown}")

    # -- clients ----------------------------------------------------------------------------

    async def _client(self, engine: Engine, client: int) -> None:
        for operation in self._story.operations:
            if operation.client != client or not self._may_send(operation):
                continue
            await self._operate(engine, operation)
            if self._random.random() < 0.5:
                await asyncio.sleep(self._random.expovariate(1 / 0.01))

    def _may_send(self, operation: Operation) -> bool:
        """Send what was not sent, what certainly was not run, and with its key anything again."""
        if not operation.sent:
            return True
        if operation.rejections or isinstance(operation.command, Hang | Spoil):
            return False
        if operation.key is None:
            return not operation.doubt and not operation.receipts
        return not operation.receipts or self._random.random() < 0.3

    async def _operate(self, engine: Engine, operation: Operation) -> None:
        for _ in range(4):
            self._order += 1
            operation.begun = operation.begun or self._order
            operation.sent += 1
            self._open.add(operation.number)
            before = operation.doubt
            operation.doubt = True  # until an answer comes; a crash leaves it so
            again = await self._send(engine, operation, before)
            self._open.discard(operation.number)
            if not again:
                return
            await asyncio.sleep(0.005)

    async def _send(self, engine: Engine, operation: Operation, before: bool) -> bool:
        """Send once; give whether to send again."""
        random = self._random
        deadline = random.choice((None, None, None, 0.01, 0.5))
        call = engine.execute(
            operation.command,
            key=operation.key,
            expected=operation.expected,
            deadline=deadline,
        )
        try:
            if not self._quiet and random.random() < 0.1:
                receipt = await asyncio.wait_for(call, random.expovariate(1 / 0.004))
            else:
                receipt = await call
        except TimeoutError:
            self._story.answers["given up"] += 1
            return operation.key is not None
        except Rejected as rejected:
            self._story.answers["Rejected"] += 1
            operation.doubt = before
            operation.rejections.append(rejected)
            return False
        except OutcomeUnknown:
            self._story.answers["OutcomeUnknown"] += 1
            return False
        except NotRun as error:
            self._story.answers[type(error).__name__] += 1
            operation.doubt = before
            operation.not_run += 1
            return not isinstance(error, HandlerFailed | Closed) and operation.expected is None
        operation.doubt = before
        self._story.answers["Receipt"] += 1
        operation.receipts.append(receipt)
        if not operation.ended:
            self._order += 1
            operation.ended = self._order
        if random.random() < 0.3:
            await self._look(engine, operation, receipt)
        return operation.key is not None and random.random() < 0.1

    async def _look(self, engine: Engine, operation: Operation, receipt: Receipt) -> None:
        try:
            row = await engine.query(GetCell(operation.command.cell_id), at=receipt)
        except (ProjectionLag, Closed, StoreFailed):
            return
        if receipt.version and (row is None or row.events < receipt.version):
            self._story.problems.append(
                f"operation {operation.number} does not see its own write: {row} at {receipt}"
            )

    # -- the end ----------------------------------------------------------------------------

    async def _collect(self, engine: Engine) -> None:
        """Write down what the log, the views and the actors say in the end."""
        story = self._story
        story.log = [logged async for logged in engine.feed()]
        for logged in story.log:
            self._saw(logged)
        position = engine.statistics().position
        for cell in sorted({logged.meta.id for logged in story.log}):
            story.rows[cell] = await engine.query(GetCell(cell), at=position, timeout=60)
            try:
                await engine.execute(Take(cell, 0, 10**9))
            except Rejected as rejected:
                story.states[cell] = rejected.details
