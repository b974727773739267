"""`open`: commands are sent at a given rate, whatever becomes of those before them.

In a closed loop a client that waits for a slow answer sends nothing meanwhile, so a stall is seen
by few. Here command n is due at n / rate, and its latency runs from that moment to its answer: if
the system or the sender is late, every command that had to wait says so. `sent late` tells how much
of it is the sender's own: it runs in the same event loop, sleeps for a millisecond at least, and
then sends all that has become due. A sender that took turn after turn of the loop instead would
keep the interpreter's lock, for which every thread of the system waits, as no host does that
listens to sockets.

Rates are given (`--rates`), or are parts of the saturation that a closed loop of 256 clients has
reached just before, in the same round (`--parts`). Every latency goes into an HDR histogram. The
floor is the bare actor loop over bare SQLite under the same rate.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

import engine

from . import closed_loop
from .histogram import Histogram
from .scenario import Cell, Column, Scenario, Wrong
from .systems import DURABLE, Commits, System, Target, check_count, engine_system, floor_system
from .workload import COMMANDS_PER_ORDER, AdjustOrder, OpenOrder, commands_of

__all__ = ["Offered", "Schedule", "add_options", "measure", "offer", "scenario"]

COLUMNS = (
    Column("offered", "/s"),
    Column("commands", "/s", "more"),
    Column("p50", "ms", "less", 2),
    Column("p99", "ms", "less", 2),
    Column("p99.9", "ms", "less", 2),
    Column("max", "ms", "", 1),
    Column("sent late, p99", "ms", "", 2),
    Column("refused", ""),
    Column("events", "/commit", "", 1),
)
SATURATING_CLIENTS = 256
LEAST_RATE = 100.0
"""Offered at least, so that there are figures where a disk stood still while it was measured."""
BURST = 256
"""Commands that a sender who is late sends before it lets the loop go on."""
TICK_SECONDS = 0.001
"""How long the sender sleeps at least."""
LANES = 1_000
"""Orders that are at work at the same time: command n belongs to the order of lane n % LANES."""


class Schedule(msgspec.Struct, frozen=True):
    """When each command is due: command n (0, 1, 2 …) is due at begin + n / rate."""

    begin: float
    rate: float
    """Commands per second."""
    seconds: float
    """For how long; the last command is due before its end."""

    @property
    def count(self) -> int:
        """How many commands there are."""
        return int(self.rate * self.seconds)

    def due_at(self, number: int) -> float:
        """When a command is due."""
        return self.begin + number / self.rate

    def due_by(self, now: float) -> int:
        """How many commands are due at a moment, those before it included."""
        if now < self.begin:
            return 0
        return min(int((now - self.begin) * self.rate) + 1, self.count)


class Offered(msgspec.Struct):
    """What became of the commands of a schedule."""

    latencies: Histogram
    """From when a command was due to its receipt; of those after the warm-up."""
    late: Histogram
    """From when a command was due to when it was sent."""
    acknowledged: int = 0
    refused: int = 0
    """Answered that they were not run, or turned down since an earlier one of their order was."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--rates", type=float, nargs="+", help="commands/s, instead of --parts")
    which.add_argument(
        "--parts", type=float, nargs="+", help="of saturation; default 0.25 0.5 0.75"
    )


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    keyed = engine_system(durable=True, keyed=True)
    apart = engine_system(durable=True, keyed=True, apart=True)
    floor = floor_system(durable=True)
    reached: list[float] = []
    cells: list[Cell] = []
    rates: dict[str, Callable[[], float]] = {
        f"sqlite, {rate:,.0f}/s": partial(float, rate) for rate in options.rates or ()
    }
    if not rates:
        measured = partial(_saturate, keyed, options.seconds, reached)
        cells.append(Cell("sqlite, saturation", f"{keyed.name}, closed loop", measured))
        parts: Sequence[float] = options.parts or ((0.5,) if options.quick else (0.25, 0.5, 0.75))
        for part in parts:
            rates[f"sqlite, {part:.0%} of saturation"] = partial(_part, part, reached)
    for group, rate in rates.items():
        for system, against in ((floor, ()), (keyed, (floor.name,)), (apart, (floor.name,))):
            run = partial(measure, system, rate, options.seconds)
            cells.append(Cell(group, system.name, run, against))
    return Scenario(
        "open",
        "from the moment that a command is due to its durable receipt, open loop",
        {
            "durability": DURABLE,
            "work": f"create an order, adjust it nine times; {LANES:,} orders at a time",
            "keyed": "with key, correlation and principal",
            "writer apart": "the log is written by a process of its own (?writer=process)",
            "saturation": f"a closed loop of {SATURATING_CLIENTS} clients, in the same round",
            "loop": f"uvloop; the sender is its task; {options.seconds:g} s a cell, a quarter more "
            "before that does not count",
        },
        COLUMNS,
        "p99",
        cells,
    )


def _saturate(
    system: System, seconds: float, reached: list[float], folder: Path
) -> dict[str, float]:
    figures = closed_loop.measure(
        system, closed_loop.MANY_ORDERS, SATURATING_CLIENTS, seconds, folder
    )
    reached[:] = [figures["commands"]]
    return figures


def _part(part: float, reached: Sequence[float]) -> float:
    """Give the rate that is a part of the saturation of this round, which was measured before."""
    return max(part * reached[0], LEAST_RATE)


def measure(
    system: System, rate: Callable[[], float], seconds: float, folder: Path
) -> dict[str, float]:
    """Offer commands at a rate to a system in a loop of its own, and check what it left."""
    per_second = rate()
    offered, stored, lasted = engine.run(_run, system, per_second, seconds, folder)
    check_count(system, folder, offered.acknowledged, stored.events)
    return {
        "offered": per_second,
        "commands": offered.acknowledged / lasted,
        **offered.latencies.milliseconds(),
        "max": offered.latencies.max * 1e3,
        "sent late, p99": offered.late.percentile(99) * 1e3,
        "refused": offered.refused,
        "events": stored.events / stored.commits,
    }


async def _run(
    system: System, rate: float, seconds: float, folder: Path
) -> tuple[Offered, Commits, float]:
    async with system.open(folder) as target:
        begin = time.perf_counter()
        schedule = Schedule(begin, rate, seconds * 1.25)
        offered = await offer(target, schedule, warm_up=seconds * 0.25)
        lasted = time.perf_counter() - begin
        return offered, target.commits(), lasted


def _commands_in(lane: int) -> Iterator[OpenOrder | AdjustOrder]:
    """Give the commands of a lane, without end; of its first order not all.

    So every tenth command opens an order, once each lane has its first. With whole orders in all
    lanes, a thousand in a row would open one, and then 9,000 none.
    """
    commands = commands_of(lane)
    first = list(itertools.islice(commands, COMMANDS_PER_ORDER))
    yield from first[: lane % COMMANDS_PER_ORDER + 1]
    yield from commands


async def offer(target: Target, schedule: Schedule, *, warm_up: float) -> Offered:
    """Send every command when it is due, and return when all are answered.

    Commands that are due in the first `warm_up` seconds are sent and counted, but not timed.
    """
    offered = Offered(Histogram(), Histogram())
    lanes = [_commands_in(lane) for lane in range(LANES)]
    timed_from = schedule.begin + warm_up
    under_way: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def one(number: int) -> None:
        due = schedule.due_at(number)
        begin = time.perf_counter()
        try:
            await target.send(next(lanes[number % LANES]), number)
        except (engine.NotRun, engine.Rejected):
            offered.refused += 1
            return
        end = time.perf_counter()
        offered.acknowledged += 1
        if due >= timed_from:
            offered.latencies.record(end - due)
            offered.late.record(begin - due)

    def ended(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if error := task.exception():
            failures.append(error)

    sent = 0
    while sent < schedule.count:
        due = schedule.due_by(time.perf_counter())
        for number in range(sent, min(due, sent + BURST)):
            task = asyncio.create_task(one(number))
            under_way.add(task)
            task.add_done_callback(ended)
            sent = number + 1
        # Where more are due, the loop gets a turn all the same.
        pause = max(schedule.due_at(sent) - time.perf_counter(), TICK_SECONDS)
        await asyncio.sleep(0 if sent < due else pause)
    while under_way:
        await asyncio.wait(list(itertools.islice(under_way, BURST)))
    if failures:
        raise Wrong(f"{len(failures)} commands failed, the first with {failures[0]!r}")
    return offered
