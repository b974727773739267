"""A process that runs some projections of a log, and sends commands, until it is told to stop.

Each client sends one command after the other with a key, and again where its answer was lost.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

from engine import Engine, EngineError, run
from tests.members.duties_shop import sharing
from tests.support.counters import Add


async def main(url: str, delivered: str, name: str, clients: str) -> None:
    """Take part until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with sharing(url, Path(delivered)) as engine:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sending = [
            asyncio.create_task(client(engine, f"{name}-{n}", stop)) for n in range(int(clients))
        ]
        await stop.wait()
        await asyncio.gather(*sending)


async def client(engine: Engine, name: str, stop: asyncio.Event) -> None:
    """Send one command after the other."""
    choose, number = random.Random(name), 0
    while not stop.is_set():
        number += 1
        counter = f"c{choose.randrange(8)}"
        try:
            await engine.execute(Add(counter, 1), key=f"{name}-{number}")
        except EngineError:
            number -= 1
        await asyncio.sleep(choose.random() * 0.02)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
