"""Views over the modelled server: engines fold into two of them, and lines and servers break.

Rules: an engine has two projections, one of them in slices, whose rows keep the positions of all
events that were folded into them. One engine lives after the other; some are killed, and some stand
still for so long that the next one takes the log over, and come back. Whenever a commit changes the
views, and after each death of the server, the rows of each build must be an independent fold of
the log up to its checkpoints. Of what was lost with a server nothing is asked but that.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter as Count
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any, Final

import msgspec

from engine import (
    Engine,
    EngineError,
    Meta,
    Ports,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    projects,
)
from engine.errors import StoreFailed, StoreLocked
from engine.limits import Limits
from engine.model.projection import slice_of
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.simulation.fence import fence
from engine.testing.simulation.lives import free_now_and_then
from engine.testing.simulation.loop import DeadLock, ordered_scopes
from engine.testing.simulation.machine import SimulatedClock, SimulatedIds, SimulatedWorkers
from engine.testing.simulation.schedule import draw_schedule
from tests.support.counters import Add, Added, Counter

from .database import Change, Tables
from .deaf import deaf
from .network import Faults, Network, SimulatedDriver
from .pooler import Pooler
from .process import Process, ProcessesLoop, end_of
from .server import Server
from .statements import SCHEMA

__all__ = ["Listed", "ViewsWorld", "reached_of", "run_views_seed", "wrong_views"]

_SILENT: Final = logging.Logger("views", logging.CRITICAL + 1)
_LIVES: Final = 4
_COUNTERS: Final = 3
_SLICES: Final = 2
_LEASE_SECONDS: Final = 3.0
_REBUILD_SECONDS: Final = 20.0
"""A host waits for so long: of seed 372 a call is answered much later, or never."""
_STEPS: Final = ("projector.folded", "views.inserted", "views.checkpointed", "views.swapping")
_STEPS_MAX: Final = 150_000
_OPENINGS_MAX: Final = 60


class Kept(Row, key="counter"):
    counter: str
    positions: list[int]


class Listed(Projection, name="listed", version=1):
    rows: Table[Kept]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id)
        self.rows.put(Kept(meta.id, [*(row.positions if row else ()), meta.position]))


class Halved(Projection, name="halved", version=1, slices=_SLICES):
    rows: Table[Kept]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id)
        self.rows.put(Kept(meta.id, [*(row.positions if row else ()), meta.position]))


class GetListed(Query[list[Kept]]):
    pass


@answers
async def get_listed(query: GetListed, views: Views) -> list[Kept]:
    return await views.find(Listed.rows, order_by="counter")


def run_views_seed(seed: int) -> ViewsWorld:
    """Live through a seed; give its world, judged."""
    world = ViewsWorld(Random(f"views {seed}"))
    gc.disable()
    try:
        with ordered_scopes(), fence(), deaf():
            world.run()
    finally:
        end_of(world.loop)
        free_now_and_then()
        gc.enable()
    return world


class ViewsWorld:
    """What a seed makes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.loop = ProcessesLoop(draw_schedule(random), _STEPS_MAX)
        self.server = Server(self.loop, random, Tables("0" * 32))
        self.server.on_committed = self._committed
        self.server.commit_seconds = random.choice((0.001, 0.02))
        self.network = Network(self.loop, random, self.server)
        chances = (0.0, 0.0, 0.01, 0.04)
        self._faults = Faults(
            request=random.choice(chances),
            late=random.choice(chances),
            reply=random.choice(chances),
            silent=random.choice((0.0, 0.0, 0.005)),
            silent_max=2,
        )
        self.loses = random.random() < 0.15
        """Whether a standby takes over that lacks the last events: the negative control."""
        pooled = random.random() < 0.2
        if pooled:
            self.network.pooler = Pooler(self.server, random)
        options = f"schema={SCHEMA}&patience=18&lease={_LEASE_SECONDS:g}"
        options += "&pooler=transaction" if pooled else ""
        self._address = read_address(f"postgresql://u@127.0.0.1/d?{options}")
        self._processes: list[Process] = []
        self._opened_last = 0
        """The last process that has opened the views."""
        self._shown: list[tuple[int, list[Kept]]] = []
        self.problems: list[str] = []
        self.counts: Count[str] = Count()

    def run(self) -> None:
        """Run it to its end."""
        task = self.loop.create_task(self._main())
        task.add_done_callback(lambda _: self.loop.stop())
        try:
            self.loop.run_forever()
        except DeadLock as locked:
            self._problem(f"P6: dead-locked: {locked}")
        else:
            if (error := task.exception()) is not None:
                self._problem(f"P13: the world of views ended with {error!r}")
        self.problems[:0] = [
            *(f"to be added in viewing.py: {unknown}" for unknown in {*self.server.unknown}),
            *(f"P13: an error that nobody saw: {error!r}" for error in self.loop.errors),
        ]
        if not self.problems and not self.loses:
            self.problems += self._judge_answers()
        self.counts["views: events"] = len(self.server.tables.events)

    def _problem(self, text: str) -> None:
        self.problems.append(text)

    async def _main(self) -> None:
        trouble = asyncio.ensure_future(self._make_trouble())
        for _ in range(_LIVES):
            await self._live(quiet=False)
        trouble.cancel()
        await asyncio.wait([trouble])
        self.network.faults, self.server.up = Faults(), True
        self.network.parted_until = 0.0
        for _ in range(_OPENINGS_MAX):
            if await self._live(quiet=True):
                return
            await asyncio.sleep(1)
        self._problem("P13: the views cannot be opened")

    # -- lives --------------------------------------------------------------------------------

    async def _live(self, *, quiet: bool) -> bool:
        """Have one engine live; tell whether it came to its end in peace."""
        process = Process(self.loop, len(self._processes) + 1)
        self._processes.append(process)
        process.spared = self.random.random() < 0.5
        task = process.run(self._serve(process, quiet=quiet))
        dead = asyncio.ensure_future(process.ended.wait())
        if not quiet:
            self.loop.call_later(self.random.expovariate(1 / 1.5), self._end, process)
        await asyncio.wait([task, dead], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        dead.cancel()
        if not task.done():
            return False
        error = task.exception()
        if error is None:
            return True
        passes = StoreFailed, StoreLocked  # the lease of one that stands still is not over
        if not isinstance(error, EngineError) or (quiet and not isinstance(error, passes)):
            self._problem(f"P13: life {process.number} ended with {error!r}")
        await asyncio.sleep(0.3)
        return False

    def _end(self, process: Process) -> None:
        """Kill it, or let it stand still for longer than its lease while the next one goes on."""
        if process.ended.is_set():
            return
        if self.random.random() < 0.5:
            process.kill()
            for one in [one for one in self.network.connections if one.process is process]:
                one.process_ended()
        else:
            self.counts["views: engines that stood still"] += 1
            process.pause(_LEASE_SECONDS + 0.2 + 3.0 * self.random.random())
            process.ended.set()

    def _reach(self, process: Process, step: str) -> None:
        if step in _STEPS and self.random.random() < 0.02 and not process.ended.is_set():
            self.counts["views: engines that ended in a batch"] += 1
            self._end(process)

    async def _serve(self, process: Process, *, quiet: bool) -> None:
        engine = Engine(
            [Counter],
            projections=[Listed, Halved],
            answers=[get_listed],
            store=PostgresStore(self._address, logger=_SILENT),
            limits=Limits(projector_retries=50),
            logger=_SILENT,
            ports=Ports(
                clock=SimulatedClock(self.loop, self.random),
                ids=SimulatedIds(self.random),
                workers=SimulatedWorkers(self.loop, self.random),
                database=SimulatedDriver(self.network, process),
                watcher=None,
                stopwatch=self.loop.time,
                failpoint=None if quiet else partial(self._reach, process),
            ),
        )
        async with engine:
            self.network.faults = Faults() if quiet else self._faults
            process.spared = False
            if quiet:
                await self._finish(engine)
            else:
                clients = [self._client(engine, number) for number in range(_COUNTERS)]
                await asyncio.gather(self._operator(engine), *clients)

    async def _client(self, engine: Engine, number: int) -> None:
        for _ in range(5):
            await asyncio.sleep(self.random.expovariate(1 / 0.1))
            try:
                receipt = await engine.execute(Add(f"c{number}", 1))
                if self.random.random() < 0.3:
                    rows = await engine.query(GetListed(), at=receipt, timeout=5)
                    self._shown.append((receipt.position, rows))
                    self.counts["views: answers"] += 1
            except (EngineError, TimeoutError):
                if engine.failed is not None:
                    return

    async def _operator(self, engine: Engine) -> None:
        """Have one of the views built again, which swaps it in when it has caught up."""
        if self.random.random() < 0.6:
            await asyncio.sleep(self.random.expovariate(1 / 0.3))
            name = self.random.choice(("listed", "halved"))
            try:
                async with asyncio.timeout(_REBUILD_SECONDS):
                    await engine.projections.rebuild(name)
            except EngineError:
                self.counts["views: builds refused"] += 1
            except TimeoutError:
                self.counts["views: builds not answered in time"] += 1
            await asyncio.sleep(0.3)

    async def _finish(self, engine: Engine) -> None:
        """Fold all, and look at each view."""
        receipt = await engine.execute(Add("c0", 1))
        self._shown.append((receipt.position, await engine.query(GetListed(), at=receipt)))
        while any(
            one.position < receipt.position for one in engine.statistics().projectors.values()
        ):
            for found in await engine.projections.list():
                if found.state not in ("live", "catching-up", "retrying", "opening"):
                    self._problem(f"P9: {found.name} is {found.state}: {found.failure}")
                    return
            await asyncio.sleep(0.05)
        for name in ("listed", "halved"):
            reached = reached_of(self.server.tables, name)
            if reached != {receipt.position}:
                self._problem(f"P9: {name} has come to {reached} of {receipt.position}")

    # -- what breaks --------------------------------------------------------------------------

    async def _make_trouble(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 0.9))
            if not self.server.up:
                continue
            what = self.random.random()
            if what < 0.4:
                for backend in list(self.server.backends):
                    if self.random.random() < 0.6:
                        self.server.terminate(backend)
            elif what < 0.5:
                self.network.parted_until = self.loop.time() + self.random.random()
            else:
                self._kill_server()

    def _kill_server(self) -> None:
        kept = None
        if self.loses and self.random.random() < 0.5:
            # What makes the schemas has long reached the standby.
            made = [
                n
                for n, record in enumerate(self.server.records, 1)
                if any(change[0] == "migrated" for change in record.changes)
            ]
            kept = max(*made, len(self.server.records) - 5, 0) if made else None
        lost = self.server.crash(kept)
        self.counts["views: servers killed"] += 1
        self.counts["views: changes of views lost"] += sum(
            any(change[0] == "views" for change in record.changes) for record in lost
        )
        self._judge("after the server was killed")
        self.loop.call_later(self.random.random(), setattr, self.server, "up", True)

    # -- what cannot be true ------------------------------------------------------------------

    def _committed(self, owner: int, changes: list[Change]) -> None:
        written = {change[2] for change in changes if change[0] == "views"}
        if not written:
            return
        self.counts["views: transactions"] += 1
        self.counts["views: swaps"] += any(
            change[1:3] == ("put", "builds") and change[4][7] == "former"
            for change in changes
            if change[0] == "views"
        )
        for change in changes:
            if change[:3] == ("views", "put", "failures") and not self.loses:
                self._problem(f"P9: life {owner} notes that a view stands still: {change[4]}")
        if "about" in written:
            self._opened_last = owner
        elif "checkpoints" in written and owner != self._opened_last:
            self._problem(
                f"P9: life {owner} moves a checkpoint, and life {self._opened_last} has opened the "
                f"views"
            )
        self._judge(f"after a commit of life {owner}")

    def _judge(self, when: str) -> None:
        """Compare each build with the log up to its checkpoints."""
        for problem in wrong_views(self.server.tables):
            if len(self.problems) < 5:
                self._problem(f"P9: {when}, at {self.loop.time():.3f}: {problem}")

    def _judge_answers(self) -> Iterator[str]:
        """Each answer is of one state, which has at least what its receipt says."""
        events = [(e.position, e.stream.partition(":")[2]) for e in self.server.tables.events]
        for position, rows in self._shown:
            shown = {row.counter: row.positions for row in rows}
            last = max((row.positions[-1] for row in rows), default=0)
            folded: dict[str, list[int]] = {}
            for at, counter in events:
                if at <= last:
                    folded.setdefault(counter, []).append(at)
            if shown != folded or last < position:
                yield f"P10: an answer at {position} has {shown}, and the log {folded}"


def reached_of(tables: Tables, name: str) -> set[int]:
    """Give where the build of a projection that serves has come to, in each slice."""
    serving = [
        build[1]
        for build in tables.views.tables["builds"].values()
        if build[0] == name and build[7] == "serving"
    ]
    checkpoints = tables.views.tables["checkpoints"]
    return {row[0] for key, row in checkpoints.items() if key[:2] == (name, *serving)}


def wrong_views(tables: Tables) -> Iterator[str]:
    """Give what the builds have otherwise than an independent fold of the log has it."""
    shelves = tables.views.tables
    builds = shelves.get("builds", {})
    serving = Count(build[0] for build in builds.values() if build[7] == "serving")
    if any(serving[build[0]] != 1 for build in builds.values()):
        yield f"{dict(serving)} builds serve"
    for (name, number), build in builds.items():
        slices = build[4]
        at = [shelves["checkpoints"].get((name, number, n), (None, 0))[0] for n in range(slices)]
        expected: dict[str, list[int]] = {}
        for event in tables.events:
            reached = at[slice_of(event.stream, slices)]
            if reached is None:
                yield f"build {number} of {name} lacks a checkpoint: {at}"
                return
            if event.position <= reached:
                counter = event.stream.partition(":")[2]
                expected.setdefault(counter, []).append(event.position)
        rows = _rows_of(shelves, name, number)
        if rows != expected:
            yield f"build {number} of {name} is at {at} and has {rows}, and the log {expected}"


def _rows_of(shelves: dict[str, dict[Any, tuple[Any, ...]]], name: str, number: int) -> Any:
    for table, rows in shelves.items():
        if table.startswith(f"{name}_rows_") and table.endswith(f"_b{number}"):
            return {key: msgspec.json.decode(row[1]) for key, row in rows.items()}
    return None
