"""One seed of engines that share a log by `join=True`: owner and members die, part and stand still.

Rules: as for a world over a modelled server. Three engines live at a time, on one machine or on
two, and clients send commands to each of them. Every member follows the log: it is shown each event
once and in order, and at the end in time. What it asks after its own receipts is there. The judge
excuses nothing: an answer that an engine gives when the log is another one's is a false one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Sequence
from contextlib import aclosing
from random import Random
from typing import Any, Final, Literal

import msgspec

from engine.engine import Engine
from engine.errors import EngineError
from engine.limits import Limits
from engine.model.messages import Receipt
from engine.runtime.ports import Ports
from engine.stores.contract.log import Head
from engine.testing.simulation.fence import fence
from engine.testing.simulation.lives import bury, free_now_and_then
from engine.testing.simulation.loop import ordered_scopes
from engine.testing.simulation.machine import SimulatedClock, SimulatedIds, SimulatedWorkers
from tests.simulation.domain import Put, Take
from tests.simulation.postgres.clients import Life
from tests.simulation.postgres.deaf import deaf
from tests.simulation.postgres.network import Faults, SimulatedDriver
from tests.simulation.postgres.process import Process
from tests.simulation.postgres.troubles import (
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    Incident,
    Troubles,
    What,
    draw_commands,
    draw_troubles,
)
from tests.simulation.postgres.world import World
from tests.simulation.story import Operation
from tests.simulation.swarm import Swarm

from .numbering import DECISIONS, KINDS, Asked, ask_once, judged_numbers
from .reader import modelled
from .together import decisions_of, of_one, told_together
from .wires import Wires, WiresLoop, wired

__all__ = [
    "ENGINES",
    "JoiningLife",
    "JoiningWorld",
    "live_through",
    "run_joining_seed",
    "run_spread_seed",
]

ENGINES: Final = 3
_PORT: Final = 7_400
_TOO_MUCH: Final = 1_000_000_000
_NO_CLIENT: Final = -1
_WHAT: Final[tuple[What, ...]] = (
    *("kill", "kill", "lose", "close", "pause", "pause", "pause"),
    *("cut wires", "part wires", "part wires", "part", "terminate", "crash", "restart"),
    *("refuse", "slow disk", "hold lock", "cut off", "cut off", "cut off"),
)


def draw_joining(random: Random) -> Troubles:
    """Draw the troubles of a seed."""
    drawn = draw_troubles(random)
    longest = random.choice((0.5, 2.0, 4.0)) * LEASE_SECONDS
    incidents = tuple(
        _incident(random, random.choice(_WHAT), longest) for _ in range(random.randrange(1, 7))
    )
    return msgspec.structs.replace(
        drawn,
        kind="takeover",
        incidents=incidents,
        engines=ENGINES,
        loses="",
        pooled=False,
        step_kills=random.choice((0.0, 0.0, 0.003)),
        thinking_seconds=random.choice((0.05, 0.2, 0.5)),
    )


def _incident(random: Random, what: What, longest: float) -> Incident:
    seconds = random.random() * longest
    if what == "cut off":
        seconds = (0.8 + random.random()) * LEASE_SECONDS
    return Incident(random.expovariate(1 / 0.5), what, seconds)


def draw_many_commands(random: Random) -> Swarm:
    """Draw what clients send: enough for all that happens."""
    return msgspec.structs.replace(
        draw_commands(random), operations=random.randrange(6, 18), snapshot_every=None
    )


def draw_commands_of_one_cell(random: Random) -> Swarm:
    """Draw what clients send where one cell is asked a lot."""
    drawn = draw_many_commands(random)
    return msgspec.structs.replace(drawn, clients=2, operations=24, cells=1, burst=1, keyed=0.5)


def run_spread_seed(seed: int, *incidents: Incident) -> JoiningWorld:
    """Do as `run_joining_seed` does, where each engine owns a part of the log."""
    return run_joining_seed(seed, *incidents, join="spread")


def run_joining_seed(
    seed: int, *incidents: Incident, join: bool | Literal["spread"] = True
) -> JoiningWorld:
    """Live through a seed, with its own incidents or these; give its world, not judged yet."""
    world = ScriptedWorld(seed, incidents) if incidents else JoiningWorld(seed)
    world.join = join
    world.has_numbers = join == "spread" and seed % 2 == 1
    # A command that moves on to another owner may be overtaken by one that was sent behind it.
    world.story.in_line = join is True
    live_through(world)
    return world


def live_through(world: JoiningWorld, *, shared: bool = False) -> None:
    """Run a world to its end; with `shared` its engines share projections on the server."""
    logger = logging.getLogger("foldline")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        with ordered_scopes(), fence(), deaf(), modelled(shared=shared), wired(world.wires):
            world.run()
    finally:
        logger.setLevel(level)
        bury(world.loop)
        free_now_and_then()
        gc.enable()


class JoiningLife(Life):
    """One engine that shares the log with the others."""

    def __init__(self, *known: Any, world: JoiningWorld, quiet: bool) -> None:
        super().__init__(*known, quiet=quiet)
        self._world = world
        self.engine: Engine | None = None
        self.followed = 0
        """The position up to which it was shown the log."""

    @property
    def head(self) -> Head | None:
        """The end of the log as its store was told last, while it owns the log."""
        joined: Any = None if self.engine is None else self.engine._joined  # pyright: ignore
        wiring = None if joined is None else joined.wiring
        if self._world.join == "spread":
            wiring = None if joined is None else joined.spread.wiring
            return None if wiring is None or wiring.store._writer is None else Head()
        writer = None if wiring is None else wiring.store._writer
        return None if writer is None else writer.head

    @property
    def is_owner(self) -> bool:
        """Whether it says that it owns the log."""
        if self.engine is None or self._world.join == "spread":
            return self.is_deciding
        membership = self.engine.statistics().membership
        return membership is not None and membership.role == "owner"

    @property
    def is_deciding(self) -> bool:
        """Whether it decides for a part of the log."""
        joined: Any = None if self.engine is None else self.engine._joined  # pyright: ignore
        router = None if joined is None else joined._router
        return router is not None and any(router._ready)

    def declared(self) -> dict[str, Any]:
        """Give what an engine is given besides."""
        if self._world.join is True:
            return {}
        together = decisions_of(self.cell)
        return {"decisions": [*together, *DECISIONS] if self._world.has_numbers else together}

    async def execute(self, engine: Engine, operation: Operation, **more: Any) -> Receipt:
        """Have an operation's command run, some of them by the owner of another cell."""
        cells = sorted({one.command.cell_id for one in self._world.story.operations})
        together = None if self._world.join is True else told_together(operation, cells)
        if together is None:
            return await super().execute(engine, operation, **more)
        command, expected = together
        self._world.counted("together")
        receipt = await engine.execute(command, expected=expected, **more)
        return of_one(receipt, operation.command.cell_id)

    def make_engine(self) -> Engine:
        """Give the engine."""
        loop, random = self.process.loop, self._world.random
        self.engine = Engine(
            [self.cell, *KINDS] if self._world.has_numbers else [self.cell],
            **self.declared(),
            store=self._world.url,
            join=self._world.join,
            listen=f"tcp://127.0.0.1:{_PORT + self.process.number}",
            limits=Limits(handler_seconds=5),
            ports=Ports(
                clock=SimulatedClock(loop, random),
                ids=SimulatedIds(random),
                workers=SimulatedWorkers(loop, random),
                database=SimulatedDriver(self._world.network, self.process),
                watcher=None,
                stopwatch=loop.time,
                failpoint=None if self.quiet else self.failpoint,
            ),
        )
        return self.engine

    def kill(self, *, lost: bool = False) -> None:
        """End its process, or its machine."""
        super().kill(lost=lost)
        self._world.wires.process_ended(self.process)

    async def stay(self, engine: Engine) -> None:
        """Follow the log meanwhile."""
        calls = [self._follow, self._probe]
        if self._world.has_numbers:
            calls.append(self._number)
        beside = [asyncio.ensure_future(call(engine)) for call in calls]
        try:
            await super().stay(engine)
        finally:
            for one in beside:
                one.cancel()
            await asyncio.wait(beside)
        for one in beside:
            if not one.cancelled():
                one.result()

    async def collect(self, engine: Engine) -> None:
        """Append once more, while members wait for what others append; then read all."""
        story = self._world.story
        await asyncio.sleep(1)
        number = len(story.operations) + 1
        put = Put(cell_id=story.operations[0].command.cell_id, operation=number, amount=1, parts=1)
        operation = Operation(number, _NO_CLIENT, put, None)
        story.operations.append(operation)
        await self.operate(engine, operation)
        await super().collect(engine)

    async def _probe(self, engine: Engine) -> None:
        """Send what is rejected: such an answer writes nothing, and shows what is believed."""
        story, random = self._world.story, self._world.random
        cells = sorted({operation.command.cell_id for operation in story.operations})
        while not self.quiet:
            await asyncio.sleep(random.expovariate(1 / self._world.probe_seconds))
            number = len(story.operations) + 1
            command = Take(cell_id=random.choice(cells), operation=number, amount=_TOO_MUCH)
            operation = Operation(number, _NO_CLIENT, command, None)
            story.operations.append(operation)
            await self.operate(engine, operation)

    async def _number(self, engine: Engine) -> None:
        """Send what is decided by tags."""
        world, random = self._world, self._world.random
        while not self.quiet:
            await asyncio.sleep(random.expovariate(1 / world.probe_seconds))
            world.counted("by tags")
            await ask_once(engine, world.asked, world.server, random)

    async def _follow(self, engine: Engine) -> None:
        shown = self._world.story.shown
        while True:
            with contextlib.suppress(EngineError):
                async with aclosing(engine.feed(self.followed, follow=True)) as feed:
                    async for logged in feed:
                        meta = logged.meta
                        if meta.position != self.followed + 1:
                            self._world.problem(
                                f"P12: {self.process.number} is shown {meta.position} behind "
                                f"{self.followed}"
                            )
                        self.followed = meta.position
                        told = meta.stream, meta.version, str(logged.event)
                        if shown.setdefault(meta.position, told) != told:
                            self._world.problem(f"P4: two events are shown at {meta.position}")
            if engine.failed is not None or self.leaves.is_set():
                return
            await asyncio.sleep(0.1)


class JoiningWorld(World):
    """What a seed makes."""

    draw = staticmethod(draw_joining)
    draw_commands = staticmethod(draw_many_commands)
    make_loop = WiresLoop
    steps_max = 400_000
    probe_seconds = 0.5
    """Between two commands that show what an engine believes."""
    follow_seconds = 5.0
    """Within which a member is shown what is in the log, where all is well."""
    start_seconds = 60.0
    """Within which one has started, whose database is slow."""
    join: bool | Literal["spread"] = True
    """How its engines share the log."""
    has_numbers = False
    """Whether something is decided by tags."""
    loop: WiresLoop
    lives: list[Any]

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.has_standby = False
        self.asked: list[Asked] = []
        """What was decided by tags."""
        self.machines = self.random.choice((1, 2))
        self.wires = Wires(self.random, lambda process: process.number % self.machines)
        self.loop.wires = self.wires
        options = f"schema={self.address.schema}&patience={PATIENCE_SECONDS:g}"
        self.url = f"postgresql://u@127.0.0.1/d?{options}&lease={LEASE_SECONDS:g}"

    def new_life(self, process: Process, quiet: bool) -> JoiningLife:
        """Give what lives in a process."""
        known = self.story, self.troubles, self.network, process, self.address
        return JoiningLife(*known, world=self, quiet=quiet)

    def happen(self, incident: Incident) -> None:
        """Break the lines between the processes, or what other worlds break."""
        living = [life.process for life in self.lives if not life.process.ended.is_set()]
        if incident.what == "cut wires":
            self.wires.break_some()
        elif incident.what == "part wires":
            if not living:
                return
            one, until = self.random.choice(living), self.loop.time() + incident.seconds
            directions = self.random.choice(((0,), (1,), (0, 1)))
            for other in living:
                pair = one.number, other.number
                for way in directions:
                    self.wires.parted[pair if way else pair[::-1]] = until
        elif incident.what == "cut off" or (
            incident.what in ("pause", "kill", "lose") and self.random.random() < 0.6
        ):
            self._to_the_owner(incident)
        else:
            super().happen(incident)

    def _to_the_owner(self, incident: Incident) -> None:
        """Let it happen to who owns the log, where the most depends on it."""
        owners = [o for o in self.lives if o.is_owner and not o.process.ended.is_set()]
        if owners:
            for life in [self.random.choice(owners)]:
                self.counted("owners hit")
                if incident.what == "pause":
                    life.process.pause(incident.seconds)
                elif incident.what == "cut off":
                    until = self.loop.time() + incident.seconds
                    self.network.cut_off[life.process.number] = until
                else:
                    life.kill(lost=incident.what == "lose")

    def judged_beside(self) -> Sequence[str]:
        """Give what cannot be true of what was decided by tags."""
        return [*judged_numbers(self.asked, self.story.log)]

    def heal(self) -> None:
        """Let all be well again."""
        super().heal()
        self.wires.parted.clear()
        self.network.cut_off.clear()

    async def live_quietly(self) -> None:
        """End as other worlds do, while members look on who must be shown everything."""
        over = asyncio.Event()
        slots: list[list[JoiningLife]] = [[] for _ in range(ENGINES - 1)]
        looking = [asyncio.ensure_future(self._look_on(slot, over)) for slot in slots]
        await super().live_quietly()
        end = self.loop.time() + self.follow_seconds
        last = end + self.start_seconds
        while self.loop.time() < end and any(map(self._lacks, slots)):
            if not all(slot[-1].opened for slot in slots):
                end = min(last, self.loop.time() + self.follow_seconds)
            await asyncio.sleep(0.1)
        for slot in filter(self._lacks, slots):
            self.problem(f"P20: {self._told_of(slot)}, and all is well")
        over.set()
        for slot in slots:
            slot[-1].leaves.set()
        await asyncio.wait(looking)
        for one in looking:
            one.result()
        self.counts["lines"] = self.wires.connected

    def _lacks(self, slot: list[JoiningLife]) -> bool:
        return slot[-1].followed < len(self.server.tables.events)

    def _told_of(self, slot: list[JoiningLife]) -> str:
        return f"{slot[-1].followed} of {len(self.server.tables.events)} events were shown"

    async def _look_on(self, slot: list[JoiningLife], over: asyncio.Event) -> None:
        """Be a member until all is over; a start may still meet what others have left behind."""
        while not over.is_set():
            life = self.begin(quiet=True)
            assert isinstance(life, JoiningLife)
            life.stays = True
            slot.append(life)
            await self.until_it_ends(life)
            if life.opened and life.error is not None:
                self.problem(f"P13: a member ended with {life.error!r}")
            await asyncio.sleep(0.5)


class ScriptedWorld(JoiningWorld):
    """A world in which only that goes wrong which a test says, while one cell is asked a lot."""

    draw_commands = staticmethod(draw_commands_of_one_cell)
    probe_seconds = 0.15

    def __init__(self, seed: int, incidents: Sequence[Incident]) -> None:
        super().__init__(seed)
        self.troubles = msgspec.structs.replace(
            self.troubles, incidents=tuple(incidents), step_kills=0.0, thinking_seconds=0.8
        )
        self.network.faults = Faults()
