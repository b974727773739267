"""One seed over a modelled server: engines that live and die, a server that breaks, a quiet end.

Rules: everything that happens comes from the seed. When the troubles are over all is well again,
and a last engine must open the log, send what is left, and read it all. `judge` says what of it
cannot be true. What only the moment shows is judged here, by looking into the server: an append
where the settings are weak, and one by an engine whose log went back.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec

from engine.errors import EngineError, StoreFailed, StoreLocked, StoreRefused
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.schema import lock_key
from engine.testing.simulation.fence import fence
from engine.testing.simulation.lives import bury, free_now_and_then
from engine.testing.simulation.loop import DeadLock, ordered_scopes
from engine.testing.simulation.schedule import Schedule, draw_schedule
from tests.simulation.story import Operation, Story
from tests.simulation.swarm import Swarm
from tests.simulation.world import tell

from .clients import FINAL, Life
from .database import Change, Record, Tables
from .deaf import deaf
from .network import Faults, Network
from .pooler import Pooler
from .process import Process, ProcessesLoop
from .server import Server, Settings
from .statements import SCHEMA
from .troubles import (
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    Incident,
    Troubles,
    draw_commands,
    draw_troubles,
    with_standby,
)

__all__ = ["World", "run_seed"]

_LIVES_MAX: Final = 8
_SECONDS_MAX: Final = 90.0
_OPENINGS_MAX: Final = 60
_REPLICATION_SECONDS: Final = 1.0
"""What a standby lacks of a primary that is gone."""


def run_seed(seed: int) -> World:
    """Live through a seed; give its world, not judged yet."""
    world = World(seed)
    gc.disable()
    try:
        with ordered_scopes(), fence(), deaf():
            world.run()
    finally:
        bury(world.loop)
        free_now_and_then()
        gc.enable()
    return world


class World:
    """What a seed makes."""

    draw: Callable[[Random], Troubles] = staticmethod(draw_troubles)
    draw_commands: Callable[[Random], Swarm] = staticmethod(draw_commands)
    make_loop: Callable[[Schedule, int], ProcessesLoop] = ProcessesLoop
    steps_max = 100_000

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.troubles = self.draw(self.random)
        self.story: Story = tell(seed, self.draw_commands(self.random), self.random)
        self.loop = self.make_loop(draw_schedule(self.random), self.steps_max)
        tables = Tables(f"{self.random.getrandbits(128):032x}")
        self.server = Server(self.loop, self.random, tables)
        self.server.commit_seconds = self.troubles.commit_seconds
        self.server.on_commit = self._committed
        self.network = Network(self.loop, self.random, self.server)
        self.network.faults = msgspec.structs.replace(self.troubles.faults)
        if self.troubles.pooled:
            self.network.pooler = Pooler(self.server, self.random)
        # Drawn from nothing, so that what other seeds do does not change.
        self.has_standby = seed % 4 == 3 and self.troubles.kind in ("gentle", "harsh", "takeover")
        self.lives: list[Life] = []
        self.lost: list[Record] = []
        """Transactions that were committed, as it seemed, and are gone."""
        self.counts: dict[str, int] = self.network.counts
        self._over = asyncio.Event()
        options = [f"schema={SCHEMA}", f"patience={PATIENCE_SECONDS:g}"]
        options += [f"lease={LEASE_SECONDS:g}"]
        options += ["pooler=transaction"] if self.troubles.pooled else []
        if self.troubles.loses == "unsynced":
            options.append("allow=synchronous_commit")
            self.server.settings.synchronous_commit = "off"
        if self.has_standby:
            self.server.settings.standby_names = "standby"
            self.server.standby_seconds = 4 * self.troubles.commit_seconds
        self._strong = msgspec.structs.replace(self.server.settings)
        self.address = read_address("postgresql://u@127.0.0.1/d?" + "&".join(options))

    def problem(self, text: str) -> None:
        """Note what cannot be true."""
        self.story.problems.append(text)

    def run(self) -> None:
        """Run it to its end."""
        task = self.loop.create_task(self._main())
        task.add_done_callback(lambda _: self.loop.stop())
        try:
            self.loop.run_forever()
        except DeadLock as locked:
            names = [o.number for o in self.story.operations if o.in_doubt]
            self.problem(f"P6: dead-locked: {locked}; in doubt: {names}")
        else:
            error = task.exception()
            if error is not None:
                self.problem(f"P13: the world ended with {error!r}")
        self.story.problems[:0] = [
            *(f"to be added in statements.py: {unknown}" for unknown in self.server.unknown),
            *(f"P13: an error that nobody saw: {error!r}" for error in self.loop.errors),
        ]
        if self.network.pooler is not None and self.network.pooler.handed_over:
            self.counts["transactions handed over"] = self.network.pooler.handed_over
        self.story.steps, self.story.digest = self.loop.steps, self.loop.digest
        self.story.seconds = self.loop.time()

    async def _main(self) -> None:
        trouble = asyncio.ensure_future(self._make_trouble())
        engines = [asyncio.ensure_future(self._keep_one()) for _ in range(self.troubles.engines)]
        await asyncio.wait(engines, timeout=_SECONDS_MAX)
        trouble.cancel()
        await asyncio.wait([trouble])
        self._over.set()
        self.heal()
        for life in self.lives:
            life.leaves.set() if self.random.random() < 0.5 else life.kill()
        await asyncio.wait(engines)
        for engine in engines:
            engine.result()
        await self.live_quietly()

    # -- who lives ----------------------------------------------------------------------------

    def _is_done(self) -> bool:
        """Whether nothing is left to be sent."""
        return all(map(self._is_answered, self.story.operations))

    def _is_answered(self, operation: Operation) -> bool:
        if operation.key is None or operation.receipts:
            return bool(operation.sendings)
        return bool(operation.sendings) and isinstance(operation.sendings[-1].answer, FINAL)

    async def _keep_one(self) -> None:
        """Let one engine live after the other, until nothing is left to be done."""
        while not (self._is_done() or self._over.is_set() or len(self.lives) >= _LIVES_MAX):
            reachable = self.server.up and not self.network.refusing
            if not reachable and self.random.random() < 0.7:
                await self._pause(0.5)  # most hosts try for longer than there is something to see
                continue
            life = self.begin(quiet=False)
            await self.until_it_ends(life)
            seconds = self.random.choice((0.3, 1.0, LEASE_SECONDS))
            await self._pause(self.random.expovariate(1 / seconds))

    async def _pause(self, seconds: float) -> None:
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait([over], timeout=seconds)
        over.cancel()

    def begin(self, *, quiet: bool) -> Life:
        """Give a life that has not begun."""
        self.story.lives += 1
        process = Process(self.loop, self.story.lives)
        process.spared = self.random.random() < 0.8
        life = self.new_life(process, quiet)
        self.lives.append(life)
        return life

    def new_life(self, process: Process, quiet: bool) -> Life:
        """Give what lives in a process."""
        known = self.story, self.troubles, self.network, process, self.address
        return Life(*known, quiet=quiet)

    async def until_it_ends(self, life: Life) -> None:
        """Let it live."""
        task = life.process.run(life.main())
        dead = asyncio.ensure_future(life.process.ended.wait())
        await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED)
        dead.cancel()
        if task.done():
            task.result()
            life.process.ended.set()
        self._look_at_end(life)

    def _look_at_end(self, life: Life) -> None:
        error = life.error
        if error is None:
            return
        self.counted(f"ended by {type(error).__name__}")
        if "went back" in str(error):
            self.counted("engines that said so")
        declared: tuple[type[BaseException], ...] = (StoreFailed, StoreLocked, StoreRefused)
        if life.opened:
            declared = () if self.troubles.is_gentle else (EngineError,)
        if not isinstance(error, declared):
            self.problem(f"P13: life {life.process.number} ended with {error!r}")

    def counted(self, what: str) -> None:
        """Count what happened."""
        self.network.counted(what)

    async def live_quietly(self) -> None:
        """Open the log at the end, send what is left, and read all."""
        for _ in range(_OPENINGS_MAX):
            life = self.begin(quiet=True)
            await self.until_it_ends(life)
            if life.opened:
                if life.error is not None:
                    self.problem(f"P13: the last life ended with {life.error!r}")
                return
            await asyncio.sleep(1)
        self.problem(f"P13: the log cannot be opened: {self.lives[-1].error!r}")

    # -- what breaks --------------------------------------------------------------------------

    async def _make_trouble(self) -> None:
        for incident in self.troubles.incidents:
            if self.has_standby:
                incident = with_standby(incident)
            await asyncio.sleep(incident.after)
            self.counted(incident.what)
            self.happen(incident)

    def happen(self, incident: Incident) -> None:
        """Let something go wrong."""
        what, seconds, server, network = incident.what, incident.seconds, self.server, self.network
        if what in ("kill", "lose", "pause", "close"):
            self._happen_to_a_process(incident)
        elif what in ("crash", "restart", "weaken"):
            if server.up:
                self._stop_server(what, seconds)
        elif what == "terminate":
            for backend in list(server.backends):
                if self.random.random() < 0.7:
                    server.terminate(backend)
        elif what == "part":
            network.parted_until = self.loop.time() + seconds
        elif what == "refuse":
            network.refusing = True
            self._then(seconds, network, "refusing", False)
        elif what == "full":
            network.full = True
            self._then(seconds, network, "full", False)
        elif what == "slow disk":
            server.standby_away_until = self.loop.time() + seconds / 2
            server.commit_seconds = max(0.05, seconds / 5)
            self._then(seconds, server, "commit_seconds", self.troubles.commit_seconds)
        elif what == "hold lock":
            self._hold_lock(seconds)
        elif what == "clock":
            server.clock_ahead += self.random.choice((-5.0, 5.0, 60.0, 3_600.0))
        elif what == "give up standby":
            self._give_up_standby(seconds)
        else:
            assert what == "unsync", what
            server.settings.synchronous_commit = "off"

    def _give_up_standby(self, seconds: float) -> None:
        """The standby is away, somebody ends what waits for it, and then it is promoted."""
        server, loop = self.server, self.loop
        server.standby_away_until = loop.time() + seconds

        def end_waits() -> None:
            for backend in [one for one in server.backends if one.replicating]:
                end = self.random.choice((server.cancel, server.cancel, server.terminate))
                end(backend)
                self.counted("waits for a standby that were ended")

        def promote() -> None:
            if server.up and not self._over.is_set():
                self._stop_server("crash", seconds / 2)
                server.standby_away_until = 0.0

        waits = min(seconds, 1.0) / 2
        loop.call_later(waits, end_waits)
        loop.call_later(waits + self.random.choice((0.0, 0.01, waits)), promote)

    def _then(self, seconds: float, of: object, name: str, value: Any) -> None:
        self.loop.call_later(seconds, setattr, of, name, value)

    def _happen_to_a_process(self, incident: Incident) -> None:
        living = [life for life in self.lives if not life.process.ended.is_set()]
        if not living:
            return
        life = self.random.choice(living)
        if incident.what == "pause":
            life.process.pause(incident.seconds)
        elif incident.what == "close":
            life.leaves.set()
        else:
            life.kill(lost=incident.what == "lose")

    def _stop_server(self, what: str, seconds: float) -> None:
        server = self.server
        if what == "restart":
            server.shut_down()
        else:
            self.lost += server.crash(self._kept())
            for life in self.lives:
                if life.position > len(server.tables.events) and not life.process.ended.is_set():
                    self.counted("engines whose log went back")
        settings = msgspec.structs.replace(self._strong)
        if what == "weaken":
            name = self.random.choice(
                ("fsync", "full_page_writes", "synchronous_commit", "standby")
            )
            setattr(settings, name, True if name == "standby" else "off")
        self.loop.call_later(seconds * 0.8, self._start_server, settings, seconds * 0.2)

    def _kept(self) -> int | None:
        if self.has_standby:
            self.counted("standbys promoted")
            return self.server.replicated()
        if self.troubles.loses != "failover":
            return None
        before = self.loop.time() - _REPLICATION_SECONDS
        records = self.server.records
        made = sum(any(name == "migrated" for name, *_ in record.changes) for record in records)
        return max(made, sum(record.at < before for record in records))

    def _start_server(self, settings: Settings, seconds: float) -> None:
        def started() -> None:
            if not self._over.is_set():
                self.network.starting = False
                self.server.up, self.server.settings = True, settings

        if self._over.is_set():
            return  # it is well already
        self.network.starting = True

        self.loop.call_later(seconds, started)

    def _hold_lock(self, seconds: float) -> None:
        """Have somebody hold the log's lock, as a migration does."""
        server = self.server
        if not server.up:
            return
        backend = server.connect(lambda _: None)
        server.receive(backend, "BEGIN", (), _nobody)
        query = "SELECT pg_catalog.pg_advisory_xact_lock($1, $2)"
        server.receive(backend, query, lock_key(SCHEMA), _nobody)
        self.loop.call_later(seconds, server.receive, backend, "COMMIT", (), _nobody)
        self.loop.call_later(seconds, server.end_of_file, backend)

    def judged_beside(self) -> Sequence[str]:
        """Give what cannot be true of what such a world does besides."""
        return ()

    def heal(self) -> None:
        """Let all be well again."""
        network, server = self.network, self.server
        network.faults = Faults()
        network.refusing = network.full = network.starting = False
        network.parted_until = server.standby_away_until = 0.0
        server.up, server.commit_seconds, server.standby_seconds = True, 0.001, 0.005
        server.settings = msgspec.structs.replace(self._strong)

    # -- what only the moment shows -----------------------------------------------------------

    def _committed(self, owner: int, changes: list[Change]) -> None:
        if not any(name == "event" for name, *_ in changes):
            return
        settings, strong = self.server.settings, self._strong
        # A pooler keeps its clients over a restart of the server: an engine behind one learns of
        # settings at the next renewal of its lease, as it does of a reload.
        for name in () if self.troubles.pooled else ("fsync", "full_page_writes"):
            if getattr(settings, name) != getattr(strong, name):
                self.problem(f"P1: life {owner} appends to a server with {name} off")
        known = self.lives[owner - 1].head
        if known is None or not known.position:
            return
        found = [e.checksum for e in self.server.tables.events if e.position == known.position]
        if found != [known.checksum]:
            self.problem(
                f"P15: life {owner} was told of an event at {known.position}, which is not there "
                f"any more, and appends {len(changes)} changes"
            )


_nobody: Callable[[Any, BaseException | None], None] = lambda _, __: None  # noqa: E731
