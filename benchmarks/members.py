"""`members`: 1, 2 and 4 processes that share one log, each of which sends commands to it.

Each process opens the same engine with `join=True`. When all take part, each sends in a closed loop
with its share of the clients, until the time is over; the commands are keyed. The first process
owns the log, and the others' commands go through it. `alone` is one process without `join=True`.
`one by one` is a single client: in the owner, and in a member, whose commands are forwarded. The
last group has a view: a member sends 1,000 commands a second and asks its views for each receipt,
which is timed from the receipt to the answer; `idle` is a member that does nothing, and
`idle, following` one that follows a feed and watches a query to which nothing comes. `core` is what
that process took. `--store postgresql` has the log and its views in a server.
Afterwards the log is opened again, and has what was acknowledged and nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

import msgspec

from .databases import empty_database
from .filled import LOG, Copy, check_count
from .postgres import DURABLE
from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["add_options", "scenario"]

ROOT = Path(__file__).parent.parent
MODULE = "benchmarks.members_child"
READER = "benchmarks.members_reader"
CLIENTS = 256
PROCESSES = (1, 2, 4)

Opened: TypeAlias = Callable[[Path], AbstractContextManager[Copy]]
"""Gives where the log of a cell is, and who counts what is in it."""


class Told(msgspec.Struct, frozen=True):
    """What one process says of its commands."""

    role: str
    done: int
    seconds: float
    p50: float
    """Of one client, in ms."""
    p99: float = 0.0
    core: float = 0.0
    """Percent of a core that the process took."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of clients, and where the log is."""
    parser.add_argument("--clients", type=int, default=CLIENTS, help="of all processes together")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    seconds = 0.2 if options.quick else options.seconds
    group, single = f"{options.clients} clients, keyed", "one by one"
    views = "a member's query at= its receipt"
    in_a_file = options.store == "sqlite"
    opened = _file if in_a_file else empty_database
    place = "in a file" if in_a_file else "in PostgreSQL"

    def cell(name: str, processes: int, joins: bool, clients: int) -> Cell:
        measure = partial(_measure, opened, processes, joins, clients, seconds)
        return Cell(group, name, measure, () if name == "alone" else ("alone",))

    return Scenario(
        name="members",
        title=f"commands of several processes to one log {place}, from call to durable receipt",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL" if in_a_file else DURABLE,
            "processes": "with uvloop; all on the cores of this machine, the owner among them",
            "rate": "of all processes together",
        },
        columns=(
            Column("rate", "/s", "more"),
            Column("p50", "ms", "less", 3),
            Column("p99", "ms", "less", 1),
            Column("core", "%", "less", 2),
        ),
        headline="rate",
        cells=[
            cell("alone", 1, False, options.clients),
            *(cell(f"{n} joined", n, True, options.clients) for n in PROCESSES),
            Cell(single, "owner", partial(_single, opened, "owner", seconds)),
            Cell(single, "member", partial(_single, opened, "member", seconds), ("owner",)),
            Cell(views, "1,000 commands/s", partial(_views, opened, "reader", seconds)),
            Cell(views, "idle", partial(_views, opened, "idle", seconds)),
            Cell(views, "idle, following", partial(_views, opened, "following", seconds)),
        ],
    )


@contextmanager
def _file(folder: Path) -> Generator[Copy]:
    path = (folder / LOG).resolve()
    yield Copy(f"sqlite:{path}", partial(check_count, path))


def _measure(
    opened: Opened, processes: int, joins: bool, clients: int, seconds: float, folder: Path
) -> Mapping[str, float]:
    shares = [max(1, clients // processes)] * processes
    told = _run(opened, folder, processes, joins, shares, seconds)
    done = sum(each.done for each in told)
    # The last acknowledgements may come a moment behind the time.
    return {"rate": done / max(each.seconds for each in told)}


def _single(opened: Opened, role: str, seconds: float, folder: Path) -> Mapping[str, float]:
    clients = [1, 0] if role == "owner" else [0, 1]
    told = _run(opened, folder, 2, True, clients, seconds)
    asked = next(each for each in told if each.role == role)
    return {"rate": asked.done / asked.seconds, "p50": asked.p50}


def _run(
    opened: Opened,
    folder: Path,
    processes: int,
    joins: bool,
    clients: Sequence[int],
    seconds: float,
) -> Sequence[Told]:
    """Run the processes, the first of which owns the log; check what they left."""
    with opened(folder) as log:
        told = _together(
            [MODULE, log.url, str(number), str(int(joins)), str(clients[number]), str(seconds)]
            for number in range(processes)
        )
        log.check(sum(each.done for each in told))
    return told


def _views(opened: Opened, mode: str, seconds: float, folder: Path) -> Mapping[str, float]:
    with opened(folder) as log:
        told = _together([READER, log.url, role, str(seconds)] for role in ("owner", mode))
        log.check(told[1].done)
    found = {"rate": told[1].done / told[1].seconds, "core": told[1].core}
    return found | ({"p50": told[1].p50, "p99": told[1].p99} if told[1].done else {})


def _together(modules: Iterable[Sequence[str]]) -> Sequence[Told]:
    """Run processes at once, the first of which owns the log; give what each says."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for module in modules:
            command = [sys.executable, "-m", *module]
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            running.append(process)
            if _line(process.stdout) != b"ready\n":
                raise Wrong("a process did not begin")
        for process in running:
            _begin(process.stdin)
        told = [msgspec.json.decode(_line(process.stdout), type=Told) for process in running]
    finally:
        for process in reversed(running):  # the owner last
            process.communicate(timeout=60)
            if process.returncode:
                raise Wrong(f"a process ended with status {process.returncode}")
    return told


def _begin(stream: IO[bytes] | None) -> None:
    assert stream is not None
    stream.write(b"go\n")
    stream.flush()


def _line(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return stream.readline()
