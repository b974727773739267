"""`reactions`: from an event to the durable receipt of the command that follows from it.

A log is filled with orders, and an engine with a reactor of them is started, timed from its
construction to the answer of a query `at=` the end that waits for the reactor. Each event leads to
one command, with key, correlation, causation and principal, to a parcel of the order's own. Beside
it, in the same rounds, the walk: 256 clients that send such commands themselves. Live: the clients
send, and the reactor follows them; both are counted. Afterwards the log is opened again and its
events are counted: two for each event that was reacted to.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import engine
from engine import (
    Aggregate,
    Command,
    Event,
    Id,
    Query,
    Reactor,
    Views,
    answers,
    applies,
    handles,
    reacts,
)

from . import closed_loop
from .filled import CLIENTS, LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario
from .systems import DURABLE, engine_system
from .workload import BenchmarkOrder, OrderAdjusted, OrderOpened
from .writers import clients, write_for

__all__ = ["add_options", "scenario"]

EVENTS, QUICK_EVENTS = 100_000, 2_560
SECONDS_MAX: Final = 600.0
WALK: Final = "walk, commands with keys"


class Count(Command, gc=False):
    """Count what happened to an order."""

    parcel_id: Id
    quantity: int


class Counted(Event, name="counted", gc=False):
    """It was counted."""

    quantity: int


class Parcel(Aggregate, kind="benchmark-parcel"):
    """What is counted of one order."""

    quantity: int = 0

    @handles
    def count(self, command: Count) -> Counted:
        """Count it."""
        return Counted(command.quantity)

    @applies
    def counted(self, event: Counted) -> None:
        """Fold it."""
        self.quantity += event.quantity


class Counting(Reactor, name="counting", begins="start"):
    """One command for each event."""

    @reacts
    def changed(self, event: OrderOpened | OrderAdjusted) -> Count:
        """Count it."""
        return Count(event.order_id, event.quantity)


class Reached(Query[None]):
    """Waits for the reactor."""


@answers(projections=[Counting])
async def reached(query: Reached, views: Views) -> None:
    """Give nothing."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--events", type=int, help=f"reacted to, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    orders = Orders(max(1, events // 10), 10, keyed=True)
    log = Prepared(options.folder, lambda made: fill_sqlite(made, orders))
    group, walk = f"sqlite, {CLIENTS} clients", engine_system(durable=True, keyed=True)
    run_walk = partial(closed_loop.measure, walk, closed_loop.MANY_ORDERS, CLIENTS, options.seconds)
    return Scenario(
        name="reactions",
        title="from an event to the durable receipt of the command that follows from it",
        conditions={
            "durability": DURABLE,
            "catch-up": f"{orders.total:,} events of {orders.count:,} orders, from the engine's "
            "construction to the answer of a query that waits for the reactor",
            "live": f"bare commands of the clients for {options.seconds:g} s; `commands` are the "
            "reactor's, from the first client's command to the last reaction",
        },
        columns=(*closed_loop.COLUMNS, Column("of clients", "/s", "more")),
        headline="commands",
        cells=[
            Cell(group, WALK, run_walk),
            Cell(group, "reactions, catch-up", partial(_measure, log, orders), (WALK,)),
            Cell(group, "reactions, live", partial(_measure_live, options.seconds), (WALK,)),
        ],
    )


def _shop(url: str) -> engine.Engine:
    return engine.Engine(
        [BenchmarkOrder, Parcel], projections=[Counting], answers=[reached], store=url
    )


def _measure(log: Prepared, orders: Orders, folder: Path) -> Mapping[str, float]:
    with log.copied(folder) as copy:
        figures = engine.run(_catch_up, copy.url, orders.total)
        copy.check(2 * orders.total)
    return figures


async def _catch_up(url: str, events: int) -> Mapping[str, float]:
    begin = time.perf_counter()
    async with _shop(url) as shop:
        await shop.query(Reached(), at=events, timeout=SECONDS_MAX)
        seconds = time.perf_counter() - begin
        journal = shop.statistics().journal
    return {"commands": events / seconds, "events": journal.events / journal.commits}


def _measure_live(seconds: float, folder: Path) -> Mapping[str, float]:
    figures, sent = engine.run(_live, f"sqlite:{folder / LOG}", seconds)
    check_count(folder / LOG, 2 * sent)
    return figures


async def _live(url: str, seconds: float) -> tuple[Mapping[str, float], int]:
    async with _shop(url) as shop:
        begin = time.perf_counter()
        sent, took = await write_for(shop.execute, clients(), seconds)
        await shop.query(Reached(), at=shop.statistics().position, timeout=SECONDS_MAX)
        whole = time.perf_counter() - begin
        journal = shop.statistics().journal
    figures = {
        "commands": sent / whole,
        "of clients": sent / took,
        "events": journal.events / journal.commits,
    }
    return figures, sent
