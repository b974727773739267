"""A process with an engine on a log in a server: `-m tests.stores.leased_child URL VIEWS FIRST`.

It writes as many commands as it can until it is killed, each with a key, and prints each answer.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from engine import Engine
from tests.support.counters import Add, Counter
from tests.support.tallies import Tallies


async def main(url: str, views: str, first: int) -> None:
    numbers = itertools.count(first)
    async with Engine([Counter], projections=[Tallies], store=url, views=views) as engine:
        print("ready", flush=True)

        async def write() -> None:
            for number in numbers:
                await engine.execute(Add(f"c-{number % 7}", 1), key=f"k-{number}")
                print(number, flush=True)

        await asyncio.gather(*(write() for _ in range(16)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
