"""`start`: from the start of a process to its first acknowledged command, after a `kill -9`.

Once a run a log of 1,000,000 events in 100,000 orders is filled. A process opens an engine with a
view on it, lets the view catch up, and writes with 256 clients until it is killed with SIGKILL
between two of its acknowledgements. Each cell gets a copy of what lay there (log, views, and their
write-ahead logs) and starts a fresh process on it, which opens what is there and sends one command.
`process` is timed from before that process is made, with the interpreter's start and all imports;
`engine` from the engine's construction. Every event that was acknowledged before the kill must be
there, and nothing that was never sent.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from .filled import CLIENTS, LOG, Orders, Prepared, check_count, fill_sqlite
from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["add_options", "scenario"]

EVENTS, QUICK_EVENTS = 1_000_000, 5_120
ACKNOWLEDGED, QUICK_ACKNOWLEDGED = 50_000, 1_000
"""Commands of the life that is ended by the kill."""
ROOT = Path(__file__).parent.parent
MODULE = "benchmarks.start_child"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size of the log."""
    parser.add_argument("--events", type=int, help=f"before the kill, default {EVENTS:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = options.events or (QUICK_EVENTS if options.quick else EVENTS)
    orders = Orders(max(1, events // 10), 10)
    killed = _Killed(options.folder, orders, QUICK_ACKNOWLEDGED if options.quick else ACKNOWLEDGED)
    group = f"{orders.total:,} events in {orders.count:,} orders"
    return Scenario(
        name="start",
        title="from the start of a process to its first acknowledged command, after a kill -9",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL",
            "killed": f"with SIGKILL, {CLIENTS} clients writing, about {killed.count:,} commands "
            "after the log's own events; its files are in the operating system's cache",
            "process": "timed from before the process is made: interpreter and imports included",
            "engine": "timed from the engine's construction; floor: from opening the file",
            "seen": "engine's construction to the answer of a query `at=` that command",
            "floor": "a process that opens the same file by bare APSW and inserts one event",
        },
        columns=(
            Column("process", "ms", "less", 1),
            Column("engine", "ms", "less", 1),
            Column("seen", "ms", "less", 1),
            Column("wal", "MB", "", 1),
        ),
        headline="process",
        cells=[
            Cell(group, "floor", partial(_measure, killed, "floor")),
            Cell(group, "engine", partial(_measure, killed, "engine"), ("floor",)),
            Cell(group, "engine, view", partial(_measure, killed, "views"), ("floor",)),
        ],
    )


class _Killed:
    """What a killed process left, and how much it had acknowledged."""

    def __init__(self, folder: Path, orders: Orders, count: int) -> None:
        self.orders = orders
        self.count = count
        self.acknowledged = 0
        """Events that must be there; known when the files are."""
        self.files = Prepared(folder, self._make)

    def _make(self, folder: Path) -> None:
        fill_sqlite(folder, self.orders)
        command = [sys.executable, "-m", MODULE, "write", str((folder / LOG).resolve())]
        child = subprocess.Popen(
            [*command, str(self.orders.total)], cwd=ROOT, stdout=subprocess.PIPE, bufsize=0
        )
        assert child.stdout is not None
        acknowledged = 0
        while dots := child.stdout.read(65_536):
            acknowledged += len(dots)
            if acknowledged >= self.count:
                # What it still acknowledges before it is dead is read until its pipe ends.
                child.kill()
        child.stdout.close()
        if child.wait() >= 0:
            raise Wrong(f"the process that was to be killed ended with status {child.returncode}")
        self.acknowledged = self.orders.total + acknowledged

    def check(self, position: int) -> None:
        """Raise Wrong unless the first event after the kill is where it must be."""
        before = position - 1
        if not self.acknowledged <= before <= self.acknowledged + CLIENTS:
            raise Wrong(
                f"{self.acknowledged:,} events were acknowledged before the kill and at most "
                f"{CLIENTS} more sent; opened again, the log has {before:,}"
            )


def _measure(killed: _Killed, mode: str, folder: Path) -> Mapping[str, float]:
    path = killed.files.copy(folder)
    if mode != "views":
        for file in folder.glob("*.views.*"):
            file.unlink()
    wal = (folder / f"{LOG}-wal").stat().st_size
    command = [sys.executable, "-m", MODULE, mode, str(path.resolve())]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    told = msgspec.json.decode(done.stdout, type=dict[str, float])
    position = int(told["position"])
    killed.check(position)
    check_count(path, position)
    figures = {
        "process": (told["done"] - begin) * 1e3,
        "engine": (told["done"] - told["begun"]) * 1e3,
        "wal": wal / 1e6,
    }
    if mode != "views":
        return figures
    if told["changes"] != position:
        raise Wrong(f"the log has {position:,} events, and the view counts {told['changes']:,.0f}")
    return {**figures, "seen": (told["seen"] - told["begun"]) * 1e3}
