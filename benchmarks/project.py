"""`project`: how fast a view catches up with a log, and what views cost those who write.

Catch-up: an engine is started on a log and a summary of each order is folded from its first event
to its last, timed from the engine's construction to the answer of a query `at=` the end. The floor
reads the same pages by bare APSW, compares the same checksums, and puts the same rows and a
checkpoint in a transaction a page. Live: 256 clients write in a closed loop while 0, 1 and 4 such
views follow; the writers' loss is the ratio to none in the same round. Every 20 ms a client looks
how far the views are behind. Beside a rebuild: the same clients on a log of as many events, whose
view is caught up, and is built anew beside the one that serves while they write. Afterwards the log
is opened again and its events are counted, and the sums in each view are compared with them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import engine
from engine import Meta, Projection, Query, Row, Table, Views, answers, projects

from .bare import BareLog, BareView, catch_up
from .filled import CLIENTS, LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder, OrderAdjusted, OrderOpened
from .writers import clients, write_for

__all__ = ["PROJECTIONS", "Summaries", "add_options", "count_summaries", "scenario"]

EVENTS, QUICK_EVENTS = 1_000_000, 5_120
LOOK_SECONDS = 0.02
CATCH_UP_SECONDS = 600.0
"""How long a query waits for the end of the log."""


class Summary(Row, key="order_id"):
    """What a list of orders shows of each."""

    order_id: str
    item: str
    quantity: int
    changes: int
    opened: int


class Summaries(Projection, name="summaries", version=1):
    """The orders; one event in ten asks for its metadata."""

    rows: Table[Summary]

    @projects
    def opened(self, event: OrderOpened, meta: Meta) -> None:
        """Begin the order's row."""
        self.rows.put(Summary(event.order_id, event.item, event.quantity, 1, meta.recorded))

    @projects
    def adjusted(self, event: OrderAdjusted) -> None:
        """Change it."""
        row = self.rows.get(event.order_id)
        assert row is not None, "an order is opened before it is adjusted"
        self.rows.update(event.order_id, quantity=event.quantity, changes=row.changes + 1)


class Second(Summaries, name="second", version=1):
    """The same in tables of its own."""


class Third(Summaries, name="third", version=1):
    """The same in tables of its own."""


class Fourth(Summaries, name="fourth", version=1):
    """The same in tables of its own."""


class Sliced(Summaries, name="sliced", version=1, slices=4):
    """The same, by four projectors that share the orders."""


PROJECTIONS: tuple[type[Summaries], ...] = (Summaries, Second, Third, Fourth)


class CountSummaries(Query[list[tuple[int, int]]]):
    """Asks each view how many rows it has, and how many changes."""

    views: int


@answers
async def count_summaries(query: CountSummaries, views: Views) -> list[tuple[int, int]]:
    """Count."""
    found: list[tuple[int, int]] = []
    for projection in PROJECTIONS[: query.views]:
        table = projection.rows.definition.name
        rows = await views.sql(f"SELECT count(*), coalesce(sum(changes), 0) FROM {table}")
        found.append((int(rows[0][0]), int(rows[0][1])))
    return found


class CountSliced(Query[tuple[int, int]]):
    """Asks the sliced view how many rows it has, and how many changes."""


@answers
async def count_sliced(_: CountSliced, views: Views) -> tuple[int, int]:
    """Count."""
    table = Sliced.rows.definition.name
    rows = await views.sql(f"SELECT count(*), coalesce(sum(changes), 0) FROM {table}")
    return int(rows[0][0]), int(rows[0][1])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size of the log."""
    parser.add_argument("--events", type=int, help=f"to catch up with, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    orders = Orders(max(1, events // 10), 10, keyed=True)
    log = Prepared(options.folder, lambda made: fill_sqlite(made, orders))
    catch_up = f"sqlite, catch-up of {orders.total:,} events"
    return Scenario(
        name="project",
        title="views that catch up with a log, and views that follow writers",
        conditions={
            "durability": "log: WAL, synchronous=FULL; views: WAL, synchronous=NORMAL",
            "view": "a row per order; one event in ten takes its metadata",
            "catch-up": "events with key, correlation and principal, from the engine's "
            "construction to the answer `at=` the end; pages of 1,000 events, of which some share "
            "a transaction",
            "floor": "bare APSW, same pages, same checksums, rows in memory, a transaction a page",
            "live": f"{CLIENTS} clients in a closed loop, bare commands, {options.seconds:g} s "
            "after a quarter of that; lag looked at every 20 ms, of the view that is last",
            "writer apart": "the log is written by a process of its own (?writer=process)",
            "beside a rebuild": f"the same on the log of {orders.total:,} events; the view is "
            "built anew from its beginning meanwhile, beside the one that serves",
        },
        columns=(
            Column("events", "/s", "more"),
            Column("batch", "events", "", 0),
            Column("lag", "events", "less", 0),
            Column("lag p50", "ms", "less", 1),
            Column("lag p99", "ms", "less", 1),
        ),
        headline="events",
        cells=[
            Cell(catch_up, "floor", partial(_measure_floor, log, orders)),
            Cell(catch_up, "engine", partial(_measure_catch_up, log, orders), ("floor",)),
            Cell(
                catch_up,
                "engine, 4 slices",
                partial(_measure_sliced, log, orders),
                ("floor", "engine"),
            ),
            *(
                _live(count, options.seconds, writer)
                for writer in ("thread", "process")
                for count in (0, 1, 4)
            ),
            *(_beside(log, orders, options.seconds, rebuilding=how) for how in (False, True)),
        ],
    )


def _live(views: int, seconds: float, writer: str) -> Cell:
    return Cell(
        f"sqlite, live, {CLIENTS} clients{', writer apart' if writer == 'process' else ''}",
        f"{views} projection{'' if views == 1 else 's'}",
        partial(_measure_live, views, seconds, writer),
        ("0 projections",) if views else (),
    )


def _beside(log: Prepared, orders: Orders, seconds: float, *, rebuilding: bool) -> Cell:
    return Cell(
        f"sqlite, beside a rebuild, {CLIENTS} clients",
        "a view and its rebuild" if rebuilding else "a view",
        partial(_measure_beside, log, orders, seconds, rebuilding),
        ("a view",) if rebuilding else (),
    )


# -- catch-up -------------------------------------------------------------------------------


def _measure_floor(log: Prepared, orders: Orders, folder: Path) -> Mapping[str, float]:
    path = log.copy(folder)
    begin = time.perf_counter()
    bare, view = BareLog(path), BareView(folder / "view.db")
    pages = catch_up(bare, view)
    totals = view.totals()
    seconds = time.perf_counter() - begin
    bare.close()
    view.close()
    _check_totals([totals], orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / pages}


def _measure_catch_up(log: Prepared, orders: Orders, folder: Path) -> Mapping[str, float]:
    figures = engine.run(_catch_up, f"sqlite:{log.copy(folder)}", orders)
    check_count(folder / LOG, orders.total)
    return figures


def _measure_sliced(log: Prepared, orders: Orders, folder: Path) -> Mapping[str, float]:
    figures = engine.run(_catch_up_sliced, f"sqlite:{log.copy(folder)}", orders)
    check_count(folder / LOG, orders.total)
    return figures


async def _catch_up_sliced(store: str, orders: Orders) -> Mapping[str, float]:
    begin = time.perf_counter()
    shop = engine.Engine(
        [BenchmarkOrder], projections=[Sliced], answers=[count_sliced], store=store
    )
    async with shop:
        found = await shop.query(CountSliced(), at=orders.total, timeout=CATCH_UP_SECONDS)
        seconds = time.perf_counter() - begin
        numbers = shop.statistics().projectors["sliced"]
    _check_totals([found], orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / numbers.transactions}


async def _catch_up(store: str, orders: Orders) -> Mapping[str, float]:
    begin = time.perf_counter()
    shop = engine.Engine(
        [BenchmarkOrder], projections=[Summaries], answers=[count_summaries], store=store
    )
    async with shop:
        found = await shop.query(CountSummaries(1), at=orders.total, timeout=CATCH_UP_SECONDS)
        seconds = time.perf_counter() - begin
        numbers = shop.statistics().projectors["summaries"]
    _check_totals(found, orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / numbers.transactions}


def _check_totals(found: Sequence[tuple[int, int]], rows: int | None, changes: int) -> None:
    """Raise Wrong unless every event is counted once in each view."""
    for view, (count, sum_of_changes) in enumerate(found, 1):
        if sum_of_changes != changes or rows not in (None, count):
            raise Wrong(
                f"of {changes:,} events and {rows} orders, view {view} has counted "
                f"{sum_of_changes:,} and {count:,}"
            )


# -- live -----------------------------------------------------------------------------------


class _Lags:
    """How far the last of the views was behind, each time that somebody looked."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.milliseconds: list[float] = []

    async def look(self, shop: engine.Engine) -> None:
        """Look until cancelled, without views too, since it costs the writers something."""
        while True:
            self.note(shop)
            await asyncio.sleep(LOOK_SECONDS)

    def note(self, shop: engine.Engine) -> None:
        """Look once."""
        numbers = shop.statistics().projectors.values()
        if numbers:
            self.events.append(max(each.lag_events or 0 for each in numbers))
            self.milliseconds.append(max((each.lag_seconds or 0) * 1e3 for each in numbers))

    def figures(self) -> Mapping[str, float]:
        """Give the figures, where there are views."""
        if not self.events:
            return {}
        ordered = sorted(self.milliseconds)
        return {
            "lag": statistics.median(self.events),
            "lag p50": ordered[len(ordered) // 2],
            "lag p99": ordered[int(len(ordered) * 0.99)],
        }


def _measure_live(views: int, seconds: float, writer: str, folder: Path) -> Mapping[str, float]:
    projections = PROJECTIONS[:views]
    store = f"sqlite:{folder / LOG}?writer={writer}"
    figures, acknowledged = engine.run(_write, projections, seconds, store)
    check_count(folder / LOG, acknowledged)
    found = engine.run(_count_again, projections, acknowledged, f"sqlite:{folder / LOG}")
    _check_totals(found, None, acknowledged)
    return figures


async def _write(
    projections: Sequence[type[Projection]], seconds: float, store: str
) -> tuple[Mapping[str, float], int]:
    lags = _Lags()
    async with engine.Engine([BenchmarkOrder], projections=projections, store=store) as shop:
        commands = clients()
        warm, _ = await write_for(shop.execute, commands, seconds / 4)
        looking = asyncio.create_task(lags.look(shop))
        count, took = await write_for(shop.execute, commands, seconds)
        lags.note(shop)
        looking.cancel()
        numbers = shop.statistics().journal
    batch = numbers.events / numbers.commits
    return {"events": count / took, "batch": batch, **lags.figures()}, warm + count


async def _count_again(
    projections: Sequence[type[Projection]], at: int, store: str
) -> list[tuple[int, int]]:
    shop = engine.Engine(
        [BenchmarkOrder], projections=projections, answers=[count_summaries], store=store
    )
    async with shop:
        return await shop.query(CountSummaries(len(projections)), at=at, timeout=CATCH_UP_SECONDS)


# -- beside a rebuild -----------------------------------------------------------------------


def _measure_beside(
    log: Prepared, orders: Orders, seconds: float, rebuilding: bool, folder: Path
) -> Mapping[str, float]:
    store = f"sqlite:{log.copy(folder)}"
    figures, acknowledged = engine.run(_write_beside, store, orders, seconds, rebuilding)
    check_count(folder / LOG, orders.total + acknowledged)
    return figures


async def _write_beside(
    store: str, orders: Orders, seconds: float, rebuilding: bool
) -> tuple[Mapping[str, float], int]:
    shop = engine.Engine(
        [BenchmarkOrder], projections=[Summaries], answers=[count_summaries], store=store
    )
    async with shop:
        await shop.query(CountSummaries(1), at=orders.total, timeout=CATCH_UP_SECONDS)
        commands = clients(first=CLIENTS)
        warm, _ = await write_for(shop.execute, commands, seconds / 4)
        if rebuilding:
            await shop.projections.rebuild("summaries")
        count, took = await write_for(shop.execute, commands, seconds)
        last = shop.statistics().position
        while (await shop.projections.status("summaries")).building is not None:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        found = await shop.query(CountSummaries(1), at=last, timeout=CATCH_UP_SECONDS)
        numbers = shop.statistics().journal
    _check_totals(found, None, orders.total + warm + count)
    batch = numbers.events / numbers.commits
    return {"events": count / took, "batch": batch}, warm + count
