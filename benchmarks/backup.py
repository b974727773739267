"""`backup`: a log of a million events is backed up, verified and restored; and writers beside that.

Each is the command that people run, as a process of its own, with its start. The rate is of events,
and `per core` that by the processor time of the command. `first` is the time from the start of an
engine on the restored log to its first durable receipt. Beside: commands are offered in an open
loop to an engine on a log with as many events, alone, and while the command runs in another
process, again and again. `commands` are those that were acknowledged in the time. Afterwards each
log has what was acknowledged and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path

import engine

from .filled import LOG, Orders, Prepared, check_count, fill_sqlite
from .open_loop import Schedule, offer
from .scenario import Cell, Column, Scenario, Wrong
from .systems import Target, commits_of, send_of
from .workload import BenchmarkOrder, OpenOrder

__all__ = ["add_options", "children_seconds", "scenario"]

ROOT = Path(__file__).parent.parent
EVENTS = 1_000_000
RATE = 20_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the sizes."""
    parser.add_argument("--events", type=int, default=EVENTS, help="in the log; default 1000000")
    parser.add_argument("--rate", type=float, default=RATE, help="offered/s; default 20000")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    events = 5_000 if options.quick else options.events
    seconds = 0.3 if options.quick else options.seconds
    orders = Orders(max(1, events // 10), 10, prefix="old-", keyed=True)
    log = Prepared(options.folder, lambda made: fill_sqlite(made, orders))
    rest, beside = f"{events:,} events at rest", f"beside {options.rate:,.0f} commands/s"

    def one(name: str, *against: str) -> Cell:
        return Cell(rest, name, partial(_MEASURES[name], log, orders.total), against)

    def with_writers(name: str, *against: str) -> Cell:
        measure = partial(_beside, name, log, orders.total, options.rate, seconds)
        return Cell(beside, name, measure, against)

    return Scenario(
        name="backup",
        title="a log in a file that is copied, backed up, verified and restored",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL; each file of a backup is synced",
            "work": "orders of ten events, keyed; each command is a process of its own",
            "pace": "at rest all of the time; beside an engine as the command does by itself",
            "beside": f"an open loop for {seconds:g} s, a quarter more before does not count",
        },
        columns=(
            Column("events", "/s", "more"),
            Column("per core", "/s", "more"),
            Column("first", "ms", "less"),
            Column("commands", "/s", "more"),
            Column("p50", "ms", "less", 2),
            Column("p99", "ms", "less", 2),
        ),
        headline="events",
        cells=[
            one("copy"),
            one("backup", "copy"),
            one("verify", "copy"),
            one("restore", "copy"),
            with_writers("alone"),
            with_writers("backup", "alone"),
            with_writers("verify", "alone"),
        ],
    )


def _copy(log: Prepared, events: int, folder: Path) -> Mapping[str, float]:
    figures = _timed(events, "copy", log.folder() / LOG, folder / "copy.db")
    check_count(folder / "copy.db", events)
    return figures


def _backup(log: Prepared, events: int, folder: Path) -> Mapping[str, float]:
    return _timed(events, "backup", log.folder() / LOG, folder / "backup")


def _verify(log: Prepared, events: int, folder: Path) -> Mapping[str, float]:
    return _timed(events, "verify", log.copy(folder))


def _restore(log: Prepared, events: int, folder: Path) -> Mapping[str, float]:
    _run("backup", log.folder() / LOG, folder / "backup")
    path = folder / "restored.db"
    figures = _timed(events, "restore", folder / "backup", path)
    check_count(path, events)
    first = engine.run(_first, path)
    return {**figures, "first": first * 1e3}


_MEASURES = {"copy": _copy, "backup": _backup, "verify": _verify, "restore": _restore}


async def _first(path: Path) -> float:
    begin = time.perf_counter()
    async with engine.Engine([BenchmarkOrder], store=f"sqlite:{path}") as running:
        await running.execute(OpenOrder("first", "mouse", 1))
        return time.perf_counter() - begin


def _timed(events: int, *arguments: str | Path) -> Mapping[str, float]:
    begin, worked = time.perf_counter(), children_seconds()
    _run(*arguments)
    seconds, worked = time.perf_counter() - begin, children_seconds() - worked
    return {"events": events / seconds, "per core": events / worked}


def children_seconds() -> float:
    """Give the processor time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*arguments: str | Path) -> None:
    status = subprocess.run(_command(arguments), check=False).returncode
    if status != 0:
        raise Wrong(f"{arguments[0]} ended with status {status}")


def _command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "engine", *map(str, arguments)]


def _beside(
    name: str, log: Prepared, events: int, rate: float, seconds: float, folder: Path
) -> Mapping[str, float]:
    path = log.copy(folder)
    figures, acknowledged = engine.run(_offered, name, path, rate, seconds, folder)
    check_count(path, events + acknowledged)
    return figures


async def _offered(
    name: str, path: Path, rate: float, seconds: float, folder: Path
) -> tuple[Mapping[str, float], int]:
    async with engine.Engine([BenchmarkOrder], store=f"sqlite:{path}") as running:
        target = Target(send_of(running, keyed=True), lambda: commits_of(running))
        async with _repeated(name, path, folder):
            begin = time.perf_counter()
            schedule = Schedule(begin, rate, seconds * 1.25)
            offered = await offer(target, schedule, warm_up=seconds * 0.25)
            lasted = time.perf_counter() - begin
    figures = {
        "commands": offered.acknowledged / lasted,
        **{k: v for k, v in offered.latencies.milliseconds().items() if k in ("p50", "p99")},
    }
    return figures, offered.acknowledged


@contextlib.asynccontextmanager
async def _repeated(name: str, path: Path, folder: Path) -> AsyncGenerator[None]:
    """Run a command in another process again and again while the body runs."""

    async def again() -> None:
        while True:
            shutil.rmtree(folder / "backup", ignore_errors=True)
            arguments = (name, path, folder / "backup") if name == "backup" else (name, path)
            process = await asyncio.create_subprocess_exec(
                *_command(arguments),
                cwd=ROOT,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                    process.kill()
                await process.wait()
                raise
            if status != 0:
                raise Wrong(f"{name} beside an engine ended with status {status}")

    if name == "alone":
        yield
        return
    task = asyncio.create_task(again())
    try:
        await asyncio.sleep(1)  # Python begins, and the command reads
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
