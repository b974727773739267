"""`memory`: what an aggregate that is in memory costs, above its own state.

Each measurement is a process of its own (`memory_child`), which reads its bytes before and after
so many orders of one event came into memory: by Python's account (tracemalloc) and by the resident
set. `state` is the floor: the same orders, folded by the same functions and kept in a list, with no
engine around them; what the engine takes above that in the same process is its own. `loaded` has
the orders read from their log; `written` has them opened by commands with a key, which the engine
remembers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from .filled import LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario

__all__ = ["add_options", "scenario"]

FEW, MANY = 10_000, 1_000_000
QUICK_FEW, QUICK_MANY = 500, 2_000
ROOT = Path(__file__).parent.parent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of orders."""
    parser.add_argument("--orders", type=int, help=f"of the large cells, default {MANY:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    few = QUICK_FEW if options.quick else FEW
    many = options.orders or (QUICK_MANY if options.quick else MANY)
    measured = [(few, "traced"), (few, "resident set"), (many, "resident set")]
    logs = {count: _log(options.folder, count) for count, _ in measured}
    return Scenario(
        name="memory",
        title="what an aggregate in memory costs, above its own state",
        conditions={
            "orders": "one event each, in SQLite; each measurement in a process of its own",
            "traced": "Python's account (tracemalloc) of what is held, after a collection",
            "resident set": "what the process has of the machine's memory, after a collection",
            "state": "the same orders folded and kept in a list, without an engine",
            "written": "opened by commands with keys; the rest of the engine's caches included",
        },
        columns=(
            Column("each", "bytes", "less"),
            Column("above state", "bytes", "less"),
            Column("estimate", "bytes"),
        ),
        headline="each",
        cells=[cell for count, meter in measured for cell in _cells(logs[count], count, meter)],
    )


def _log(folder: Path, count: int) -> Prepared:
    return Prepared(folder, lambda made: fill_sqlite(made, Orders(count, 1)))


def _cells(log: Prepared, count: int, meter: str) -> Sequence[Cell]:
    group = f"{count:,} aggregates, {meter}"
    return [
        Cell(group, "state", lambda _: _child("states", count, meter, "")),
        Cell(group, "loaded", partial(_measure, log, count, meter, "loaded"), ("state",)),
        Cell(group, "written", partial(_measure, log, count, meter, "written"), ("state",)),
    ]


def _measure(log: Prepared, count: int, meter: str, what: str, folder: Path) -> Mapping[str, float]:
    path = log.copy(folder) if what == "loaded" else folder / LOG
    figures = _child(what, count, meter, f"sqlite:{path.resolve()}")
    check_count(path, count + 1)
    return figures


def _child(what: str, count: int, meter: str, store: str) -> Mapping[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory_child", what, str(count), meter, store]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=dict[str, float])
