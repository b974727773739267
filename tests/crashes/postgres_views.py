"""Engines and their PostgreSQL server, killed in the middle of batches of views, again and again.

An engine folds what it writes into tables beside its log, and is killed at a step of a batch. Some
worlds live side by side in one server, which is killed as well, with all that is under way in it.
After each death the tables are read from outside, and must be what the log says up to their
checkpoint: each event once, none missing. At the end an engine folds what is left.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine import EngineError, Ports
from tests.support import warm
from tests.support.counters import Add
from tests.support.postgres import Server, postgres_server, wheel_programs
from tests.support.tallies import GetTallies, tallied

STEPS = ("views.inserted", "views.checkpointed", "views.committed", "projector.folded")
WORLDS = 4
_HITS = 5
_AT_ONCE = 12
_PATIENCE_SECONDS = 60.0
"""How long the last engine of a world may be kept from its end."""
_PAUSE = 0.1
_LIFE_SECONDS = 300
"""A server that was killed may need minutes to recover on a busy disk; an engine waits for it."""
_MADE = (
    "SELECT count(*) FROM pg_tables WHERE schemaname = '{s}_views' AND tablename = 'checkpoints'"
)
_WRONG = """
WITH reached AS (
    SELECT coalesce(max(position), 0) AS position FROM {s}_views.checkpoints
), expected AS (
    SELECT stream, count(*) AS events FROM {s}.events, reached
    WHERE events.position <= reached.position GROUP BY stream
)
SELECT count(*) FROM expected
FULL JOIN {s}_views.tallies_rows t ON expected.stream = 'counter:' || t.counter
WHERE expected.events IS DISTINCT FROM t.events OR t.total IS DISTINCT FROM t.events
"""
_REACHED = "SELECT coalesce(max(position), 0) FROM {s}_views.checkpoints"


class Killed(msgspec.Struct):
    """What was killed, and what was wrong then."""

    engines: int = 0
    servers: int = 0
    events: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


async def live(store: str, step: str, hit: int) -> None:
    """Write and fold without a pause, and be killed when a step is reached so often."""
    left = hit

    def die(name: str) -> None:
        nonlocal left
        if name == step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    while True:
        try:
            async with tallied(store, Ports(failpoint=die)) as engine:
                while engine.failed is None:
                    sent = [engine.execute(Add(f"c{n}", 1)) for n in range(_AT_ONCE)]
                    await asyncio.gather(*sent, return_exceptions=True)
        except EngineError:
            await asyncio.sleep(_PAUSE)  # the server was killed as it started


class World:
    """One log and its views, with one engine after the other."""

    def __init__(self, server: Server, turn: threading.Lock, seed: int) -> None:
        self._server = server
        self._turn = turn
        self._chance = random.Random(seed)
        self.schema = server.new_schema()
        self.killed = Killed()

    def run(self, lives: int) -> None:
        """Let so many engines die, and then one live."""
        for number in range(lives):
            self._live(STEPS[number % len(STEPS)], self._chance.randrange(1, _HITS))
            self.judge(f"life {number}")
        try:
            asyncio.run(self.fold())
        except EngineError as error:
            self.killed.problems.append(f"{self.schema}: the last engine failed: {error}")
            return
        self.judge("the end", whole=True)

    def _live(self, step: str, hit: int) -> None:
        url = self._server.url(self.schema, "lease=1")
        words = [sys.executable, "-m", "tests.crashes.postgres_views", url, step, str(hit)]
        with warm.Warm(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                status = process.wait(_LIFE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = None
        if status == -signal.SIGKILL:
            self.killed.engines += 1
        else:
            self.killed.problems.append(
                f"{self.schema}: an engine was not killed at {step}: {status}"
            )

    async def fold(self) -> None:
        """Have an engine fold what is left; the server may die once more meanwhile."""
        now = asyncio.get_running_loop().time
        until = now() + _PATIENCE_SECONDS
        while True:
            try:
                async with tallied(self._server.url(self.schema, "lease=1")) as engine:
                    receipt = await engine.execute(Add("c0", 1))
                    await engine.query(GetTallies(), at=receipt, timeout=_PATIENCE_SECONDS)
                    self.killed.events = receipt.position
                return
            except EngineError:
                if now() > until:
                    raise
                await asyncio.sleep(_PAUSE)

    def judge(self, when: str, *, whole: bool = False) -> None:
        """Compare the tables with the log up to their checkpoint."""
        with self._turn:  # the server is up meanwhile
            if self._asked(_MADE) == "0":
                return
            wrong = self._asked(_WRONG)
            reached = int(self._asked(_REACHED))
        if wrong != "0":
            self.killed.problems.append(
                f"{self.schema}, {when}: {wrong} counters have not what is in the log up to the "
                f"checkpoint at {reached}"
            )
        if whole and reached != self.killed.events:
            self.killed.problems.append(f"{self.schema}: {reached} of {self.killed.events} folded")

    def _asked(self, query: str) -> str:
        return self._server.sql(query.replace("{s}", self.schema))


def run_views(lives: int, servers: int, seed: int = 0) -> Killed:
    """Kill so many engines, and the server so often meanwhile; tell what was wrong."""
    turn = threading.Lock()
    chance = random.Random(seed)
    with postgres_server(wheel_programs()) as server, ThreadPoolExecutor(WORLDS) as pool:
        worlds = [World(server, turn, seed + n) for n in range(WORLDS)]
        shares = [lives // WORLDS + (n < lives % WORLDS) for n in range(WORLDS)]
        running = [
            pool.submit(world.run, share) for world, share in zip(worlds, shares, strict=True)
        ]
        done: Callable[[], bool] = lambda: all(one.done() for one in running)  # noqa: E731
        over = threading.Event()
        killed = 0
        while killed < servers and not done():
            over.wait(0.5 + chance.random())
            with turn:
                server.kill()
                server.start()
            killed += 1
        for one in running:
            one.result()
    return _summed([world.killed for world in worlds], killed)


def _summed(worlds: Sequence[Killed], servers: int) -> Killed:
    return Killed(
        sum(world.engines for world in worlds),
        servers,
        sum(world.events for world in worlds),
        [problem for world in worlds for problem in world.problems],
    )


def main(lives: int, servers: int, seed: int) -> int:
    """Run it and print what was found; give 1 where a promise was broken."""
    killed = run_views(lives, servers, seed)
    print(
        f"{killed.engines} engines and {killed.servers} servers killed in the middle of batches of "
        f"views; {killed.events} events, {len(killed.problems)} problems"
    )
    for problem in killed.problems[:20]:
        print(f"    {problem}")
    return 1 if killed.problems else 0


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], sys.argv[2], int(sys.argv[3])))
