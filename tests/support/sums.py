"""Projections of the counters in several releases, and a program that serves one of them.

`python -m tests.support.sums PATH RELEASE` runs an engine, takes what to do from its input, a line
each, and answers each. The test that started it may kill it, or have it killed at a failpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from engine import (
    Delivery,
    Engine,
    Limits,
    Meta,
    Ports,
    Projection,
    Query,
    Row,
    Sink,
    Sql,
    SqlProjection,
    Table,
    Views,
    answers,
    projects,
    run,
)
from tests.support.counters import Add, Added, Counter

AILING: set[str] = set()
"""Ids of counters whose events no projection here can fold now."""
FOLDED: list[int] = []
"""Positions of the events that were folded in this process."""
ROUNDS: list[int] = []
"""Where the log was in each round of the load."""


class Sum(Row, key="counter"):
    counter: str
    total: int


class SumOfThem(Query[list[Sum]]):
    pass


class _Base(Projection, name="base"):
    rows: Table[Sum]
    factor = 1

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id)
        if meta.id in AILING:
            raise ValueError(f"a secret of {meta.id}")
        FOLDED.append(meta.position)
        total = event.amount * self.factor + (row.total if row else 0)
        self.rows.put(Sum(meta.id, total))


class Parking(_Base, name="sums", version=1, on_poison="park"):
    rows: Table[Sum]


class Stopping(_Base, name="sums", version=1):
    rows: Table[Sum]


class Tenfold(_Base, name="sums", version=2):
    rows: Table[Sum]
    factor = 10


class TenfoldInSlices(_Base, name="sums", version=2, slices=3):
    rows: Table[Sum]
    factor = 10


class Hundredfold(_Base, name="sums", version=3):
    rows: Table[Sum]
    factor = 100


class Wider(Row, key="counter"):
    counter: str
    total: float


class Otherwise(Projection, name="sums", version=1):
    """The same version with other tables."""

    rows: Table[Wider]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Wider(meta.id, 0.5))


class InSql(SqlProjection, name="sums", version=1):
    tables = {"rows": "CREATE TABLE {rows} (counter TEXT PRIMARY KEY, total INTEGER NOT NULL)"}

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        FOLDED.append(meta.position)
        sql.run(
            "INSERT INTO {rows} VALUES (?, ?) ON CONFLICT (counter) DO UPDATE SET "
            "total = total + excluded.total",
            (meta.id, event.amount),
        )


class InSqlAnew(InSql, name="sums", version=2):
    pass


class Told(Sink, name="sums", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]]) -> None:
        FOLDED.extend(delivery.position for delivery in batch)


class ToldAnew(Told, name="sums", version=2):
    pass


RELEASES: dict[str, type[Projection]] = {
    "parking": Parking,
    "stopping": Stopping,
    "tenfold": Tenfold,
    "sliced": TenfoldInSlices,
    "hundredfold": Hundredfold,
    "otherwise": Otherwise,
    "sql": InSql,
    "sql-anew": InSqlAnew,
    "sink": Told,
    "sink-anew": ToldAnew,
}


def summing(release: str, store: str = "memory:", **options: Any) -> Engine:
    """Give an engine of a release."""
    projection = RELEASES[release]

    @answers
    async def all_sums(query: SumOfThem, views: Views) -> list[Sum]:
        if projection.__definition__.sink is not None:
            return []
        return await views.sql("SELECT counter, total FROM sums_rows", row=Sum)

    options.setdefault("limits", Limits(control_poll_ms=20))
    return Engine([Counter], projections=[projection], answers=[all_sums], store=store, **options)


def stopping() -> Engine:
    """The former release, as commands import it."""
    return summing("stopping")


def tenfold() -> Engine:
    """The new one."""
    AILING.update(os.environ.get("AILING", "").split())
    return summing("tenfold")


def sliced() -> Engine:
    """The new one, in slices."""
    return summing("sliced")


def hundredfold() -> Engine:
    """The one after that."""
    return summing("hundredfold")


def otherwise() -> Engine:
    """One that forgot to raise its version."""
    return summing("otherwise")


# -- a process of it ----------------------------------------------------------------------------


async def add(engine: Engine, *counters: str) -> int:
    """Add 1 to counters, in order; give the position of the last event."""
    receipts = [await engine.execute(Add(counter, 1)) for counter in counters]
    return receipts[-1].position


async def sums(engine: Engine, at: int | None = None) -> dict[str, int]:
    return {row.counter: row.total for row in await engine.query(SumOfThem(), at=at)}


async def serve(options: argparse.Namespace) -> None:
    AILING.update(options.ailing)

    def failpoint(name: str) -> None:
        if name == options.die:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = summing(
        options.release,
        f"sqlite:{options.path}",
        limits=Limits(control_poll_ms=options.poll),
        ports=Ports(failpoint=failpoint if options.die else None),
    )
    loading: asyncio.Task[None] | None = None
    async with engine:
        print("ready", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            answer: Any = None
            match line:
                case ["add", *counters]:
                    answer = await add(engine, *counters)
                    await sums(engine, at=answer)
                case ["many", number, count]:
                    await engine.execute(Add(number, 1, int(count)))
                case ["load"]:
                    loading = asyncio.create_task(load(engine))
                case ["halt"]:
                    assert loading is not None
                    assert not loading.done(), loading.result()
                    loading.cancel()
                    answer = len(ROUNDS)
                case ["sums", at]:
                    answer = await sums(engine, at=int(at))
                case ["folded"]:
                    answer = len(FOLDED), len(set(FOLDED))
                case ["status"]:
                    (found,) = await engine.projections.list()
                    answer = {
                        "state": found.state,
                        "position": found.position,
                        "retries": found.retries,
                        "builds": [[b.version, b.state] for b in found.builds],
                    }
                case ["heal"]:
                    AILING.clear()
                case _:
                    raise AssertionError(line)
            print(json.dumps(answer), flush=True)


async def load(engine: Engine) -> None:
    """Write as fast as it goes, and see in the views what was written, until cancelled."""
    while True:
        ROUNDS.append(engine.statistics().position)
        receipts = await asyncio.gather(*(engine.execute(Add(f"c{n}", 1)) for n in range(50)))
        await sums(engine, at=max(receipt.position for receipt in receipts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("release", choices=sorted(RELEASES))
    parser.add_argument("--die", help="the failpoint at which it is killed")
    parser.add_argument("--poll", type=int, default=20)
    parser.add_argument("--ailing", nargs="*", default=[])
    run(serve, parser.parse_args())
