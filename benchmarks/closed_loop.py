"""A closed loop: each client sends its next command when it has the answer to the last.

Rules: a quarter of the time passes first, or as long as is said, and does not count. A latency is
that of one command, from its client's call to its answer, and what is under way at the end is
waited for and timed too; the rate counts the answers within the time. What the clients themselves
cost is in every figure, the floors' too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

import engine

from .histogram import Histogram
from .scenario import Column
from .systems import System, Target, check_count
from .workload import AdjustOrder, OpenOrder, commands_of

__all__ = ["COLUMNS", "MANY_ORDERS", "ONE_ORDER", "Work", "drive", "measure"]

COLUMNS = (
    Column("commands", "/s", "more"),
    Column("p50", "ms", "less", 2),
    Column("p99", "ms", "less", 2),
    Column("p99.9", "ms", "less", 2),
    Column("events", "/commit", "", 1),
)


class Work(msgspec.Struct, frozen=True):
    """What the clients do."""

    first: Sequence[OpenOrder]
    """Sent before them."""
    commands_of: Callable[[int], Iterator[OpenOrder | AdjustOrder]]
    """The commands of one client, without end."""


def _adjustments(_: int) -> Iterator[AdjustOrder]:
    quantity = 1
    while True:
        quantity = quantity % 9 + 1
        yield AdjustOrder("one", "mouse", quantity)


MANY_ORDERS = Work((), commands_of)
"""Each client creates an order of its own, adjusts it nine times, and begins the next."""
ONE_ORDER = Work((OpenOrder("one", "mouse", 1),), _adjustments)
"""All clients adjust one order."""


def measure(
    system: System,
    work: Work,
    clients: int,
    seconds: float,
    folder: Path,
    *,
    warm: float | None = None,
) -> dict[str, float]:
    """Run a system in a loop of its own, check what it left, and give its figures."""
    before = seconds / 4 if warm is None else warm
    figures, answers, stored = engine.run(_run, system, work, clients, seconds, before, folder)
    check_count(system, folder, answers, stored)
    return figures


async def _run(
    system: System, work: Work, clients: int, seconds: float, before: float, folder: Path
) -> tuple[dict[str, float], int, int]:
    async with system.open(folder) as target:
        rate, times, answers = await drive(target, work, clients, seconds, before)
        stored = target.commits()
    figures = {
        "commands": rate,
        **times.milliseconds(),
        "events": stored.events / stored.commits,
    }
    return figures, answers, stored.events


async def drive(
    target: Target, work: Work, clients: int, seconds: float, before: float | None = None
) -> tuple[float, Histogram, int]:
    """Run the clients; give commands per second, latencies, and the number of all answers.

    What comes in the seconds `before` does not count; unless they are said, a quarter as many.
    """
    send = target.send
    times: list[float] = []
    answers = 0
    running = True
    warm = False

    async def client(number: int) -> None:
        nonlocal answers
        for sequence, command in enumerate(work.commands_of(number)):
            begin = time.perf_counter()
            await send(command, sequence * clients + number)
            answers += 1
            if warm:
                times.append(time.perf_counter() - begin)
            if not running:
                return

    for number, command in enumerate(work.first, 1):
        await send(command, -number)
        answers += 1
    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(seconds / 4 if before is None else before)
    warm, begin, first = True, time.perf_counter(), answers
    await asyncio.sleep(seconds)
    rate = (answers - first) / (time.perf_counter() - begin)
    running = False
    await asyncio.gather(*tasks)
    return rate, Histogram(times), answers
