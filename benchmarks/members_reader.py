"""One process of `members` that reads: `python -m benchmarks.members_reader URL MODE SECONDS`.

MODE is `owner`, which has the log and its views; `reader`, which sends so many commands a second to
it, and asks its own views for each receipt; `idle`, which takes part and does nothing; or
`following`, which follows a feed and watches a query to which nothing comes. It talks with its
parent as `members_child` does.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

import msgspec

from engine import Engine, Query, Views, answers, run

from .members import Told
from .members_child import heard, tell
from .project import Summaries, Summary
from .workload import BenchmarkOrder, commands_of

__all__ = ["GetSummary", "get_summary"]

RATE = 1_000
"""Commands a second."""
WARM_SECONDS = 0.5


class GetSummary(Query[Summary | None]):
    """One order."""

    order_id: str


@answers
async def get_summary(query: GetSummary, views: Views) -> Summary | None:
    """Give its row."""
    return await views.get(Summaries.rows, query.order_id)


async def main(store: str, mode: str, seconds: str) -> None:
    """Take part in one run."""
    async with Engine(
        [BenchmarkOrder],
        projections=[Summaries],
        answers=[get_summary],
        store=store,
        join=True,
    ) as engine:
        tell(b"ready")
        await heard()
        following = [follow(engine), watch(engine)] if mode == "following" else []
        tasks = [asyncio.create_task(each) for each in following]
        await asyncio.sleep(WARM_SECONDS)
        burnt, begun = time.process_time(), time.perf_counter()
        took = await read(engine, float(seconds)) if mode == "reader" else []
        if mode != "reader":
            await asyncio.sleep(float(seconds))
        lasted = time.perf_counter() - begun
        core = (time.process_time() - burnt) / lasted * 100
        tell(msgspec.json.encode(_told(mode, took, lasted, core)))
        for task in tasks:
            task.cancel()
        await heard()


def _told(mode: str, took: list[float], lasted: float, core: float) -> Told:
    if not took:
        return Told(mode, 0, lasted, 0.0, core=core)
    cuts = statistics.quantiles(took if len(took) > 1 else took * 2, n=100)
    return Told(mode, len(took), lasted, cuts[49] * 1e3, cuts[98] * 1e3, core)


async def follow(engine: Engine) -> None:
    """Follow the log."""
    async for _ in engine.feed(follow=True):
        pass


async def watch(engine: Engine) -> None:
    """Watch one order."""
    async for _ in engine.watch(GetSummary("none")):
        pass


async def read(engine: Engine, seconds: float) -> list[float]:
    """Send a command each millisecond, and ask for its receipt; give how long each answer took."""
    took: list[float] = []
    commands = commands_of(1)
    end = time.perf_counter() + seconds
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        command = next(commands)
        receipt = await engine.execute(command, key=f"reads-{number}")
        begun = time.perf_counter()
        await engine.query(GetSummary(command.order_id), at=receipt)
        took.append(time.perf_counter() - begun)

    begun, number = time.perf_counter(), 0
    while (now := time.perf_counter()) < end:
        while number < (now - begun) * RATE:
            task = asyncio.create_task(one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(1 / RATE)
    await asyncio.gather(*tasks)
    return took


if __name__ == "__main__":
    run(main, *sys.argv[1:])
