"""`walk`: from a command to its durable receipt, in a closed loop, beside the floor.

Each client sends its next command when it has the answer to the last. A round measures every cell
once, in turn, so that a slow minute of the machine falls on all alike; the figure of a cell is the
median over the rounds. After every cell with a file, the file is opened again and its events are
counted against the acknowledgements.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec

import engine

from .floor import FloorEngine
from .watched import MODES, telemetry_of
from .workload import BenchmarkOrder, commands_of

_HEAD = (
    "store    clients                commands/s       min       max"
    "  of floor   p50 ms   p99 ms  events/commit"
)

Send = Callable[[Any, int], Awaitable[Any]]


class Cell(msgspec.Struct, frozen=True):
    """What is measured: `floor` or `engine`, on `memory` or `sqlite`, keyed or bare."""

    system: str
    store: str
    keyed: bool
    clients: int
    telemetry: str = "off"
    """Of an engine: `off`, or a mode of `benchmarks.watched`."""

    @property
    def name(self) -> str:
        """A short name for the table."""
        watched = "" if self.telemetry == "off" else f" {self.telemetry}"
        return f"{self.system}{' keyed' if self.keyed else ''}{watched}"


class Measured(msgspec.Struct, frozen=True):
    """One run of one cell."""

    cell: Cell
    commands_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float
    events_per_commit: float


def cells(clients: list[int]) -> list[Cell]:
    """Give the cells of a round, floors first."""
    kinds = [("floor", False), ("engine", False), ("engine", True)]
    return [
        Cell(system, store, keyed, count)
        for count, store, (system, keyed) in itertools.product(clients, ("memory", "sqlite"), kinds)
    ]


def measure(cell: Cell, seconds: float, folder: Path) -> Measured:
    """Run one cell in a loop of its own, and check what it left in its file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = str(Path(place) / "walk.db")
        run = _run_floor if cell.system == "floor" else _run_engine
        acknowledged, measured = engine.run(run, cell, seconds, path)
        if cell.store == "sqlite":
            _check(path, acknowledged)
    return measured


async def _run_floor(cell: Cell, seconds: float, path: str) -> tuple[int, Measured]:
    floor = FloorEngine(path if cell.store == "sqlite" else None)
    try:

        async def send(command: Any, _: int) -> None:
            await floor.execute(command)

        rate, times, acknowledged = await _drive(send, cell.clients, seconds)
        return acknowledged, _measured(cell, rate, times, acknowledged / floor.commits)
    finally:
        floor.close()


async def _run_engine(cell: Cell, seconds: float, path: str) -> tuple[int, Measured]:
    store = f"sqlite:{path}" if cell.store == "sqlite" else "memory:"
    async with contextlib.AsyncExitStack() as stack:
        telemetry = stack.enter_context(telemetry_of(cell.telemetry))
        made = engine.Engine([BenchmarkOrder], store=store, telemetry=telemetry)
        running = await stack.enter_async_context(made)
        execute = running.execute

        async def send_bare(command: Any, _: int) -> None:
            await execute(command)

        async def send_keyed(command: Any, number: int) -> None:
            await execute(
                command,
                key=f"{command.order_id}/{number}",
                correlation="benchmark",
                principal="client",
            )

        send = send_keyed if cell.keyed else send_bare
        rate, times, acknowledged = await _drive(send, cell.clients, seconds)
        numbers = running.statistics().journal
        return acknowledged, _measured(cell, rate, times, numbers.events / numbers.commits)


async def _drive(send: Send, clients: int, seconds: float) -> tuple[float, list[float], int]:
    """Run the clients; give commands per second, latencies after the warm-up, all answers."""
    times: list[float] = []
    answers = 0
    running = True
    warm = False

    async def client(number: int) -> None:
        nonlocal answers
        for sequence, command in enumerate(commands_of(number)):
            begin = time.perf_counter()
            await send(command, sequence)
            answers += 1
            if warm:
                times.append(time.perf_counter() - begin)
            if not running:
                return

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(seconds / 4)
    warm, begin, before = True, time.perf_counter(), answers
    await asyncio.sleep(seconds)
    rate = (answers - before) / (time.perf_counter() - begin)
    warm = running = False
    await asyncio.gather(*tasks)
    return rate, times, answers


def _measured(cell: Cell, rate: float, times: list[float], per_commit: float) -> Measured:
    times.sort()
    return Measured(
        cell,
        rate,
        times[len(times) // 2] * 1e3,
        times[int(len(times) * 0.99)] * 1e3,
        per_commit,
    )


def _check(path: str, acknowledged: int) -> None:
    connection: Any = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute("select count(*), max(position) from events").fetchall()[0]
    connection.close()
    if found != (acknowledged, acknowledged):
        raise SystemExit(f"{acknowledged} commands were acknowledged, the file has {found}")


def watched_cells(clients: list[int]) -> list[Cell]:
    """Give the cells that show what a telemetry costs: each mode after the engine without one."""
    return [
        Cell("engine", store, keyed=False, clients=count, telemetry=mode)
        for count, store, watched in itertools.product(clients, ("memory", "sqlite"), MODES)
        for mode in ("off", watched)
    ]


def watched_table(rounds: list[list[Measured]]) -> str:
    """Give the medians, each with its ratio to the run before it, the engine without telemetry."""
    lines = ["store    clients  telemetry    commands/s  of off just before (median, min to max)"]
    for index, first in enumerate(rounds[0]):
        rates = [measured[index].commands_per_second for measured in rounds]
        line = (
            f"{first.cell.store:8}{first.cell.clients:>8}  {first.cell.telemetry:10}"
            f"{statistics.median(rates):>13,.0f}"
        )
        if index % 2:
            ratios = [
                m[index].commands_per_second / m[index - 1].commands_per_second for m in rounds
            ]
            line += f"{statistics.median(ratios):>7.1%} ({min(ratios):.1%} to {max(ratios):.1%})"
        lines.append(line)
    return "\n".join(lines)


def table(rounds: list[list[Measured]]) -> str:
    """Give the medians, each engine cell with its ratio to the floor of the same round."""
    lines = [_HEAD]
    for index, first in enumerate(rounds[0]):
        runs = [measured[index] for measured in rounds]
        floors = [_floor_of(measured, first.cell) for measured in rounds]
        rates = [run.commands_per_second for run in runs]
        ratio = statistics.median(
            run.commands_per_second / floor for run, floor in zip(runs, floors, strict=True)
        )
        lines.append(
            f"{first.cell.store:8}{first.cell.clients:>8}  {first.cell.name:14}"
            f"{statistics.median(rates):>12,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}"
            f"{ratio:>10.0%}"
            f"{statistics.median(run.latency_p50_ms for run in runs):>9.2f}"
            f"{statistics.median(run.latency_p99_ms for run in runs):>9.2f}"
            f"{statistics.median(run.events_per_commit for run in runs):>15.1f}"
        )
    return "\n".join(lines)


def _floor_of(measured: list[Measured], cell: Cell) -> float:
    return next(
        m.commands_per_second
        for m in measured
        if (m.cell.system, m.cell.store, m.cell.clients) == ("floor", cell.store, cell.clients)
    )
