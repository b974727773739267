"""`timers`: commands for later: how fast they are set and fired, how late, and what waiting costs.

`set` is a closed loop of clients whose commands each set a timer for a day ahead. `fire` lets as
many timers be due at one moment as were set, by a clock that is moved, until all are answered.
`on time` sets one for each millisecond; p99 is the bound of its histogram's bucket, from the time
that a timer was set for to its answer. `start` opens a log in which so many timers wait, and one in
which none does, up to the first receipt; its rate is how many such starts a second has.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    MemoryStore,
    Ports,
    Store,
    applies,
    handles,
    run,
)
from engine.model.codec import schema_hash
from engine.model.stored import EventData, EventType
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.contract.timers import SetTimer
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.scenario import ManualClock

from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["add_options", "scenario"]

CLIENTS = 256
WAITING = 1_000_000
_DAY = 86_400
_BATCH = 5_000


_rung: list[None] = []
"""One for each that rang, durably or not yet: to look at all statistics would be in the figure."""


class SetOne(Command):
    """Set a timer."""

    alarm: Id
    seconds: float


class Ring(Command):
    """What it is set to."""

    alarm: Id


class WasSet(Event, name="alarm-set"):
    """It waits."""


class Rang(Event, name="alarm-rang"):
    """It was fired."""


class Alarm(Aggregate, kind="alarm"):
    """Rings after a while."""

    rang: int = 0

    @handles
    def set(self, command: SetOne) -> Decision[WasSet]:
        """Set it."""
        return Decision(WasSet(), timers=[After(Ring(self.id), "ring", seconds=command.seconds)])

    @handles
    def ring(self, _: Ring) -> Rang:
        """Ring."""
        return Rang()

    @applies
    def was_set(self, _: WasSet) -> None:
        """Wait."""

    @applies
    def did_ring(self, _: Rang) -> None:
        """Count."""
        self.rang += 1
        _rung.append(None)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of clients, and of timers that wait."""
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"default {CLIENTS}")
    parser.add_argument("--waiting", type=int, help=f"timers of `start`, default {WAITING:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    count = 500 if options.quick else 40_000
    waiting = options.waiting or (2_000 if options.quick else WAITING)
    spread = 200 if options.quick else 3_000
    cells: list[Cell] = []
    for store in ("memory", "sqlite"):
        for name, work in (("set", _set), ("fire", _fire)):
            measure = partial(_measured, store, partial(work, count, options.clients))
            cells.append(Cell(store, name, measure))
        cells.append(Cell(store, "on time", partial(_measured, store, partial(_on_time, spread))))
    group = f"{waiting:,} waiting"
    cells.append(Cell(group, "none waits", partial(_start, 0)))
    cells.append(Cell(group, "start", partial(_start, waiting), ("none waits",)))
    return Scenario(
        name="timers",
        title="commands for later: set, fired, on time, and what waiting costs at the start",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL; memory: none",
            "timers": f"{count:,} set and fired, each of an aggregate of its own",
            "loop": "uvloop, 256 clients, commands without keys",
        },
        columns=(
            Column("rate", "/s", "more"),
            Column("p99", "ms", "less", 1),
            Column("start", "ms", "less", 1),
        ),
        headline="rate",
        cells=cells,
    )


def _measured(
    store: str, work: Callable[[Store | str], Awaitable[Mapping[str, float]]], folder: Path
) -> Mapping[str, float]:
    made = MemoryStore() if store == "memory" else f"sqlite:{folder / 'log.db'}"
    figures: Mapping[str, float] = run(work, made)
    return figures


async def _all_set(engine: Engine, count: int, clients: int, seconds: float) -> float:
    """Set so many timers, by clients in a closed loop; give how long that took."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await engine.execute(SetOne(f"a-{number}", seconds))

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begin


async def _set(count: int, clients: int, store: Store | str) -> Mapping[str, float]:
    async with Engine([Alarm], store=store) as engine:
        seconds = await _all_set(engine, count, clients, _DAY)
        _check(engine.statistics().timers.waiting, count)
    return {"rate": count / seconds}


async def _fire(count: int, clients: int, store: Store | str) -> Mapping[str, float]:
    clock = ManualClock(1_000_000_000)
    ports = Ports(clock=clock, watcher=None)
    _rung.clear()
    async with Engine([Alarm], store=store, ports=ports) as engine:
        await _all_set(engine, count, clients, 60)
        begin = time.perf_counter()
        clock.advance(60)
        await _until_fired(engine, count)
        seconds = time.perf_counter() - begin
        _check(engine.statistics().position, 2 * count)
    return {"rate": count / seconds}


async def _on_time(count: int, store: Store | str) -> Mapping[str, float]:
    _rung.clear()
    async with Engine([Alarm], store=store) as engine:
        begin = time.perf_counter()
        for number in range(count):
            # One for each millisecond, from a second on that all of them take to be set.
            ahead = 2.0 + number / 1_000 - (time.perf_counter() - begin)
            await engine.execute(SetOne(f"a-{number}", max(0.0, ahead)))
        await _until_fired(engine, count)
        rate = count / (time.perf_counter() - begin)
        late = engine.statistics().timers.late_seconds.quantile(0.99)
    return {"rate": rate, "p99": late * 1_000}


async def _until_fired(engine: Engine, count: int) -> None:
    while len(_rung) < count:  # noqa: ASYNC110 - as a host would look
        await asyncio.sleep(0.002)
    while engine.statistics().timers.fired < count:  # noqa: ASYNC110 - as a host would look
        await asyncio.sleep(0.002)


def _start(waiting: int, folder: Path) -> Mapping[str, float]:
    path = str(folder / "log.db")
    run(_fill, path, waiting)
    begin = time.perf_counter()
    run(_first_receipt, path)
    seconds = time.perf_counter() - begin
    return {"rate": 1 / seconds, "start": seconds * 1_000}


async def _fill(path: str, waiting: int) -> None:
    store = SqliteStore(path)
    await store.open(Ports())
    kind = EventType(WasSet.event_name, WasSet.event_version, schema_hash(WasSet))
    due = Ports().clock.now() + _DAY * 1_000_000
    for begin in range(0, waiting, _BATCH):
        requests = [
            AppendRequest(
                [Write(f"alarm:a-{n}", 0, [EventData(kind, b"{}")])],
                [SetTimer(f"alarm:a-{n}", "ring", due + n, "ring", b'{"alarm":"a-%d"}' % n, b"")],
            )
            for n in range(begin, min(begin + _BATCH, waiting))
        ]
        await store.append(Batch(requests, due - _DAY * 1_000_000))
    _check((await store.count_timers())[0], waiting)
    await store.close()


async def _first_receipt(path: str) -> None:
    async with Engine([Alarm], store=f"sqlite:{path}") as engine:
        await engine.execute(SetOne("new", _DAY))


def _check(found: int, expected: int) -> None:
    if found != expected:
        raise Wrong(f"{found} and not {expected} were left")
