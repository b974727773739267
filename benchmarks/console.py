"""`console`: what an engine's writers lose while somebody looks at its console.

The console is served by uvicorn in the engine's own loop, as a web application has it. Who looks is
another process, which asks as the page does: `overview` each 2 s, or the log as it grows, with a
pause of 250 ms behind each page. 256 clients write in a closed loop. `each` is the processor time
of the engine's process for a command, with whatever else that process does: on a busy machine it
says more than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

import engine
from engine.integrations.console import Console

from .closed_loop import MANY_ORDERS, drive
from .scenario import Cell, Column, Scenario, Wrong
from .systems import Target, commits_of, count_rows, send_of
from .workload import BenchmarkOrder

__all__ = ["add_options", "scenario"]

ROOT = Path(__file__).parent.parent
LOOKS = ("overview", "log")
_STARTED_SECONDS = 0.02
_LOG = "engine.db"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the number of clients."""
    parser.add_argument("--clients", type=int, default=256, help="default: 256")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    clients = 8 if options.quick else options.clients
    group = f"sqlite, {clients:,} clients"

    def cell(name: str, looks: str, *against: str) -> Cell:
        return Cell(group, name, partial(_measure, clients, options.seconds, looks), against)

    return Scenario(
        name="console",
        title="writers of an engine, beside somebody who looks at its console",
        conditions={
            "durability": "SQLite: WAL, synchronous=FULL",
            "work": "create an order, adjust it nine times; keyed",
            "console": "in the engine's loop, by uvicorn; who looks is another process",
            "loop": f"uvloop; {options.seconds:g} s a cell, a quarter more before does not count",
        },
        columns=(
            Column("each", "µs", "less", 2),
            Column("commands", "/s", "more"),
            Column("p99", "ms", "less", 2),
            Column("answers", "/s"),
        ),
        headline="each",
        cells=[
            cell("nobody looks", ""),
            *(cell(f"{looks} is looked at", looks, "nobody looks") for looks in LOOKS),
        ],
    )


def _measure(clients: int, seconds: float, looks: str, folder: Path) -> Mapping[str, float]:
    figures, acknowledged = engine.run(_run, clients, seconds, looks, folder)
    if (found := count_rows(folder / _LOG)) != acknowledged:
        raise Wrong(f"{acknowledged:,} commands were acknowledged, and {found:,} are stored")
    return figures


async def _run(
    clients: int, seconds: float, looks: str, folder: Path
) -> tuple[Mapping[str, float], int]:
    async with engine.Engine([BenchmarkOrder], store=f"sqlite:{folder / _LOG}") as running:
        target = Target(send_of(running, keyed=True), lambda: commits_of(running))
        async with _served(Console(running)) as port, _looked_at(port, looks) as answers:
            begin, worked = time.perf_counter(), time.process_time()
            rate, times, acknowledged = await drive(target, MANY_ORDERS, clients, seconds)
            worked, lasted = time.process_time() - worked, time.perf_counter() - begin
            seen = await answers()
    if looks and not seen:
        raise Wrong("nobody was answered by the console")
    figures = {
        "each": worked / acknowledged * 1e6,
        "commands": rate,
        "p99": times.milliseconds()["p99"],
        "answers": seen / lasted,
    }
    return figures, acknowledged


@contextlib.asynccontextmanager
async def _served(console: Any) -> AsyncGenerator[int]:
    """Serve it on a free port of this machine."""
    config = uvicorn.Config(
        console, host="127.0.0.1", port=0, log_level="error", lifespan="off", access_log=False
    )
    server = uvicorn.Server(config)
    signals: Any = contextlib.nullcontext  # they are the benchmark's
    server.capture_signals = signals  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    while not server.started and not task.done():  # noqa: ASYNC110 - nothing rings there
        await asyncio.sleep(_STARTED_SECONDS)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def _looked_at(port: int, looks: str) -> AsyncGenerator[Any]:
    """Let another process look; what is given tells it to end, and how many answers it had."""

    async def answers() -> int:
        if not looks:
            return 0
        told, _ = await process.communicate(b"\n")
        return int(told)

    if not looks:
        yield answers
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.console_child", str(port), looks),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # it has begun
        yield answers
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
