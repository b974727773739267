"""A PostgreSQL server that is killed in the middle of batches of views, under one engine.

The engine folds what its clients write into three views, and lives on. Each kill falls at a step of
a batch: before it the server itself is asked whether a transaction is open in which rows of a view
were written, and where none is, the kill waits for another batch. Some fall on a COMMIT that was
sent, whose answer is lost as often as not. After each kill the tables are compared, from outside,
with the log up to their checkpoints; at the end all is folded, and compared with every answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter as Count
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from engine import AsyncSql, Engine, Meta, Ports, Projection, SqlProjection, Table, projects
from engine.model.projection import slice_of
from engine.stores.postgres.address import Address
from engine.stores.postgres.driver import Asyncpg, Connection
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server, asked, connected, postgres_server, wheel_programs
from tests.support.tallies import Tallies, Tally

__all__ = ["STEPS", "Killed", "kill_servers", "main"]

COMMIT: Final = "commit"
STEPS: Final = ("projector.folded", "views.inserted", "views.checkpointed", COMMIT)
"""Of a batch, at which a server is killed: failpoints of the engine, and a COMMIT on its way."""
SLICES: Final = 2
MEMORY: Final = Path("/dev/shm")
_CLIENTS: Final = 10
_HITS: Final = 5
_BEHIND_MAX: Final = 100
"""Events that the views may be behind before the clients wait for them."""
_PAUSE_MAX: Final = 0.01
_ON_ITS_WAY_MAX: Final = 0.004
"""Seconds for which a COMMIT is left to the server before the kill."""
_SECONDS: Final = 100.0
"""How long the views may take until a batch is under way again, or until all is folded."""
_LOST: Final = "has lost the last changes"
_OPEN: Final = """
SELECT DISTINCT split_part(c.relname, '_', 1) FROM pg_stat_activity AS a
JOIN pg_locks AS l ON l.pid = a.pid JOIN pg_class AS c ON c.oid = l.relation
WHERE a.backend_xid IS NOT NULL AND a.state = 'idle in transaction'
AND l.mode = 'RowExclusiveLock' AND c.relname LIKE '%\\_rows\\_%\\_b1'
"""
_EXPECTED: Final = """
SELECT stream, count(*), sum((payload->>'amount')::bigint) FROM {s}.log
WHERE position <= $1 GROUP BY stream
"""
_VIEWS: Final = ("tallies", "sliced", "told")


class Sliced(Projection, name="sliced", version=1, slices=SLICES):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Tally(meta.id, 0, 0)
        self.rows.put(Tally(meta.id, row.total + event.amount, row.events + 1))


class InSql(SqlProjection, name="told", version=1, dialect="postgresql"):
    tables = {
        "rows": "CREATE TABLE {rows} (counter text PRIMARY KEY, total bigint, events bigint)",
    }

    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        await sql.run(
            "INSERT INTO {rows} AS t VALUES (?, ?, 1) ON CONFLICT (counter) DO UPDATE SET "
            "total = t.total + excluded.total, events = t.events + 1",
            (meta.id, event.amount),
        )


class Killed(msgspec.Struct):
    """How often the server was killed at each step, and what was wrong then."""

    steps: Count[str] = msgspec.field(default_factory=Count)
    views: Count[str] = msgspec.field(default_factory=Count)
    """In whose batches."""
    told_and_lost: int = 0
    """Projections whose committed batches were lost with a server, and were folded again."""
    events: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


class Killer:
    """Kills the server once each time that it is armed; nothing of its engine runs meanwhile."""

    def __init__(self, server: Server, chance: random.Random, killed: Killed) -> None:
        self._server = server
        self._chance = chance
        self._killed = killed
        self._step: str | None = None
        self._left = 0
        self._asking = ThreadPoolExecutor(1)
        self.struck = asyncio.Event()

    def arm(self, step: str) -> None:
        """Kill at one of the next batches that come to a step."""
        self.struck.clear()
        self._step, self._left = step, self._chance.randrange(_HITS)

    def reach(self, name: str) -> None:
        """Be told of a step, as the engine's failpoint is."""
        if self._strikes(name):
            self._kill()

    async def commit(self, connection: Any) -> str:
        """Run a COMMIT, and perhaps kill the server under it."""
        if not self._strikes(COMMIT):
            return cast("str", await connection.execute("COMMIT"))
        answer = asyncio.ensure_future(connection.execute("COMMIT"))
        await asyncio.sleep(0)  # it is sent, and the answer is not read before this loop goes on
        time.sleep(self._chance.random() * _ON_ITS_WAY_MAX)
        self._kill()
        if self._chance.random() < 0.5:
            connection.terminate()
        return cast("str", await answer)

    def _strikes(self, name: str) -> bool:
        if name != self._step:
            return False
        self._left -= 1
        views = self._views_under_way() if self._left < 0 else []
        if views:
            self._killed.steps[name] += 1
            self._killed.views.update(views)
        return bool(views)

    def _views_under_way(self) -> list[str]:
        """Ask the server, from a thread of its own: nothing goes on here meanwhile."""
        asking = self._asking.submit(asyncio.run, asked(self._server, _OPEN))
        return [str(view) for (view,) in asking.result()]

    def _kill(self) -> None:
        self._step = None
        self._server.kill()
        self.struck.set()


class _Watched:
    """A connection whose COMMITs a killer sees."""

    def __init__(self, connection: Connection, killer: Killer) -> None:
        self._connection = connection
        self._killer = killer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: str, *values: Any) -> str:
        if query == "COMMIT":
            return await self._killer.commit(self._connection)
        return await self._connection.execute(query, *values)


class _Driver:
    """asyncpg, with connections that are watched."""

    def __init__(self, killer: Killer) -> None:
        self._killer = killer

    async def connect(self, address: Address) -> tuple[Connection, bool]:
        connection, pooled = await Asyncpg().connect(address)
        return cast("Connection", _Watched(connection, self._killer)), pooled


class _Losses(logging.Handler):
    """Counts what the engine says of commits that a server has lost."""

    def __init__(self, killed: Killed) -> None:
        super().__init__()
        self._killed = killed

    def emit(self, record: logging.LogRecord) -> None:
        self._killed.told_and_lost += _LOST in record.getMessage()


class Trial:
    """One server, and one engine that outlives it again and again."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._chance = random.Random(seed)
        self._receipts: dict[int, tuple[str, int]] = {}
        self._is_over = False
        self.schema = server.new_schema()
        self.killed = Killed()
        self._killer = Killer(server, self._chance, self.killed)
        self._logger = logging.Logger("killed")
        self._logger.addHandler(_Losses(self.killed))

    async def run(self, times: int) -> None:
        """Kill the server so often; then let the engine fold what is left."""
        engine = Engine(
            [Counter],
            projections=[Tallies, Sliced, InSql],
            store=self._server.url(self.schema),
            ports=Ports(failpoint=self._killer.reach, database=_Driver(self._killer)),
            logger=self._logger,
        )
        async with engine:
            clients = [asyncio.ensure_future(self._client(engine, n)) for n in range(_CLIENTS)]
            try:
                for number in range(times):
                    await self._folded(engine, engine.statistics().position)
                    await self._kill(STEPS[number % len(STEPS)])
                    await self.judge(f"kill {number + 1}")
            finally:
                self._is_over = True
                await asyncio.gather(*clients)
            self.killed.events = engine.statistics().position
            await self._folded(engine, self.killed.events)
        await self.judge("the end", whole=True)
        await self._judge_answers()

    async def _kill(self, step: str) -> None:
        self._killer.arm(step)
        async with asyncio.timeout(_SECONDS):
            await self._killer.struck.wait()
        await asyncio.to_thread(self._server.start)

    async def _client(self, engine: Engine, number: int) -> None:
        while True:
            try:
                receipt = await engine.execute(Add(f"c{number}", self._chance.randrange(1, 9)))
            except Exception as error:
                self.killed.problems.append(f"a command was refused: {error!r}")
                return
            self._receipts[receipt.position] = receipt.stream, receipt.version
            if self._is_over:
                return
            await self._folded(engine, receipt.position - _BEHIND_MAX)
            await asyncio.sleep(self._chance.random() * _PAUSE_MAX)

    async def _folded(self, engine: Engine, position: int) -> None:
        """Return when all views have come so far."""
        async with asyncio.timeout(_SECONDS):
            while any(
                found.position < position for found in engine.statistics().projectors.values()
            ):
                await asyncio.sleep(_PAUSE_MAX)

    async def judge(self, when: str, *, whole: bool = False) -> None:
        """Compare each view, read from outside, with the log up to its checkpoints."""
        connection = await connected(self._server)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                for table in _VIEWS:
                    await self._judge_view(connection, table, when, whole)
        finally:
            await connection.close()

    async def _judge_view(self, connection: Any, name: str, when: str, whole: bool) -> None:
        async def read(query: str, *values: Any) -> list[tuple[Any, ...]]:
            query = query.replace("{s}", self.schema)
            return [tuple(row) for row in await connection.fetch(query, *values)]

        checkpoints = dict(
            await read(
                "SELECT slice, position FROM {s}_views.checkpoints WHERE projection = $1", name
            )
        )
        expected: set[tuple[Any, ...]] = set()
        for slice_, position in checkpoints.items():
            for stream, *sums in await read(_EXPECTED, position):
                if slice_of(stream, len(checkpoints)) == slice_:
                    expected.add((stream.partition(":")[2], *sums))
        rows = await read(f"SELECT counter, events, total FROM {{s}}_views.{name}_rows")
        if wrong := set(rows) ^ expected:
            self.killed.problems.append(
                f"{when}: {name} is at {checkpoints}, and these rows are not those of the log up "
                f"to there: {sorted(wrong)}"
            )
        if whole and {*checkpoints.values()} != {self.killed.events}:
            self.killed.problems.append(f"{name} is at {checkpoints} of {self.killed.events}")

    async def _judge_answers(self) -> None:
        connection = await connected(self._server)
        try:
            rows: Sequence[Any] = await connection.fetch(
                f"SELECT position, stream, version FROM {self.schema}.log ORDER BY position"
            )
        finally:
            await connection.close()
        if {at: (stream, version) for at, stream, version in rows} != self._receipts:
            self.killed.problems.append("the log has not the events that were acknowledged")


async def kill_servers(times: int, seed: int = 0) -> Killed:
    """Start a server, kill it so often in the middle of batches, and judge its views each time."""
    # A kill loses nothing of a file system, and one in memory is synced at once.
    inside = MEMORY if MEMORY.is_dir() else None
    with postgres_server(wheel_programs(), inside=inside) as server:
        trial = Trial(server, seed)
        await trial.run(times)
        return trial.killed


def main(times: int, seed: int) -> int:
    """Run it and print what was found; give 1 where a promise was broken."""
    killed = asyncio.run(kill_servers(times, seed))
    told = [
        ", ".join(f"{count} {where} {what}" for what, count in sorted(counts.items()))
        for where, counts in (("at", killed.steps), ("of", killed.views))
    ]
    print(
        f"{killed.steps.total()} servers killed in the middle of a batch of views: {told[0]}; "
        f"{told[1]}; {killed.told_and_lost} times committed batches were lost and folded again; "
        f"{killed.events} events, {len(killed.problems)} problems"
    )
    for problem in killed.problems[:20]:
        print(f"    {problem}")
    return 1 if killed.problems else 0
