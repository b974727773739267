"""`archive`: nine in ten events of a log are moved into its cold file, and read before and after.

`archive` is the command that people run, as a process of its own, with its start; it copies, syncs,
reads back, compares, removes, and rewrites the file. `hot` is the size of the log's file then, as a
part of what it was, and `cold` that of the cold file. `feed` reads all events in their order, and
`loads` reads the closed streams, 64 at a time. `per core` is by processor time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from engine.runtime.ports import Ports
from engine.stores.contract.log import StreamRead
from engine.stores.contract.outside import LogReader
from engine.stores.sqlite.log.cold import cold_path
from engine.stores.urls import open_backend

from .backup import children_seconds
from .filled import LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["add_options", "scenario"]

ROOT = Path(__file__).parent.parent
EVENTS = 1_000_000
PAGE_EVENTS, PAGE_BYTES = 5_000, 8 * 1024 * 1024
AT_ONCE = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--events", type=int, default=EVENTS, help="in the log; default 1000000")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = 5_000 if options.quick else options.events
    open_ = Orders(max(1, events // 10), 1, prefix="new-", keyed=True)
    closed = Orders(max(1, (events - open_.total) // 10), 10, prefix="old-", keyed=True)
    total = open_.total + closed.total
    before = Prepared(options.folder, lambda made: fill_sqlite(made, closed, open_))
    after = Prepared(options.folder, partial(_archived, before))
    group = f"{total:,} events, nine in ten closed"

    def reads(name: str, walk: Callable[[LogReader], int], expected: int) -> Sequence[Cell]:
        first = f"{name}, not archived"
        return (
            Cell(group, first, partial(_read, before, walk, expected)),
            Cell(group, f"{name}, archived", partial(_read, after, walk, expected), (first,)),
        )

    return Scenario(
        name="archive",
        title="closed streams of a log in a file, moved into its cold file and read from there",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL; each page is read back and compared",
            "work": "closed: keyed orders of ten events; open: keyed orders of one",
            "read": "from another process than an engine's, each checksum compared",
        },
        columns=(
            Column("events", "/s", "more"),
            Column("per core", "/s", "more"),
            Column("hot", "%", "less", 1),
            Column("cold", "MB", "less", 1),
        ),
        headline="events",
        cells=[
            Cell(group, "archive", partial(_archive, before, closed.total, total)),
            *reads("feed", _feed, total),
            *reads("loads", partial(_loads, closed), closed.total),
        ],
    )


def _command(path: Path) -> list[str]:
    named = ("--kind", "benchmark-order", "--closed-by", "order-adjusted", "--days", "0")
    return [sys.executable, "-m", "engine", "archive", str(path.resolve()), *named]


def _archived(before: Prepared, folder: Path) -> None:
    subprocess.run(_command(before.copy(folder)), cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _archive(before: Prepared, events: int, total: int, folder: Path) -> Mapping[str, float]:
    path = before.copy(folder)
    size, worked = path.stat().st_size, children_seconds()
    begin = time.perf_counter()
    subprocess.run(_command(path), cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    seconds, worked = time.perf_counter() - begin, children_seconds() - worked
    check_count(path, total)
    return {
        "events": events / seconds,
        "per core": events / worked,
        "hot": path.stat().st_size / size * 100,
        "cold": Path(cold_path(str(path))).stat().st_size / 1e6,
    }


def _read(
    log: Prepared, walk: Callable[[LogReader], int], expected: int, _folder: Path
) -> Mapping[str, float]:
    outside = open_backend(f"sqlite:{(log.folder() / LOG).resolve()}").outside(Ports())
    with outside.log_reader() as reader:
        begin, worked = time.perf_counter(), time.process_time()
        found = walk(reader)
        seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    if found != expected:
        raise Wrong(f"{found:,} events were read, of {expected:,}")
    return {"events": found / seconds, "per core": found / worked}


def _feed(reader: LogReader) -> int:
    after = 0
    while page := reader.read_feed(after, events_max=PAGE_EVENTS, bytes_max=PAGE_BYTES):
        after = page[-1].position
    return after


def _loads(orders: Orders, reader: LogReader) -> int:
    return sum(
        len(page.events)
        for reads in _asked(orders)
        for page in reader.read_streams(reads, events_max=PAGE_EVENTS, bytes_max=PAGE_BYTES)
    )


def _asked(orders: Orders) -> Iterator[Sequence[StreamRead]]:
    names = [f"benchmark-order:{orders.id_of(number)}" for number in range(orders.count)]
    for begin in range(0, len(names), AT_ONCE):
        yield [StreamRead(name) for name in names[begin : begin + AT_ONCE]]
