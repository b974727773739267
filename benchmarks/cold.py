"""`cold`: from a command for an aggregate that is not in memory to its answer.

The log has orders of 10, 1,000 and 10,000 events. Each round starts a new engine for each cell and
asks cold orders, one after the other; and short ones again, a thousand asked at a time. The command
is refused by the order's rule: answered out of its state, with nothing to sync. The floor reads the
same rows by bare APSW, decodes them by msgspec, and folds them with the same functions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import engine
from engine.stores.memory import MemoryStore

from .bare import BareLog, BareStream, fold
from .filled import LOG, Orders, Prepared, check_count, fill_memory, fill_sqlite
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
    """Nothing: the lengths are fixed, so that figures can be compared."""


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    logs = _Logs(options.folder, QUICK_SIZES if options.quick else SIZES, _many(options))
    return Scenario(
        name="cold",
        title="from a command for an aggregate that is not in memory to its answer",
        conditions={
            "log": "SQLite: WAL, 8 KiB pages, in the operating system's cache; memory: none",
            "orders": ", ".join(f"{n:,} of {length:,} events" for length, n in logs.sizes.items()),
            "many at once": f"{logs.many.count:,} orders of 10 events, {WINDOW:,} asked at a time",
            "metadata": "none",
            "snapshot": "one at the end of each order, of which one event is read as its proof",
            "floor": "bare APSW stream by stream, msgspec, the same folds; checks no checksum",
        },
        columns=COLUMNS,
        headline="activations",
        cells=[cell for store in ("sqlite", "memory") for cell in _cells(logs, store)],
    )


def _many(options: argparse.Namespace) -> Orders:
    return Orders(QUICK_MANY if options.quick else MANY, 10, "many-")


def _cells(logs: _Logs, store: str) -> Sequence[Cell]:
    cells: list[Cell] = []
    for orders in logs.orders:
        group = f"{store}, {orders.events:,} events"
        floor = partial(_measure_floor, logs, store, orders)
        cells.append(Cell(group, "floor", floor))
        for name, kind in (("engine", BenchmarkOrder), ("engine, snapshot", KeptOrder)):
            measure = partial(_measure_engine, logs, store, orders, kind)
            cells.append(Cell(group, name, measure, ("floor",)))
    group = f"{store}, {logs.many.events} events, many at once"
    many = partial(_measure_many, logs, store)
    cells.append(Cell(group, "floor", partial(_measure_floor, logs, store, logs.many)))
    cells.append(Cell(group, "engine", many, ("floor",)))
    return cells


class _Logs:
    """The same events in a file, in a file with snapshots, in memory and as plain rows."""

    def __init__(self, folder: Path, sizes: Mapping[int, int], many: Orders) -> None:
        self.sizes = sizes
        self.many = many
        self.orders = [Orders(count, length, f"{length}-") for length, count in sizes.items()]
        self.total = sum(each.total for each in (*self.orders, many))
        self.plain = Prepared(folder, partial(_fill, (*self.orders, many)))
        self.kept = Prepared(folder, self._fill_kept)

    def _fill_kept(self, folder: Path) -> None:
        self.plain.copy(folder)
        engine.run(_snapshot, f"sqlite:{folder / LOG}", self.orders)

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
    log = BareLog(logs.plain.copy(folder))
    figures = _fold_each(log.stream, orders)
    log.close()
    return figures


def _fold_each(read: Callable[[str], BareStream], orders: Orders) -> Mapping[str, float]:
    times: list[float] = []
    for number in range(orders.count):
        order_id = orders.id_of(number)
        begin = time.perf_counter()
        order = fold(order_id, read(f"benchmark-order:{order_id}"))
        times.append(time.perf_counter() - begin)
        if order.version != orders.events:
            raise Wrong(f"an order has {order.version} events, and was given {orders.events}")
    return _figures(times, orders.events)


def _measure_engine(
    logs: _Logs, store: str, orders: Orders, kind: type[BenchmarkOrder], folder: Path
) -> Mapping[str, float]:
    times = engine.run(_ask_each, _open(logs, store, kind, folder), kind, orders)
    if store == "sqlite":
        check_count(folder / LOG, logs.total)
    return _figures(times, orders.events if kind is BenchmarkOrder else None)


def _open(logs: _Logs, store: str, kind: type[BenchmarkOrder], folder: Path) -> str | MemoryStore:
    if store == "memory":
        return logs.memory
    return f"sqlite:{(logs.plain if kind is BenchmarkOrder else logs.kept).copy(folder)}"


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
    seconds = engine.run(_time_many, _open(logs, store, BenchmarkOrder, folder), logs.many)
    if store == "sqlite":
        check_count(folder / LOG, logs.total)
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
