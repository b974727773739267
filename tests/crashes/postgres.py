"""A PostgreSQL server whose connections break and which dies, under an engine with many clients.

Four things happen to it, one after the other, as often as is asked for: replies are lost behind the
commit, requests are cut before it, the backend of the writer is ended, and the whole server is
killed and started again. Then the log is read from outside, by a connection of its own, and
compared with each answer.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter as Multiset
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

import engine
from engine import Engine, EngineError
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.log.writer import Writer
from tests.support.counters import Add, Counter
from tests.support.cutting import CutLine, cut_line
from tests.support.postgres import Server, asked, connected, postgres_server, wheel_programs

CLIENTS = 64
_RATE = 0.05
_PAUSE_MAX = 0.02
_END_WRITER = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE query LIKE '%append_1%' AND application_name = 'foldline' AND pid <> pg_backend_pid()
"""


class Faults(msgspec.Struct, frozen=True):
    """How often each thing happens."""

    replies: int = 300
    requests: int = 300
    backends: int = 200
    servers: int = 5


def faults_of(trials: int) -> Faults:
    """Give so many of a hundredth part of what is to be survived."""
    return Faults(3 * trials, 3 * trials, 2 * trials, max(1, trials // 20))


class Outcome(msgspec.Struct):
    """What came of it."""

    acknowledged: int
    found_written: int
    written_again: int
    refused: dict[str, int]
    problems: list[str]


class _Clients:
    """Commands without a pause, each with a key, and every answer that they get."""

    def __init__(self, engine: Engine, schema: str) -> None:
        self.schema = schema
        self.receipts: list[tuple[str, int, int]] = []
        self.refused: Multiset[str] = Multiset()
        self._engine = engine
        self._stopped = False

    async def run(self, call: Awaitable[None]) -> None:
        """Let them work until a call has ended."""
        clients = [asyncio.ensure_future(self._client(number)) for number in range(CLIENTS)]
        try:
            await call
        finally:
            self._stopped = True
            await asyncio.gather(*clients)

    def have_more_than(self, receipts: int) -> bool:
        """Tell whether commands were acknowledged since."""
        return len(self.receipts) > receipts

    async def _client(self, number: int) -> None:
        sent = 0
        while not self._stopped:
            sent += 1
            try:
                receipt = await self._engine.execute(Add(f"c{number}", 1), key=str(sent))
            except EngineError as error:
                self.refused[type(error).__name__] += 1
                if self._engine.failed is not None:
                    return
                continue
            self.receipts.append((receipt.stream, receipt.version, receipt.position))


async def run_faults(faults: Faults, seed: int = 0) -> Outcome:
    """Start a server and an engine, let all of it happen, and judge the log."""
    with postgres_server(wheel_programs()) as server:
        async with cut_line(server.port, seed) as line:
            return await _under_faults(server, line, faults, random.Random(seed))


async def _under_faults(
    server: Server, line: CutLine, faults: Faults, rng: random.Random
) -> Outcome:
    url = server.url(port=line.port)
    async with Engine([Counter], store=url, views="memory:") as running:
        clients = _Clients(running, "foldline")
        writer = _writer_of(running)

        async def happen() -> None:
            await _cut(line, "reply", lambda: writer.found_written, faults.replies)
            await _cut(line, "request", lambda: writer.written_again, faults.requests)
            await _end_backends(server, faults.backends, rng)
            for _ in range(faults.servers):
                before = len(clients.receipts)
                server.kill()
                await asyncio.to_thread(server.start)
                await _until(partial(clients.have_more_than, before))

        await clients.run(happen())
        found, again = writer.found_written, writer.written_again
    problems = await _judged(server, clients)
    return Outcome(len(clients.receipts), found, again, dict(clients.refused), problems)


def _writer_of(running: Engine) -> Writer:
    store = running._wiring.store
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    return store._writer


async def _cut(line: CutLine, what: str, count: Callable[[], int], times: int) -> None:
    """Cut connections until so many appends have met it."""
    end = count() + times
    line.cut_often(**{what: _RATE})
    await _until(lambda: count() >= end)
    line.cut_often()


async def _end_backends(server: Server, times: int, rng: random.Random) -> None:
    """End the backend of the writer so often, at moments that a seed gives."""
    ended = 0
    outside = await connected(server)
    try:
        while ended < times:
            await asyncio.sleep(rng.random() * _PAUSE_MAX)
            ended += await outside.fetchval(_END_WRITER)
    finally:
        await outside.close()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(_PAUSE_MAX)


async def _judged(server: Server, clients: _Clients) -> list[str]:
    """Compare the log, read from outside, with every answer."""
    rows = await asked(
        server,
        "SELECT stream, version, position, metadata->>'key' FROM "
        f"{clients.schema}.log ORDER BY position",
    )
    receipts = clients.receipts
    stored = {(stream, version): position for stream, version, position, _ in rows}
    problems = [
        f"{stream} version {version} was acknowledged at {position} and is at "
        f"{stored.get((stream, version))}"
        for stream, version, position in receipts
        if stored.get((stream, version)) != position
    ]
    if [position for _, _, position, _ in rows] != list(range(1, len(rows) + 1)):
        problems.append("positions have holes")
    keys = Multiset((stream, key) for stream, _, _, key in rows)
    problems += [f"{command} is in the log {n} times" for command, n in keys.items() if n > 1]
    if len(receipts) != len(set(receipts)):
        problems.append("two commands have one receipt")
    missing = len(rows) - len(receipts)
    if missing:
        problems.append(f"{missing} events are in the log that nobody was told of")
    if clients.refused:
        problems.append(f"commands were refused: {dict(clients.refused)}")
    return problems


def main(faults: Faults, seed: int) -> int:
    """Run it and print what was found; give 1 where a promise was broken."""
    outcome = engine.run(run_faults, faults, seed)
    print(
        f"{outcome.acknowledged} commands acknowledged; of batches whose connection broke "
        f"{outcome.found_written} were found in the log and {outcome.written_again} written again; "
        f"refused: {outcome.refused or 'none'}"
    )
    for problem in outcome.problems[:20]:
        print(f"    {problem}")
    return 1 if outcome.problems else 0
