"""A process that shares a log until its standard input ends, or it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from engine import run
from tests.members.joining import joined


async def main(url: str, listen: str) -> None:
    """Take part."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with joined(Path(), store=url, listen=listen or None):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        ends = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        stops = asyncio.ensure_future(stop.wait())
        await asyncio.wait([ends, stops], return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
