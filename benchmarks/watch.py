"""`watch`: from the acknowledgement of a command to its sight by each of those who watch.

1,000 watchers, each a task in the engine's own loop, follow `engine.watch()`: all of them one
order, or each an order of its own. Commands are sent at a given rate (an open loop), whatever
becomes of those before them. The clock of a command starts when its sender has the receipt, and
stops in each watcher at the first answer that contains it; where a watcher saw it sooner that is 0.
So with one order a command is timed 1,000 times, and a watcher that is given one newer answer
instead of two has seen both in it. In between are a projector's fold, its transaction, the ask and
the waking.

The floor is a bare fan-out in asyncio: 1,000 tasks, each with a queue, into which the sender puts a
number, at the same rate; no command is run, nothing is stored and nobody is asked. Afterwards every
watcher must have seen every command, and the log is opened again and its events are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import engine
from engine import LiveQuery, Query, Views, answers

from .filled import LOG, check_count
from .histogram import Histogram
from .open_loop import Schedule
from .project import Summaries, Summary
from .scenario import Cell, Column, Scenario, Wrong
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder

__all__ = ["add_options", "scenario"]

WATCHERS, QUICK_WATCHERS = 1_000, 50
RATE_OF_ONE, RATE_OF_MANY = 50.0, 500.0
SEEN_SECONDS = 30.0
"""How long the watchers may take for what they have not seen at the end."""


class GetSummary(Query[Summary | None]):
    """Asks for one order."""

    order_id: str


@answers
async def get_summary(query: GetSummary, views: Views) -> Summary | None:
    """Give it."""
    return await views.get(Summaries.rows, query.order_id)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--watchers", type=int, help=f"default {WATCHERS:,}")
    parser.add_argument(
        "--rate-one", type=float, default=RATE_OF_ONE, help="commands/s where all watch one order"
    )
    parser.add_argument(
        "--rate-each", type=float, default=RATE_OF_MANY, help="where each watches its own"
    )


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    watchers = options.watchers or (QUICK_WATCHERS if options.quick else WATCHERS)
    cells: list[Cell] = []
    for orders, rate in ((1, options.rate_one), (watchers, options.rate_each)):
        what = "one query" if orders == 1 else f"{orders:,} queries"
        group = f"{watchers:,} watchers of {what}, {rate:,.0f}/s"
        run = partial(_measure, watchers, orders, rate, options.seconds)
        cells.append(Cell(group, "floor (queues)", partial(run, _fan_out)))
        cells.append(Cell(group, "engine", partial(run, _serve), ("floor (queues)",)))
    return Scenario(
        name="watch",
        title="from a command's acknowledgement to its sight by each who watches",
        conditions={
            "durability": "log: WAL, synchronous=FULL; views: WAL, synchronous=NORMAL; floor: none",
            "watchers": "tasks in the engine's loop; a summary of an order, by its key",
            "floor": "a task and an asyncio.Queue for each watcher; no commands, views or asks",
            "loop": f"uvloop; {options.seconds:g} s a cell, a quarter more before does not count",
        },
        columns=(
            Column("commands", "/s"),
            Column("p50", "ms", "less", 2),
            Column("p99", "ms", "less", 2),
            Column("p99.9", "ms", "less", 2),
            Column("max", "ms", "", 1),
            Column("sights", "/s"),
            Column("asks", "/command", "", 2),
        ),
        headline="p99",
        cells=cells,
    )


class _Sights:
    """When each command was acknowledged, and when each watcher saw it."""

    def __init__(self, watchers: int, orders: int) -> None:
        self.acknowledged: list[list[float]] = [[] for _ in range(orders)]
        """By order, and by the version that the command left."""
        self.seen = [0] * watchers
        """The last version that each watcher saw."""
        self.latencies: list[float] = []
        self.counting_from = float("inf")

    def order_of(self, watcher: int) -> int:
        """Give the order that a watcher watches."""
        return watcher % len(self.acknowledged)

    def acknowledge(self, order: int, version: int) -> None:
        """Note that a command's sender has its receipt."""
        moments = self.acknowledged[order]
        if version != len(moments) + 1:
            raise Wrong(f"version {version} of order {order} came after {len(moments)}")
        moments.append(time.perf_counter())

    def see(self, watcher: int, version: int) -> None:
        """Note that a watcher sees all commands up to a version."""
        now = time.perf_counter()
        before, self.seen[watcher] = self.seen[watcher], version
        if not before:
            return  # what was there when it began
        moments = self.acknowledged[self.order_of(watcher)]
        for place in range(before, version):
            # A command may be seen before its sender hears of it.
            moment = moments[place] if place < len(moments) else now
            if moment >= self.counting_from:
                self.latencies.append(now - moment)

    def have_all(self) -> bool:
        """Whether every watcher has seen every command."""
        return all(
            version == len(self.acknowledged[self.order_of(watcher)])
            for watcher, version in enumerate(self.seen)
        )


Send = Callable[[int], Awaitable[None]]
"""Sends a command to an order, and notes its acknowledgement."""
Serve = Callable[[_Sights, Path, Callable[[Send], Awaitable[None]]], Awaitable[float]]
"""Lets the watchers watch while commands are sent; gives how many asks there were."""


def _measure(
    watchers: int, orders: int, rate: float, seconds: float, serve: Serve, folder: Path
) -> Mapping[str, float]:
    return engine.run(_run, watchers, orders, rate, seconds, serve, folder)


async def _run(
    watchers: int, orders: int, rate: float, seconds: float, serve: Serve, folder: Path
) -> Mapping[str, float]:
    sights, sent = _Sights(watchers, orders), 0

    async def offer(send: Send) -> None:
        nonlocal sent
        schedule = Schedule(time.perf_counter(), rate, seconds * 1.25)
        sights.counting_from = schedule.begin + seconds / 4
        await _offer(schedule, orders, send)
        sent = schedule.count
        await _until_seen(sights)

    asks = await serve(sights, folder, offer)
    times = Histogram(sights.latencies)
    return {
        "commands": rate,
        **times.milliseconds(),
        "max": times.max * 1e3,
        "sights": times.count / seconds,
        **({"asks": asks / sent} if asks else {}),
    }


async def _offer(schedule: Schedule, orders: int, send: Send) -> None:
    """Send each command when it is due, and return when all are answered."""
    under_way: set[asyncio.Task[None]] = set()
    for number in range(schedule.count):
        await asyncio.sleep(max(schedule.due_at(number) - time.perf_counter(), 0))
        task = asyncio.ensure_future(send(number % orders))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


async def _until_seen(sights: _Sights) -> None:
    deadline = time.perf_counter() + SEEN_SECONDS
    while not sights.have_all():
        if time.perf_counter() > deadline:
            raise Wrong(f"after {SEEN_SECONDS:g} s some watcher has not seen what was acknowledged")
        await asyncio.sleep(0.01)


async def _serve(sights: _Sights, folder: Path, offer: Callable[[Send], Awaitable[None]]) -> float:
    store = f"sqlite:{folder / LOG}"
    shop = engine.Engine(
        [BenchmarkOrder], projections=[Summaries], answers=[get_summary], store=store
    )
    orders = range(len(sights.acknowledged))

    async def send(order: int) -> None:
        quantity = len(sights.acknowledged[order]) % 9 + 1
        receipt = await shop.execute(AdjustOrder(f"{order:06d}", "mouse", quantity))
        sights.acknowledge(order, receipt.version)

    async def watch(watcher: int, live: LiveQuery[Summary | None]) -> None:
        async for summary in live:
            if summary is not None:
                sights.see(watcher, summary.changes)

    async with shop:
        for order in orders:
            receipt = await shop.execute(OpenOrder(f"{order:06d}", "mouse", 1))
            sights.acknowledge(order, receipt.version)
        watching = [
            asyncio.ensure_future(
                watch(number, shop.watch(GetSummary(f"{sights.order_of(number):06d}")))
            )
            for number in range(len(sights.seen))
        ]
        await _until_seen(sights)
        before = shop.statistics().live.asks
        await offer(send)
        asks = shop.statistics().live.asks - before
    await asyncio.gather(*watching)
    check_count(folder / LOG, sum(map(len, sights.acknowledged)))
    return asks


async def _fan_out(sights: _Sights, _: Path, offer: Callable[[Send], Awaitable[None]]) -> float:
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in sights.seen]
    of_order: list[Sequence[asyncio.Queue[int]]] = [
        [queue for number, queue in enumerate(queues) if sights.order_of(number) == order]
        for order in range(len(sights.acknowledged))
    ]

    async def send(order: int) -> None:
        version = len(sights.acknowledged[order]) + 1
        sights.acknowledge(order, version)
        for queue in of_order[order]:
            queue.put_nowait(version)

    async def watch(watcher: int, queue: asyncio.Queue[int]) -> None:
        while True:
            sights.see(watcher, await queue.get())

    watching = [asyncio.ensure_future(watch(number, queue)) for number, queue in enumerate(queues)]
    for order in range(len(of_order)):
        await send(order)
    await _until_seen(sights)
    await offer(send)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return 0.0
