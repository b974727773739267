"""`cold`: from a command for an aggregate that is not in memory to its answer.

The log has orders of 10, 1,000 and 10,000 events. Each round starts a new engine for each cell and
asks cold orders, one after the other; and short ones again, a thousand asked at a time. The command
is refused by the order's rule: answered out of its state, with nothing to sync. The floor reads the
same rows by bare APSW, decodes them by msgspec, and folds them with the same functions. `--store
postgresql` loads from a log in PostgreSQL, whose floor is bare asyncpg, beside one in SQLite.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import engine
from engine.stores.memory import MemoryStore

from .bare import BareLog, BareStream, fold
from .bare_postgres import BarePostgres
from .databases import PreparedDatabase
from .filled import LOG, Orders, Prepared, fill_memory, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong
from .workload import BenchmarkOrder, OpenOrder

__all__ = ["add_options", "scenario"]

SNAPSHOT_EVERY = 10
WINDOW = 1_000
"""Of "many at once"."""
SIZES: Mapping[int, int] = {10: 500, 1_000: 50, 10_000: 10}
"""Orders that are asked one after the other, by their length."""
MANY = 20_000
QUICK_SIZES: Mapping[int, int] = {10: 20, 1_000: 2}
QUICK_MANY = 500

COLUMNS = (
    Column("activations", "/s", "more"),
    Column("folded", "events/s", "more"),
    Column("p50", "ms", "less", 2),
    Column("p99", "ms", "less", 2),
)


class KeptOrder(BenchmarkOrder, kind="benchmark-order", snapshot_every=SNAPSHOT_EVERY):
    """The same order with snapshots."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the store; the lengths are fixed, so that figures can be compared."""
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    logs = _Logs(options.folder, QUICK_SIZES if options.quick else SIZES, _many(options))
    on_postgres = options.store == "postgresql"
    stores = ("postgresql",) if on_postgres else ("sqlite", "memory")
    return Scenario(
        name="cold",
        title="from a command for an aggregate that is not in memory to its answer",
        conditions={
            "log": "in PostgreSQL, on this machine, in its caches"
            if on_postgres
            else "SQLite: WAL, 8 KiB pages, in the operating system's cache; memory: none",
            "orders": ", ".join(f"{n:,} of {length:,} events" for length, n in logs.sizes.items()),
            "many at once": f"{logs.many.count:,} orders of 10 events, {WINDOW:,} asked at a time",
            "metadata": "none",
            "snapshot": "one at the end of each order, of which one event is read as its proof",
            "floor": f"bare {'asyncpg' if on_postgres else 'APSW'} stream by stream, msgspec, the "
            "same folds; checks no checksum",
        },
        columns=COLUMNS,
        headline="activations",
        cells=[cell for store in stores for cell in _cells(logs, store)],
    )


def _many(options: argparse.Namespace) -> Orders:
    return Orders(QUICK_MANY if options.quick else MANY, 10, "many-")


def _cells(logs: _Logs, store: str) -> Sequence[Cell]:
    cells: list[Cell] = []
    for orders in logs.orders:
        group = f"{store}, {orders.events:,} events"
        asked = partial(_measure_engine, logs, orders=orders)
        cells += _compared(group, partial(_measure_floor, logs, store, orders), asked, store)
        kept = partial(asked, store, kind=KeptOrder)
        cells.append(Cell(group, "engine, snapshot", kept, ("floor",)))
    group = f"{store}, {logs.many.events} events, many at once"
    floor = partial(_measure_floor, logs, store, logs.many)
    return [*cells, *_compared(group, floor, partial(_measure_many, logs), store)]


def _compared(
    group: str,
    floor: Callable[[Path], Mapping[str, float]],
    measure: Callable[..., Mapping[str, float]],
    store: str,
) -> Sequence[Cell]:
    """Give the cells of a floor and of the engine; beside PostgreSQL also of SQLite."""
    against, cells = ["floor"], [Cell(group, "floor", floor)]
    if store == "postgresql":
        against.append("engine, SQLite")
        cells.append(Cell(group, "engine, SQLite", partial(measure, "sqlite")))
    return [*cells, Cell(group, "engine", partial(measure, store), against)]


class _Logs:
    """The same events in a file, in a file with snapshots, in memory and as plain rows."""

    def __init__(self, folder: Path, sizes: Mapping[int, int], many: Orders) -> None:
        self.sizes = sizes
        self.many = many
        self.orders = [Orders(count, length, f"{length}-") for length, count in sizes.items()]
        self.total = sum(each.total for each in (*self.orders, many))
        self.plain = Prepared(folder, partial(_fill, (*self.orders, many)))
        self.kept = Prepared(folder, self._fill_kept)
        everything = (*self.orders, many)
        self.database = PreparedDatabase(*everything)
        self.kept_database = PreparedDatabase(*everything, then=self._keep)

    def _keep(self, url: str) -> None:
        engine.run(_snapshot, url, self.orders)

    def _fill_kept(self, folder: Path) -> None:
        self.plain.copy(folder)
        self._keep(f"sqlite:{folder / LOG}")

    @contextmanager
    def opened(
        self, store: str, kind: type[BenchmarkOrder], folder: Path
    ) -> Generator[str | MemoryStore]:
        """Give a copy, which has all events afterwards too; with snapshots for who keeps them."""
        if store == "memory":
            yield self.memory
            return
        plain, kept = (
            (self.plain, self.kept) if store == "sqlite" else (self.database, self.kept_database)
        )
        with (plain if kind is BenchmarkOrder else kept).copied(folder) as copy:
            yield copy.url
            copy.check(self.total)

    @cached_property
    def memory(self) -> MemoryStore:
        """The store; the snapshots in it are looked for by the kind that has some only."""
        store = fill_memory(*self.orders, self.many)
        engine.run(_snapshot, store, self.orders)
        return store

    @cached_property
    def rows(self) -> Mapping[str, BareStream]:
        """Names and payloads by the stream's name, as they are in the file."""
        log = BareLog(self.plain.folder() / LOG)
        ids = [each.id_of(n) for each in (*self.orders, self.many) for n in range(each.count)]
        rows = {name: log.stream(name) for name in (f"benchmark-order:{each}" for each in ids)}
        log.close()
        return rows


def _fill(orders: Sequence[Orders], folder: Path) -> None:
    fill_sqlite(folder, *orders)


async def _snapshot(store: str | MemoryStore, orders: Sequence[Orders]) -> None:
    """Let an engine fold each order once: a long fold leaves a snapshot behind."""
    async with engine.Engine([KeptOrder], store=store) as shop:
        for each in orders:
            await _ask_many(shop, each)
    if (written := shop.statistics().snapshots.written) != sum(each.count for each in orders):
        raise Wrong(f"{written} snapshots were written, not one of each order")


def _measure_floor(logs: _Logs, store: str, orders: Orders, folder: Path) -> Mapping[str, float]:
    if store == "memory":
        return _fold_each(logs.rows.__getitem__, orders)
    with logs.opened(store, BenchmarkOrder, folder) as url:
        if store == "postgresql":
            return engine.run(_fold_each_in_postgres, url, orders)
        log = BareLog(folder / LOG)
        figures = _fold_each(log.stream, orders)
        log.close()
    return figures


async def _fold_each_in_postgres(url: str, orders: Orders) -> Mapping[str, float]:
    bare = await BarePostgres.open(url)
    times: list[float] = []
    for number in range(orders.count):
        begin = time.perf_counter()
        order = await bare.folded(orders.id_of(number))
        times.append(time.perf_counter() - begin)
        _check_folded(order, orders)
    await bare.close()
    return _figures(times, orders.events)


def _fold_each(read: Callable[[str], BareStream], orders: Orders) -> Mapping[str, float]:
    times: list[float] = []
    for number in range(orders.count):
        order_id = orders.id_of(number)
        begin = time.perf_counter()
        order = fold(order_id, read(f"benchmark-order:{order_id}"))
        times.append(time.perf_counter() - begin)
        _check_folded(order, orders)
    return _figures(times, orders.events)


def _check_folded(order: BenchmarkOrder, orders: Orders) -> None:
    if order.version != orders.events:
        raise Wrong(f"an order has {order.version} events, and was given {orders.events}")


def _measure_engine(
    logs: _Logs,
    store: str,
    folder: Path,
    *,
    orders: Orders,
    kind: type[BenchmarkOrder] = BenchmarkOrder,
) -> Mapping[str, float]:
    with logs.opened(store, kind, folder) as at:
        times = engine.run(_ask_each, at, kind, orders)
    return _figures(times, orders.events if kind is BenchmarkOrder else None)


async def _ask_each(
    store: str | MemoryStore, kind: type[BenchmarkOrder], orders: Orders
) -> list[float]:
    times: list[float] = []
    async with engine.Engine([kind], store=store) as shop:
        for number in range(orders.count):
            begin = time.perf_counter()
            await _ask(shop, orders.id_of(number))
            times.append(time.perf_counter() - begin)
        _check_loaded(shop, orders.count, restored=orders.count if kind is KeptOrder else 0)
    return times


async def _ask(shop: engine.Engine, order_id: str) -> None:
    try:
        await shop.execute(OpenOrder(order_id, "mouse", 1))
    except engine.Rejected:
        return
    raise Wrong(f"{order_id} was there, and could be opened again")


def _measure_many(logs: _Logs, store: str, folder: Path) -> Mapping[str, float]:
    with logs.opened(store, BenchmarkOrder, folder) as at:
        seconds = engine.run(_time_many, at, logs.many)
    count = logs.many.count
    return {"activations": count / seconds, "folded": logs.many.total / seconds}


async def _time_many(store: str | MemoryStore, orders: Orders) -> float:
    async with engine.Engine([BenchmarkOrder], store=store) as shop:
        begin = time.perf_counter()
        await _ask_many(shop, orders)
        seconds = time.perf_counter() - begin
        _check_loaded(shop, orders.count, restored=0)
    return seconds


async def _ask_many(shop: engine.Engine, orders: Orders) -> None:
    commands = (OpenOrder(orders.id_of(n), "mouse", 1) for n in range(orders.count))
    async for answer in shop.execute_many(commands, window=WINDOW):
        if not isinstance(answer, engine.Rejected):
            raise Wrong(f"an order was there, and the answer to opening it again is {answer!r}")


def _check_loaded(shop: engine.Engine, count: int, *, restored: int) -> None:
    numbers = shop.statistics().aggregates
    if (numbers.loaded, numbers.restored) != (count, restored):
        raise Wrong(
            f"{numbers.loaded} orders were loaded and {numbers.restored} of them restored, not "
            f"{count} and {restored}"
        )


def _figures(times: list[float], events: int | None) -> Mapping[str, float]:
    """Give the figures; of what was not folded from its beginning, none of events."""
    rate = len(times) / sum(times)
    times.sort()
    figures = {
        "activations": rate,
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[int(len(times) * 0.99)] * 1e3,
    }
    return figures if events is None else {**figures, "folded": rate * events}
