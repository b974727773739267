"""Runs several owners of one log for a while, lets them die and stand still, and judges them."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from engine.stores.postgres.address import read_address
from tests.members.spread_child import engine_of
from tests.members.spread_judge import Told, judge, judge_numbers, kind_of, read_book
from tests.support.postgres import Server, asked

__all__ = ["Ran", "run_owners"]

Process = asyncio.subprocess.Process


class Ran(msgspec.Struct):
    """What came of it."""

    problems: list[str]
    answers: Counter[str]
    incidents: Counter[str]
    gap_seconds: float
    """The longest time in which nobody was told anything."""
    longest_seconds: float


class _Fleet:
    def __init__(self, url: str, folder: Path, seed: int, clients: int) -> None:
        self.url, self.folder, self.clients = url, folder, clients
        self.choose = random.Random(seed)
        self.books: list[Path] = []
        self.living: list[Process] = []

    async def begin(self) -> None:
        book = self.folder / f"book-{len(self.books)}.jsonl"
        self.books.append(book)
        name = f"p{len(self.books)}"
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "tests.members.spread_child", self.url],
            *[str(book), name, str(self.clients)],
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        self.living.append(process)

    def take(self) -> Process:
        return self.living.pop(self.choose.randrange(len(self.living)))

    async def happen(self, what: str, seconds: float) -> None:
        if what == "kill":
            process = self.take()
            process.kill()
            await process.wait()
            await self.begin()
        elif what == "stop":
            process = self.choose.choice(self.living)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            process.send_signal(signal.SIGCONT)
        elif what == "leave":
            process = self.take()
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 60)
            assert process.returncode == 0
            await self.begin()

    async def end(self) -> None:
        for process in self.living:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        for process in self.living:
            await asyncio.wait_for(process.wait(), 60)


async def run_owners(
    postgres: Server,
    folder: Path,
    *,
    seed: int,
    owners: int,
    incidents: Sequence[tuple[str, float]],
    lease: float = 2.0,
    clients: int = 6,
) -> Ran:
    """Let incidents happen to some owners, one after the other; judge what is left."""
    url = postgres.url(postgres.new_schema(), f"lease={lease:g}")
    fleet = _Fleet(url, folder, seed, clients)
    try:
        for _ in range(owners):
            await fleet.begin()
        for what, seconds in incidents:
            await asyncio.sleep(fleet.choose.random() * lease)
            await fleet.happen(what, seconds)
        await asyncio.sleep(1.5 * lease)
    finally:
        await fleet.end()
    told = [one for book in fleet.books for one in read_book(book)]
    rows = await _rows_when_all_is_mirrored(postgres, url)
    query = (
        "SELECT payload->>'book', (payload->>'number')::int, metadata->>'key' "
        f"FROM {read_address(url).schema}.log WHERE event = 'numbered' ORDER BY position"
    )
    numbers: list[Any] = await asked(postgres, query)
    return Ran(
        [*judge(told, rows), *judge_numbers(told, [(*row,) for row in numbers])],
        Counter(one.what for one in told),
        Counter(what for what, _ in incidents),
        _gap(told),
        max((one.ended - one.begun for one in told if one.ended is not None), default=0.0),
    )


async def _rows_when_all_is_mirrored(postgres: Server, url: str) -> list[Any]:
    """Give position, stream, version and key of all events, when the reactor is at its end."""
    schema = read_address(url).schema
    query = f"SELECT position, stream, version, metadata->>'key' FROM {schema}.log ORDER BY 1"
    timers = f"SELECT stream, name FROM {schema}.timers"
    async with engine_of(url), asyncio.timeout(60):
        while True:
            rows: list[Any] = await asked(postgres, query)
            counts = Counter(map(kind_of, rows))
            del counts["till"]
            if len({*counts.values()}) == 1 and not await asked(postgres, timers):
                return rows
            await asyncio.sleep(0.05)


def _gap(told: Sequence[Told]) -> float:
    ends = sorted(one.ended for one in told if one.ended is not None)
    return max((b - a for a, b in pairwise(ends)), default=0.0)
