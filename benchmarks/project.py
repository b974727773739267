"""`project`: how fast a view catches up with a log, and what views cost those who write.

Catch-up: an engine is started on a log and a summary of each order is folded from its first event
to its last, timed from the engine's construction to the answer of a query `at=` the end. The floor
reads the same pages by bare APSW (of PostgreSQL: asyncpg), compares the same checksums, and puts
the same rows and a checkpoint in a transaction a page. Live: 256 clients write in a closed loop
while 0, 1 and 4 such views follow; the writers' loss is the ratio to none in the same round. Every
20 ms a client looks how far the views are behind. Beside a rebuild: the same clients on a log of as
many events, whose view is caught up, and is built anew beside the one that serves while they write.
Afterwards the log is opened again and its events are counted, and the sums in each view are
compared with them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

import engine
from engine import Meta, Projection, Query, Row, Table, Views, answers, projects

from . import bare_postgres, postgres
from .bare import BareLog, BareView, catch_up
from .databases import PreparedDatabase, empty_database
from .filled import CLIENTS, LOG, Copy, Orders, Prepared, ScatteredOrders, empty_file, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder, OrderAdjusted, OrderOpened
from .writers import clients, write_for

__all__ = ["PROJECTIONS", "Summaries", "add_options", "count_summaries", "scenario"]

EVENTS, QUICK_EVENTS = 1_000_000, 5_120
LOOK_SECONDS = 0.02
CATCH_UP_SECONDS = 600.0
"""How long a query waits for the end of the log."""
ON_SQLITE: Final = "log: WAL, synchronous=FULL; views: WAL, synchronous=NORMAL"
ON_POSTGRES: Final = f"log: {postgres.DURABLE}; views: synchronous_commit=off"
SLICED: Final = "engine, 4 slices"
VIEWS_APART: Final = "engine, views in SQLite"

OpenLog: TypeAlias = Callable[[Path], AbstractContextManager[Copy]]
"""Gives a log of a cell's own; what is a file is in its folder."""


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
    """Add the size of the log, and the store."""
    parser.add_argument("--events", type=int, help=f"to catch up with, default {EVENTS:,}")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--per-row", type=int, default=10, help="events of each order, default 10")
    parser.add_argument(
        "--scattered", action="store_true", help="orders are adjusted by chance, any of them"
    )


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    kind = ScatteredOrders if options.scattered else Orders
    orders = kind(max(1, events // options.per_row), options.per_row, keyed=True)
    on_postgres = options.store == "postgresql"
    cells = (_on_postgres if on_postgres else _on_sqlite)(options.folder, orders, options.seconds)
    return Scenario(
        name="project",
        title="views that catch up with a log, and views that follow writers",
        conditions={
            "durability": ON_POSTGRES if on_postgres else ON_SQLITE,
            "view": f"a row per order, of {options.per_row} events, the first of which takes its "
            f"metadata{'; adjusted by chance, any of them' if options.scattered else ''}",
            "catch-up": "events with key, correlation and principal, from the engine's "
            "construction to the answer `at=` the end; pages of 1,000 events, of which some share "
            "a transaction",
            "floor": f"bare {'asyncpg' if on_postgres else 'APSW'}, same pages, same checksums, "
            "rows in memory, a transaction a page",
            "live": f"{CLIENTS} clients in a closed loop, bare commands, {options.seconds:g} s "
            "after a quarter of that; lag looked at every 20 ms, of the view that is last",
            **({} if on_postgres else {"writer apart": "by a process of its own, ?writer=process"}),
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
        cells=cells,
    )


def _on_sqlite(folder: Path, orders: Orders, seconds: float) -> Sequence[Cell]:
    log = Prepared(folder, lambda made: fill_sqlite(made, orders)).copied
    catch_up = f"sqlite, catch-up of {orders.total:,} events"
    live = f"sqlite, live, {CLIENTS} clients"
    return [
        Cell(catch_up, "floor", partial(_measure_floor, log, orders)),
        _catching_up(catch_up, "engine", log, orders, ("floor",)),
        _catching_up(catch_up, SLICED, log, orders, ("floor", "engine")),
        *_live(live, empty_file, seconds),
        *_live(f"{live}, writer apart", _written_apart, seconds),
        *_beside("sqlite", log, orders, seconds),
    ]


def _on_postgres(folder: Path, orders: Orders, seconds: float) -> Sequence[Cell]:
    """Give the cells of log and views in PostgreSQL, beside those in SQLite, in the same run."""
    log = PreparedDatabase(orders).copied
    file = Prepared(folder, lambda made: fill_sqlite(made, orders)).copied
    catch_up = f"postgresql, catch-up of {orders.total:,} events"
    against = ("floor", "engine, SQLite")
    return [
        Cell(catch_up, "floor", partial(_measure_bare_postgres, log, orders)),
        _catching_up(catch_up, "engine, SQLite", file, orders, ()),
        _catching_up(catch_up, "engine", log, orders, against),
        _catching_up(catch_up, VIEWS_APART, log, orders, against),
        _catching_up(catch_up, SLICED, log, orders, (*against, "engine")),
        *_live(f"postgresql, live, {CLIENTS} clients", empty_database, seconds),
        *_beside("postgresql", log, orders, seconds),
    ]


@contextmanager
def _written_apart(folder: Path) -> Generator[Copy]:
    with empty_file(folder) as copy:
        yield msgspec.structs.replace(copy, url=f"{copy.url}?writer=process")


def _catching_up(
    group: str, name: str, log: OpenLog, orders: Orders, against: Sequence[str]
) -> Cell:
    return Cell(group, name, partial(_measure_catch_up, name, log, orders), against)


def _live(group: str, log: OpenLog, seconds: float) -> Iterator[Cell]:
    for views in (0, 1, 4):
        name = f"{views} projection{'' if views == 1 else 's'}"
        against = ("0 projections",) if views else ()
        yield Cell(group, name, partial(_measure_live, log, views, seconds), against)


def _beside(store: str, log: OpenLog, orders: Orders, seconds: float) -> Iterator[Cell]:
    group = f"{store}, beside a rebuild, {CLIENTS} clients"
    for rebuilding in (False, True):
        name = "a view and its rebuild" if rebuilding else "a view"
        run = partial(_measure_beside, log, orders, seconds, rebuilding)
        yield Cell(group, name, run, ("a view",) if rebuilding else ())


# -- catch-up -------------------------------------------------------------------------------


def _measure_floor(log: OpenLog, orders: Orders, folder: Path) -> Mapping[str, float]:
    with log(folder) as copy:
        begin = time.perf_counter()
        bare, view = BareLog(folder / LOG), BareView(folder / "view.db")
        pages = catch_up(bare, view)
        totals = view.totals()
        seconds = time.perf_counter() - begin
        bare.close()
        view.close()
        copy.check(orders.total)
    _check_totals([totals], orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / pages}


def _measure_bare_postgres(log: OpenLog, orders: Orders, folder: Path) -> Mapping[str, float]:
    with log(folder) as copy:
        pages, totals, seconds = engine.run(_catch_up_bare, copy.url)
        copy.check(orders.total)
    _check_totals([totals], orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / pages}


async def _catch_up_bare(url: str) -> tuple[int, tuple[int, int], float]:
    begin = time.perf_counter()
    bare = await bare_postgres.BarePostgres.open(url)
    await bare.make_view()
    pages, totals = await bare_postgres.catch_up(bare), await bare.totals()
    seconds = time.perf_counter() - begin
    await bare.close()
    return pages, totals, seconds


def _measure_catch_up(name: str, log: OpenLog, orders: Orders, folder: Path) -> Mapping[str, float]:
    views = f"sqlite:{folder / 'views.db'}" if name == VIEWS_APART else None
    run = _catch_up_sliced if name == SLICED else _catch_up
    with log(folder) as copy:
        figures = engine.run(run, copy.url, views, orders)
        copy.check(orders.total)
    return figures


async def _catch_up_sliced(store: str, views: str | None, orders: Orders) -> Mapping[str, float]:
    begin = time.perf_counter()
    shop = engine.Engine(
        [BenchmarkOrder], projections=[Sliced], answers=[count_sliced], store=store, views=views
    )
    async with shop:
        found = await shop.query(CountSliced(), at=orders.total, timeout=CATCH_UP_SECONDS)
        seconds = time.perf_counter() - begin
        numbers = shop.statistics().projectors["sliced"]
    _check_totals([found], orders.count, orders.total)
    return {"events": orders.total / seconds, "batch": orders.total / numbers.transactions}


async def _catch_up(store: str, views: str | None, orders: Orders) -> Mapping[str, float]:
    begin = time.perf_counter()
    shop = engine.Engine(
        [BenchmarkOrder],
        projections=[Summaries],
        answers=[count_summaries],
        store=store,
        views=views,
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


def _measure_live(log: OpenLog, views: int, seconds: float, folder: Path) -> Mapping[str, float]:
    projections = PROJECTIONS[:views]
    with log(folder) as copy:
        figures, acknowledged = engine.run(_write, projections, seconds, copy.url)
        copy.check(acknowledged)
        found = engine.run(_count_again, projections, acknowledged, copy.url)
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
    log: OpenLog, orders: Orders, seconds: float, rebuilding: bool, folder: Path
) -> Mapping[str, float]:
    with log(folder) as copy:
        figures, acknowledged = engine.run(_write_beside, copy.url, orders, seconds, rebuilding)
        copy.check(orders.total + acknowledged)
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
