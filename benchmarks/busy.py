"""`busy`: the engine in a host whose event loop computes half of the time, 5 ms at a stretch.

Two questions. How much goes through (a closed loop of 256 clients, the host resting on a timer
between its slices)? And for how long does the engine keep the loop from the host, when 20,000
commands/s are offered in an open loop? For the second one, the host does not rest between its
slices: for 5 ms it asks for its next turn, again and again, and notes how long the loop took to
come back to it. That is a turn of the loop, in which everybody that is ready runs once: the
engine's steps, the senders, the answers, and the wait for the interpreter that a thread holds.

So what is told is never less than the longest step of the engine in that turn. The percentiles are
over time and not over turns, since a loop with nothing to do makes many empty turns: 99.9 % of the
time that the host did not compute passed in turns no longer than `turn p99.9`; an event that comes
at any moment waits no longer for the loop. (Of one second that is all but a millisecond, so run it
for long: `--seconds 20`.) `nobody` answers every command at once and stores
nothing: what is left there is the senders' own, and the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Coroutine
from functools import partial
from pathlib import Path

import msgspec

import engine

from .closed_loop import MANY_ORDERS, drive
from .histogram import Histogram
from .open_loop import Schedule, offer
from .scenario import Cell, Column, Scenario
from .systems import DURABLE, Commits, System, Target, check_count, engine_system, floor_system
from .workload import AdjustOrder, OpenOrder

__all__ = ["add_options", "scenario"]

COLUMNS = (
    Column("commands", "/s", "more"),
    Column("p50", "ms", "less", 2),
    Column("p99", "ms", "less", 2),
    Column("p99.9", "ms", "less", 2),
    Column("turn p99", "ms", "less", 2),
    Column("turn p99.9", "ms", "less", 2),
    Column("turn max", "ms", "", 2),
    Column("computed", "%", "", 1),
    Column("events", "/commit", "", 1),
)
SLICE = 0.005
"""Seconds that the host computes, and then does not."""


class Host(msgspec.Struct):
    """What the host saw."""

    computed: float = 0.0
    """Seconds."""
    turns: Histogram = msgspec.field(default_factory=Histogram)
    """Turns of the loop while the host did not compute, each weighed by the time that it took."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--clients", type=int, default=256, help="of the closed loop; default 256")
    parser.add_argument("--rate", type=float, default=20_000, help="offered/s; default 20000")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    nobody, floor = _nobody(), floor_system(durable=True)
    keyed = engine_system(durable=True, keyed=True)
    apart = engine_system(durable=True, keyed=True, apart=True)

    def closed(system: System, *against: str) -> Cell:
        run = partial(measure_closed, system, options.clients, options.seconds)
        return Cell(f"sqlite, {options.clients:,} clients", system.name, run, against)

    def offered(system: System, *against: str) -> Cell:
        run = partial(measure_offered, system, options.rate, options.seconds)
        return Cell(f"sqlite, {options.rate:,.0f}/s offered", system.name, run, against)

    return Scenario(
        "busy",
        "commands to durable receipts in a loop whose host computes half of the time",
        {
            "durability": DURABLE,
            "work": "create an order, adjust it nine times",
            "keyed": "with key, correlation and principal",
            "writer apart": "the log is written by a process of its own (?writer=process)",
            "host": f"computes for {SLICE * 1e3:g} ms at a stretch, in the engine's own loop",
            "turn": "of the event loop, while the host does not compute; percentiles are of time",
            "loop": f"uvloop; {options.seconds:g} s a cell, a quarter more before does not count",
        },
        COLUMNS,
        "commands",
        [
            closed(floor),
            closed(keyed, floor.name),
            offered(floor),
            offered(nobody),
            offered(keyed, floor.name, nobody.name),
            offered(apart, floor.name, nobody.name),
        ],
    )


def measure_closed(system: System, clients: int, seconds: float, folder: Path) -> dict[str, float]:
    """Run clients beside a host that rests between its slices."""
    return engine.run(_run_closed, system, clients, seconds, folder)


async def _run_closed(
    system: System, clients: int, seconds: float, folder: Path
) -> dict[str, float]:
    async with system.open(folder) as target:
        begin, host = time.perf_counter(), Host()
        async with _beside(_rest_and_compute(host)):
            rate, times, answers = await drive(target, MANY_ORDERS, clients, seconds)
            lasted = time.perf_counter() - begin
        stored = target.commits()
    check_count(system, folder, answers, stored.events)
    return {
        "commands": rate,
        **times.milliseconds(),
        "computed": host.computed / lasted * 100,
        "events": stored.events / stored.commits,
    }


def measure_offered(system: System, rate: float, seconds: float, folder: Path) -> dict[str, float]:
    """Offer commands beside a host that watches the loop between its slices."""
    return engine.run(_run_offered, system, rate, seconds, folder)


async def _run_offered(
    system: System, rate: float, seconds: float, folder: Path
) -> dict[str, float]:
    async with system.open(folder) as target:
        begin, host = time.perf_counter(), Host()
        async with _beside(_watch_and_compute(host)):
            schedule = Schedule(begin, rate, seconds * 1.25)
            offered = await offer(target, schedule, warm_up=seconds * 0.25)
            lasted = time.perf_counter() - begin
        stored = target.commits()
    check_count(system, folder, offered.acknowledged, stored.events)
    return {
        "commands": offered.acknowledged / lasted,
        **offered.latencies.milliseconds(),
        "turn p99": host.turns.percentile(99) * 1e3,
        "turn p99.9": host.turns.percentile(99.9) * 1e3,
        "turn max": host.turns.max * 1e3,
        "computed": host.computed / lasted * 100,
        **({"events": stored.events / stored.commits} if stored.commits else {}),
    }


@contextlib.asynccontextmanager
async def _beside(host: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Let the host live while the body runs."""
    task = asyncio.create_task(host)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _compute(host: Host) -> float:
    """Keep the loop for a slice; give the time after it."""
    begin = now = time.perf_counter()
    while now - begin < SLICE:
        sum(range(100))
        now = time.perf_counter()
    host.computed += now - begin
    return now


async def _rest_and_compute(host: Host) -> None:
    while True:
        _compute(host)
        await asyncio.sleep(SLICE)


async def _watch_and_compute(host: Host) -> None:
    while True:
        before = _compute(host)
        end = before + SLICE
        while before < end:
            await asyncio.sleep(0)
            now = time.perf_counter()
            host.turns.record(now - before, weight=max(int((now - before) * 1e9), 1))
            before = now


def _nobody() -> System:
    @contextlib.asynccontextmanager
    async def opened(_: Path) -> AsyncGenerator[Target]:
        answered = 0

        async def send(_command: OpenOrder | AdjustOrder, _number: int) -> None:
            nonlocal answered
            answered += 1

        yield Target(send, lambda: Commits(answered, 0))

    return System("nobody", opened, None)
