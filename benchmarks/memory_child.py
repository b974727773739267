"""The process in which `memory` counts bytes: it fills memory with one thing and tells its share.

It is run as `python -m benchmarks.memory_child WHAT ORDERS METER STORE` and prints one JSON object:
bytes by order, and the engine's own estimate where there is one. The states alone are measured in
every process, first, and held until its end. Garbage is collected before each reading.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec

import engine

from .bare import fold
from .filled import Orders
from .scenario import Wrong
from .workload import BenchmarkOrder, OpenOrder, OrderOpened

WINDOW = 1_000


def main(what: str, count: int, meter: str, store: str) -> None:
    """Fill memory and print its figures."""
    orders = Orders(count, 1)
    held, before, after = _hold_states(orders, meter)
    state = (after - before) / count
    figures = {"each": state}
    if what != "states":
        figures = engine.run(_hold_engine, orders, meter, store, what == "written")
        figures["above state"] = figures["each"] - state
    assert len(held) == count, "what was read first is held until the end"
    print(msgspec.json.encode(figures).decode())


def _hold_states(orders: Orders, meter: str) -> tuple[list[Any], int, int]:
    """Fold the orders and keep nothing but their states."""
    held: list[Any] = [None] * orders.count
    before = read_bytes(meter)
    for number in range(orders.count):
        event = OrderOpened(orders.id_of(number), "mouse", 1)
        payload = msgspec.json.encode(event)
        held[number] = fold(orders.id_of(number), [("order-opened", payload)])
    return held, before, read_bytes(meter)


async def _hold_engine(orders: Orders, meter: str, store: str, written: bool) -> dict[str, float]:
    """Have the orders loaded, or write them with keys, and look what the process has more."""
    # A collection among so many objects holds the loop up for long; time is not measured here.
    limits = engine.Limits(
        resident_aggregates=orders.count + 1, idle_seconds=86_400, loop_blocked_ms=60_000
    )
    async with engine.Engine([BenchmarkOrder], store=store, limits=limits) as shop:
        # One stays, so that nothing of what is read or made at the first use counts as its share.
        await _send(shop, Orders(1, 1, "first-"), written=True)
        before = read_bytes(meter)
        await _send(shop, orders, written=written)
        await asyncio.sleep(0)
        after = read_bytes(meter)
        numbers = shop.statistics().aggregates
    if numbers.resident != orders.count + 1:
        raise Wrong(f"{numbers.resident:,} orders are in memory, not {orders.count + 1:,}")
    return {"each": (after - before) / orders.count, "estimate": numbers.bytes_each}


async def _send(shop: engine.Engine, orders: Orders, *, written: bool) -> None:
    commands = (
        engine.Envelope(
            command=OpenOrder(orders.id_of(number), "mouse", 1),
            key=f"{orders.id_of(number)}/0" if written else None,
        )
        for number in range(orders.count)
    )
    expected = engine.Receipt if written else engine.Rejected
    async for answer in shop.execute_many(commands, window=WINDOW):
        if not isinstance(answer, expected):
            raise Wrong(f"an answer is {answer!r} and not {expected.__name__}")


def read_bytes(meter: str) -> int:
    """Give the bytes that the process holds, by its resident set or by Python's own account."""
    gc.collect()
    if meter == "traced":
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        return tracemalloc.get_traced_memory()[0]
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    ps = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return int(subprocess.run(ps, capture_output=True, text=True, check=True).stdout) * 1_024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
