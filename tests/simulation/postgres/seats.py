"""Claims over the modelled server: guests of two engines take seats, and lines and servers break.

Rules: as in `claiming`, whose guests and judge these are. One engine has the log at a time; another
takes it over when the first one's lease is over, with appends of the first still on their way. A
last, quiet engine sends again with their keys what is in doubt. Then the log, the table of claims
and all that the clients were told must be true together.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

import msgspec

from engine import Engine, EngineError, NotRun, OutcomeUnknown, Ports
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.simulation.fence import fence
from engine.testing.simulation.lives import free_now_and_then
from engine.testing.simulation.loop import ordered_scopes
from engine.testing.simulation.machine import SimulatedClock, SimulatedIds, SimulatedWorkers
from engine.testing.simulation.schedule import draw_schedule
from tests.simulation.claiming import Call, Guest, Told, draw_call, judged

from .database import Event, Tables
from .deaf import deaf
from .network import Faults, Network, SimulatedDriver
from .pooler import Pooler
from .process import Process, ProcessesLoop, end_of
from .server import Server
from .statements import SCHEMA

__all__ = ["run_seats"]

_SILENT: Final = logging.Logger("seats", logging.CRITICAL + 1)
_COMMANDS: Final = 30
_LIVES: Final = 4
_STEPS_MAX: Final = 60_000


def run_seats(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = _World(Random(seed))
    gc.disable()
    try:
        with ordered_scopes(), fence(), deaf():
            problems = world.run()
    finally:
        end_of(world.loop)
        free_now_and_then()
        gc.enable()
    told = Counter(type(answer).__name__ for call in world.calls for answer in call.answers)
    digest, events = world.loop.digest, len(world.server.tables.events)
    return Told(problems, world.server.crashes, digest, told, events)


class _World:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.loop = ProcessesLoop(draw_schedule(random), _STEPS_MAX)
        self.server = Server(self.loop, random, Tables("0" * 32))
        self.network = Network(self.loop, random, self.server)
        self.network.faults = Faults(
            late=random.choice((0.0, 0.05)),
            reply=random.choice((0.0, 0.05)),
            request=random.choice((0.0, 0.03)),
        )
        pooled = random.random() < 0.3
        if pooled:
            self.network.pooler = Pooler(self.server, random)
        self.calls = [draw_call(random, number) for number in range(_COMMANDS)]
        options = f"schema={SCHEMA}&patience=18&lease=3" + ("&pooler=transaction" if pooled else "")
        self._address = read_address(f"postgresql://u@127.0.0.1/d?{options}")
        self._processes: list[Process] = []

    def run(self) -> list[str]:
        task = self.loop.create_task(self._main())
        task.add_done_callback(lambda _: self.loop.stop())
        self.loop.run_forever()
        task.result()
        problems = [f"to be added in statements.py: {one}" for one in self.server.unknown]
        problems += [f"P13: an error that nobody saw: {error!r}" for error in self.loop.errors]
        return problems or [*judged(self.calls, self.server.tables.events), *self._compared()]

    async def _main(self) -> None:
        trouble = asyncio.ensure_future(self._make_trouble())
        for _ in range(_LIVES):
            await self._live(quiet=False)
        trouble.cancel()
        await asyncio.wait([trouble])
        self.network.faults, self.server.up = Faults(), True
        while not await self._live(quiet=True):
            await asyncio.sleep(1)

    async def _live(self, *, quiet: bool) -> bool:
        """Have one engine live, and be paused or killed; tell whether it came to its end."""
        process = Process(self.loop, len(self._processes) + 1)
        self._processes.append(process)
        process.spared = self.random.random() < 0.5
        task = process.run(self._serve(process))
        dead = asyncio.ensure_future(process.ended.wait())
        if not quiet:
            self.loop.call_later(self.random.expovariate(1 / 0.4), self._end, process)
        await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED, timeout=40)
        dead.cancel()
        if not task.done():
            return False
        task.result()
        return not any(map(_is_wanted, self.calls))

    def _end(self, process: Process) -> None:
        """Kill it, or let it stand still for longer than its lease while another goes on."""
        if self.random.random() < 0.5:
            process.kill()
            for one in [one for one in self.network.connections if one.process is process]:
                one.process_ended()
        else:
            process.pause(3.2 + 3.0 * self.random.random())
            process.ended.set()

    async def _serve(self, process: Process) -> None:
        engine = Engine(
            [Guest],
            store=PostgresStore(self._address, logger=_SILENT),
            views="memory:",
            logger=_SILENT,
            ports=Ports(
                clock=SimulatedClock(self.loop, self.random),
                ids=SimulatedIds(self.random),
                workers=SimulatedWorkers(self.loop, self.random),
                database=SimulatedDriver(self.network, process),
                watcher=None,
                stopwatch=self.loop.time,
            ),
        )
        try:
            async with engine:
                process.spared = False
                wanted = [call for call in self.calls if _is_wanted(call)]
                # Some take long, so that the engine before this one may come back in between.
                pause = self.random.choice((0.1, 0.1, 3.0))
                sent = [asyncio.ensure_future(self._send(engine, call, pause)) for call in wanted]
                if sent:
                    await asyncio.wait(sent)
                    [one.result() for one in sent]
        except EngineError:
            await asyncio.sleep(0.5)

    async def _send(self, engine: Engine, call: Call, pause: float) -> None:
        await asyncio.sleep(self.random.expovariate(1 / pause))
        if not _is_wanted(call):
            return  # an engine that has taken over was quicker
        place = len(call.answers)
        call.answers.append(None)  # until it is told
        try:
            call.answers[place] = await engine.execute(call.command, key=call.key)
        except EngineError as error:
            call.answers[place] = error

    async def _make_trouble(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 0.7))
            if not self.server.up:
                continue
            if self.random.random() < 0.5:
                for backend in list(self.server.backends):
                    self.server.terminate(backend)
            else:
                self.server.crash()
                self.loop.call_later(self.random.random(), setattr, self.server, "up", True)

    def _compared(self) -> Iterator[str]:
        """Compare the table of claims with what the log says."""
        held: dict[tuple[str, str], str] = {}
        for stream, seat in _seats(self.server.tables.events):
            held = {key: holder for key, holder in held.items() if holder != stream}
            if seat is not None:
                held["seat", seat] = stream
        table = {key: stream for key, (stream, _) in self.server.tables.claims.items()}
        if held != table:
            yield f"P19: the log says {held}, and the table {table}"


def _seats(events: Sequence[Event]) -> Iterator[tuple[str, str | None]]:
    """Give the stream and the seat of each event; None where the guest stands."""
    for event in events:
        yield event.stream, msgspec.json.decode(event.payload).get("seat")


def _is_wanted(call: Call) -> bool:
    """Whether it was never sent, is certainly not run, or is in doubt and has a key."""
    if not call.answers:
        return True
    last = call.answers[-1]
    in_doubt = last is None or isinstance(last, OutcomeUnknown)
    return isinstance(last, NotRun) or (call.key is not None and in_doubt)
