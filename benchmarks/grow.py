"""`grow`: how fast 256 clients write while their log grows to 5,000,000 events.

In time order each client opens an order, adjusts it nine times, and begins the next; orders that
are done leave memory in their turn. Their ids rise with time, as serial numbers and UUIDs of
version 7 do; in series they rise within each of 256 series, one of each client. At random each
command adjusts one of 100,000 old orders, all of which are in memory: what is measured is the log
with its index, not loading (`cold` does that).
All events go through the engine. A figure is the rate over the last quarter of a million before
its mark; `start` is the rate over the first quarter. The floor inserts the same events by bare
APSW in batches of 256, a synced transaction each.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import msgspec

import engine

from . import bare_growth
from .bare_growth import BATCH, SEED
from .filled import LOG, check_count
from .scenario import Cell, Column, Scenario
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder, commands_about
from .writers import CLIENTS, Commands, clients, write

__all__ = ["add_options", "scenario"]

EVENTS, QUICK_EVENTS = 5_000_000, 10_240
MARKS = 5
OLD_ORDERS, QUICK_OLD_ORDERS = 100_000, 512


class Size(msgspec.Struct, frozen=True):
    """How far the log grows."""

    events: int
    old_orders: int
    """Opened before the first figure, where commands go to orders at random."""

    @property
    def window(self) -> int:
        """Events of one figure, in whole batches of the floor."""
        return self.events // MARKS // 4 // BATCH * BATCH

    @property
    def stages(self) -> Sequence[tuple[str, int, int]]:
        """Give for each figure its name, the events to write before it, and its own."""
        marks = [self.events * n // MARKS for n in range(1, MARKS + 1)]
        stages = [("start", 0, self.window)]
        at = self.window
        for mark in marks:
            stages.append((_name(mark), mark - self.window - at, self.window))
            at = mark
        return stages


def _name(mark: int) -> str:
    return f"{mark / 1e6:g} M" if mark % 100_000 == 0 else f"{mark:,}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--events", type=int, help=f"at the end, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    quick = options.quick
    events = options.events or (QUICK_EVENTS if quick else EVENTS)
    size = Size(events, min(QUICK_OLD_ORDERS if quick else OLD_ORDERS, events))
    marks = [name for name, _, _ in size.stages]
    return Scenario(
        name="grow",
        title=f"writing while the log grows to {events:,} events",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL, engine and floor alike",
            "load": f"{CLIENTS} clients in a closed loop, bare commands of one event",
            "figure": f"the rate over the last {size.window:,} events before its mark; start: "
            "the first ones",
            "time order": "each client opens an order, adjusts it nine times, begins the next; "
            "ids rise with time",
            "series": f"the same, and ids rise in {CLIENTS} series, one of each client",
            "random": f"each command adjusts any of {size.old_orders:,} old orders, which are in "
            "memory and were opened before the first figure",
            "floor": f"bare APSW, batches of {CLIENTS}, the same columns and index, no triggers",
        },
        columns=(
            *(Column(mark, "/s", "more") for mark in marks),
            Column("end of start", "%", "more"),
            Column("batch", "events", "", 0),
        ),
        headline=marks[-1],
        cells=[
            cell
            for order in ("time order", "series", "random")
            for cell in (
                Cell(order, "floor", partial(_measure_floor, size, order == "random")),
                Cell(order, "engine", partial(_measure_engine, size, order), ("floor",)),
            )
        ],
    )


def _figures(rates: Mapping[str, float], batch: float) -> Mapping[str, float]:
    first, *_, last = rates.values()
    return {**rates, "end of start": last / first * 100, "batch": batch}


def _measure_engine(size: Size, order: str, folder: Path) -> Mapping[str, float]:
    figures, acknowledged = engine.run(_grow, size, order, f"sqlite:{folder / LOG}")
    check_count(folder / LOG, acknowledged)
    return figures


async def _grow(size: Size, order: str, store: str) -> tuple[Mapping[str, float], int]:
    limits = engine.Limits(resident_aggregates=max(OLD_ORDERS, size.old_orders) + CLIENTS)
    rates: dict[str, float] = {}
    acknowledged = 0
    async with engine.Engine([BenchmarkOrder], store=store, limits=limits) as shop:
        commands: Sequence[Commands] = clients() if order == "series" else _in_time_order()
        if order == "random":
            acknowledged = size.old_orders
            await write(shop.execute, _openings(acknowledged), acknowledged)
            commands = _adjustments(size.old_orders)
        for name, before, measured in size.stages:
            await write(shop.execute, commands, before)
            rates[name] = measured / await write(shop.execute, commands, measured)
            acknowledged += before + measured
        numbers = shop.statistics().journal
    return _figures(rates, numbers.events / numbers.commits), acknowledged


def _in_time_order() -> Sequence[Commands]:
    """Let all clients take the ids of their orders from one series, in the order of their need."""
    order_ids = (f"{number:012d}" for number in itertools.count())
    return [commands_about(order_ids) for _ in range(CLIENTS)]


def _openings(count: int) -> Sequence[Commands]:
    """Open all old orders, by whichever client is free."""
    commands = (OpenOrder(f"{number:08d}", "mouse", 1) for number in range(count))
    return [commands] * CLIENTS


def _adjustments(count: int) -> Sequence[Commands]:
    numbers = Random(SEED)

    def client() -> Commands:
        while True:
            number = numbers.randrange(count)
            yield AdjustOrder(f"{number:08d}", "mouse", number % 9 + 1)

    return [client() for _ in range(CLIENTS)]


def _measure_floor(size: Size, at_random: bool, folder: Path) -> Mapping[str, float]:
    path = folder / LOG
    connection = bare_growth.connect(path)
    rows = bare_growth.random_rows(size.old_orders) if at_random else bare_growth.rows()
    done = 0
    if at_random:
        done = size.old_orders // BATCH * BATCH
        bare_growth.insert(connection, rows, done)
    rates: dict[str, float] = {}
    for name, before, measured in size.stages:
        bare_growth.insert(connection, rows, before // BATCH * BATCH)
        begin = time.perf_counter()
        bare_growth.insert(connection, rows, measured)
        rates[name] = measured / (time.perf_counter() - begin)
        done += before // BATCH * BATCH + measured
    connection.close()
    check_count(path, done)
    return _figures(rates, BATCH)
