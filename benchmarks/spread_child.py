"""One process of `spread`: `python -m benchmarks.spread_child MODE URL ...`.

`alone`, `spread` and `race` make their share of the aggregates, send commands about all of them
when they are told to, print what they have seen, and end with their standard input. `guest` joins
at a line of it, and leaves at the next one. Each prints `ready` when it is done with a step.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from typing import Any, Final, Literal, cast

import msgspec

from engine import Conflict, Engine, EngineError, SpreadStatistics, Voided, run
from engine.stores.contract.membership import SLOTS

from .members_child import heard, tell
from .spread import Mode, Seen
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder

_SETTLED_SECONDS: Final = 30.0
_TRIES: Final = 1_000
_MAKERS: Final = 64
_LEAST: Final = 2
"""Answers of which a percentile can be told."""
_LATE_SECONDS: Final = 60.0


async def main(mode: Mode, url: str, *numbers: str) -> None:
    """Take part in one run."""
    if mode == "guest":
        await come_and_go(url)
        return
    processes, clients, aggregates, seconds, own = (float(number) for number in numbers)
    join: Literal["spread", False] = False if mode == "alone" else "spread"
    async with Engine([BenchmarkOrder], store=url, join=join) as engine:
        if mode != "alone":
            await settled(engine, int(processes))
        tell(b"ready")
        await heard()
        names = [f"order-{number}" for number in range(int(aggregates))]
        made = names[int(own) :: int(processes)]
        await make(engine, made)
        if mode == "race":
            await asyncio.sleep(1.0)  # the last of the other's are answered
        tell(b"ready")
        await heard()
        if mode == "race":
            decide_all(engine)
        seen = await Sender(engine, names, int(own)).send(int(clients), seconds)
        tell(msgspec.json.encode(msgspec.structs.replace(seen, appended=seen.appended + len(made))))
        await heard()


async def come_and_go(url: str) -> None:
    """Be an owner at one line, and none at the next one, until the last."""
    tell(b"ready")
    while await asyncio.to_thread(sys.stdin.readline):
        async with Engine([BenchmarkOrder], store=url, join="spread"):
            tell(b"ready")
            if not await asyncio.to_thread(sys.stdin.readline):
                return
        tell(b"ready")


def _spread(engine: Engine) -> SpreadStatistics:
    membership = engine.statistics().membership
    assert membership is not None
    assert membership.spread is not None
    return membership.spread


async def settled(engine: Engine, processes: int) -> None:
    """Wait until all owners know each other."""
    async with asyncio.timeout(_SETTLED_SECONDS):
        while True:
            found = _spread(engine)
            there = [one for one in found.owners.values() if one.is_connected]
            if len(there) == processes - 1 and found.slots_ready == found.slots:
                return
            await asyncio.sleep(0.01)


def decide_all(engine: Engine) -> None:
    """Let this process decide whatever it is given, and send nothing on: the race."""
    cast("Any", engine)._joined._router._ready = bytearray(b"\1" * SLOTS)


async def make(engine: Engine, names: list[str]) -> None:
    """Make aggregates, one event each."""
    waiting = iter(names)

    async def maker() -> None:
        for name in waiting:
            await engine.execute(OpenOrder(name, "mouse", 1), key=f"open-{name}")

    await asyncio.gather(*(maker() for _ in range(_MAKERS)))


class Sender:
    """Sends commands, and sees what comes back."""

    def __init__(self, engine: Engine, names: list[str], own: int) -> None:
        self._engine = engine
        self._names = names
        self._own = own
        self._took: list[float] = []
        self._last = 0.0
        self._gap = 0.0
        self._failed = 0
        self._done = 0

    async def send(self, clients: int, seconds: float) -> Seen:
        """Send until the time is over; a quarter of it passes before, and does not count.

        On a busy machine it goes on until there are figures to give, for a minute at most.
        """
        engine = self._engine
        self._last = time.perf_counter()
        self._end = self._last + seconds * 1.25
        tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        await asyncio.sleep(seconds / 4)
        self._took.clear()
        self._gap = 0.0
        begun, burnt = time.perf_counter(), time.process_time()
        await asyncio.sleep(max(0.0, self._end - begun))
        if self._goes_on():
            await asyncio.gather(*tasks)
        took, lasted = self._took.copy(), time.perf_counter() - begun
        core = (time.process_time() - burnt) / max(1, len(took)) * 1e6
        await asyncio.gather(*tasks)
        membership = engine.statistics().membership
        spread = None if membership is None else membership.spread
        return Seen(
            done=len(took),
            appended=self._done,
            seconds=lasted,
            p99=statistics.quantiles(took, n=100)[98] * 1e3,
            gap=self._gap,
            slowest=max(self._took),
            failed=self._failed,
            conflicts=engine.statistics().journal.conflicts,
            moved=0 if spread is None else spread.moved,
            core=core,
        )

    def _goes_on(self) -> bool:
        """Tell whether the time is not over, or there are too few answers for figures."""
        late = time.perf_counter() - self._end
        return late < 0 or (len(self._took) < _LEAST and late < _LATE_SECONDS)

    async def _client(self, number: int) -> None:
        choose, sent = random.Random(f"{self._own}-{number}"), 0
        while self._goes_on():
            sent += 1
            command = AdjustOrder(choose.choice(self._names), "mouse", sent % 9 + 1)
            await self._run(command, f"{self._own}-{number}-{sent}")

    async def _run(self, command: AdjustOrder, key: str) -> None:
        begun = time.perf_counter()
        for _ in range(_TRIES):
            try:
                await self._engine.execute(command, key=key)
            except (Conflict, Voided):
                continue  # the other one was first: it is decided anew
            except EngineError:
                break
            now = time.perf_counter()
            self._done += 1
            self._took.append(now - begun)
            self._gap, self._last = max(self._gap, now - self._last), now
            return
        self._failed += 1


if __name__ == "__main__":
    run(main, *sys.argv[1:])
