"""`spread`: processes that own a part of a log in PostgreSQL each, beside one engine and a race.

Each process sends keyed commands in a closed loop, with its share of the clients, about aggregates
chosen at random. `one engine` is a process that has the log alone. In `race of 2` the processes
decide whatever they are given, as if each were alone: they append with the versions that they
expect, by the same statement, and load anew what the other one has changed; a client sends again
what lost. `conflicts` counts these. `even` is the rate of the slowest process by that of the
fastest. In the last group an owner joins, and leaves again, every 2 seconds of `--coming` (a tenth
of it is enough for a look); `gap` is the longest time in which a process got no answer, `slowest`
the longest command, and `failed` counts commands that were not run, or of which nobody knows.
Afterwards the log has what was acknowledged and nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

import msgspec

from .databases import empty_database
from .postgres import DURABLE
from .scenario import Cell, Column, Scenario, Wrong

__all__ = ["Mode", "Seen", "add_options", "scenario"]

ROOT: Final = Path(__file__).parent.parent
MODULE: Final = "benchmarks.spread_child"
CLIENTS: Final = 256
MANY, HOT = 10_000, 64
COMING_SECONDS: Final = 120.0
CHANGE_SECONDS: Final = 2.0

Mode: TypeAlias = Literal["alone", "spread", "race", "guest"]
"""`guest` comes and goes, and sends nothing."""


class Seen(msgspec.Struct, frozen=True):
    """What one process says of its commands."""

    done: int = 0
    """Within the time."""
    appended: int = 0
    """All events that were acknowledged, with those before and behind the time."""
    seconds: float = 0.0
    p99: float = 0.0
    """In ms."""
    gap: float = 0.0
    slowest: float = 0.0
    """In seconds."""
    failed: int = 0
    conflicts: int = 0
    moved: int = 0
    core: float = 0.0
    """µs of processor time for each command."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of clients, and how long owners come and go."""
    parser.add_argument("--clients", type=int, default=CLIENTS, help="of all processes together")
    parser.add_argument(
        "--coming", type=float, metavar="SECONDS", help=f"default {COMING_SECONDS:g}"
    )


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    seconds = 0.2 if options.quick else options.seconds
    coming = options.coming or (2.0 if options.quick else COMING_SECONDS)
    many = 500 if options.quick else MANY

    def cells(group: str, aggregates: int) -> list[Cell]:
        def cell(name: str, mode: Mode, processes: int, *against: str) -> Cell:
            clients = max(1, options.clients // processes)
            measure = partial(_measure, mode, processes, clients, aggregates, seconds)
            return Cell(group, name, measure, against)

        return [
            cell("one engine", "alone", 1),
            cell("race of 2", "race", 2, "one engine"),
            cell("1 owner", "spread", 1, "one engine"),
            cell("2 owners", "spread", 2, "one engine", "race of 2"),
            cell("3 owners", "spread", 3, "one engine", "race of 2"),
        ]

    return Scenario(
        name="spread",
        title="commands to a log in PostgreSQL that several processes own, to the durable receipt",
        conditions={
            "durability": DURABLE,
            "clients": f"{options.clients} of all processes together, keyed, one command at a time",
            "batch": "what gathers while the batch before it is with the server",
            "processes": "with uvloop; all on the cores of this machine, the server among them",
            "coming": f"{coming:g} s, and each {CHANGE_SECONDS:g} s an owner comes or goes",
        },
        columns=(
            Column("rate", "/s", "more"),
            Column("p99", "ms", "less", 1),
            Column("core", "µs", "less", 0),
            Column("conflicts", "", "less"),
            Column("even", "", "more", 2),
            Column("gap", "s", "less", 2),
            Column("slowest", "s", "less", 2),
            Column("failed", "", "less"),
        ),
        headline="rate",
        cells=[
            *cells(f"{many:,} aggregates at random", many),
            *cells(f"{HOT} hot aggregates", HOT),
            Cell(
                "owners that come and go",
                "2 owners and a third",
                partial(_coming, max(1, options.clients // 2), many, coming),
            ),
        ],
    )


def _measure(
    mode: Mode, processes: int, clients: int, aggregates: int, seconds: float, folder: Path
) -> Mapping[str, float]:
    with empty_database(folder) as log:
        with _running(mode, log.url, processes, clients, aggregates, seconds) as running:
            seen = [_said(each, Seen) for each in running]
        log.check(sum(each.appended for each in seen))
    return _figures(seen)


def _coming(clients: int, aggregates: int, seconds: float, folder: Path) -> Mapping[str, float]:
    with empty_database(folder) as log:
        with (
            _running("spread", log.url, 2, clients, aggregates, seconds) as running,
            _guest(log.url) as guest,
        ):
            end = time.perf_counter() + seconds - CHANGE_SECONDS
            while time.perf_counter() < end:
                begun = time.perf_counter()
                _go(guest)
                _ready(guest)
                time.sleep(max(0.0, begun + CHANGE_SECONDS - time.perf_counter()))
            seen = [_said(each, Seen) for each in running]
        log.check(sum(each.appended for each in seen))
    return _figures(seen)


def _figures(seen: Sequence[Seen]) -> Mapping[str, float]:
    rates = [each.done / each.seconds for each in seen]
    return {
        "rate": sum(rates),
        "p99": max(each.p99 for each in seen),
        "core": sum(each.core * each.done for each in seen) / max(1, sum(e.done for e in seen)),
        "conflicts": sum(each.conflicts for each in seen),
        "even": min(rates) / max(rates),
        "gap": max(each.gap for each in seen),
        "slowest": max(each.slowest for each in seen),
        "failed": sum(each.failed for each in seen),
    }


# -- processes ------------------------------------------------------------------------------------

_Process: TypeAlias = "subprocess.Popen[bytes]"


@contextmanager
def _running(
    mode: Mode, url: str, processes: int, clients: int, aggregates: int, seconds: float
) -> Generator[Sequence[_Process]]:
    """Give processes that have begun to send, each with its share of the aggregates made."""
    numbers = (str(n) for n in (processes, clients, aggregates, seconds))
    shared = [mode, url, *numbers]
    running: list[_Process] = []
    try:
        running += [_started([*shared, str(number)]) for number in range(processes)]
        for _ in ("are settled", "have made the aggregates"):
            for each in running:
                _ready(each)
            for each in running:
                _go(each)
        yield running
    finally:
        _end(running)


@contextmanager
def _guest(url: str) -> Generator[_Process]:
    guest = _started(["guest", url])
    try:
        _ready(guest)
        yield guest
    finally:
        _end([guest])


def _started(arguments: Sequence[str]) -> _Process:
    command = [sys.executable, "-m", MODULE, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _end(running: Sequence[_Process]) -> None:
    for process in reversed(running):
        process.communicate(timeout=60)
        if process.returncode:
            raise Wrong(f"a process ended with status {process.returncode}")


def _go(process: _Process) -> None:
    stream = _pipe(process.stdin)
    stream.write(b"go\n")
    stream.flush()


def _ready(process: _Process) -> None:
    if (line := _pipe(process.stdout).readline()) != b"ready\n":
        raise Wrong(f"a process did not begin: {line!r}")


def _said(process: _Process, as_type: type[Seen]) -> Seen:
    return msgspec.json.decode(_pipe(process.stdout).readline(), type=as_type)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
