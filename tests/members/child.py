"""A process that shares a log until its standard input ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from engine import run
from tests.members.joining import joined


async def main(url: str, listen: str) -> None:
    """Take part."""
    async with joined(Path(), store=url, listen=listen or None):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
