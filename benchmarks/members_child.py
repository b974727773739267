"""One process of `members`: `python -m benchmarks.members_child URL NUMBER JOINS CLIENTS SECONDS`.

It prints `ready` when it takes part, sends when it is told to, prints what it has done, and ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

import msgspec

from engine import Engine, run

from .members import Told
from .workload import BenchmarkOrder, commands_of


async def main(store: str, number: str, joins: str, clients: str, seconds: str) -> None:
    """Take part in one run."""
    async with Engine([BenchmarkOrder], store=store, join=bool(int(joins))) as engine:
        tell(b"ready")
        await heard()
        tell(msgspec.json.encode(await send(engine, number, int(clients), float(seconds))))
        await heard()


def tell(line: bytes) -> None:
    """Print a line at once."""
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


async def heard() -> None:
    """Wait for a line, or for the end."""
    await asyncio.to_thread(sys.stdin.readline)


async def send(engine: Engine, name: str, clients: int, seconds: float) -> Told:
    """Send commands until the time is over."""
    begun = time.perf_counter()
    end = begun + seconds
    took: list[float] = []

    async def client(number: int) -> None:
        for sent, command in enumerate(commands_of(number)):
            now = time.perf_counter()
            if now >= end:
                break
            await engine.execute(command, key=f"{number}-{sent}")
            took.append(time.perf_counter() - now)

    first = int(name) * 1_000
    await asyncio.gather(*(client(first + n) for n in range(clients)))
    membership = engine.statistics().membership
    return Told(
        "alone" if membership is None else membership.role,
        len(took),
        time.perf_counter() - begun if took else seconds,
        statistics.median(took) * 1e3 if took else 0.0,
    )


if __name__ == "__main__":
    run(main, *sys.argv[1:])
