"""A projection over the counters of `support`, and a process that is killed at a failpoint."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from engine import (
    Engine,
    Meta,
    Ports,
    Projection,
    Query,
    Receipt,
    Row,
    Table,
    Views,
    answers,
    projects,
)
from tests.support.counters import Add, Added, Counter, Emptied

AILING: set[str] = set()
"""Ids of counters whose events the projection cannot fold now."""


class Tally(Row, key="counter", index=["total"]):
    counter: str
    total: int
    events: int


class Tallies(Projection, name="tallies", version=1):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        if meta.id in AILING:
            raise ValueError("ailing")
        row = self.rows.get(meta.id) or Tally(meta.id, 0, 0)
        self.rows.put(Tally(meta.id, row.total + event.amount, row.events + 1))

    @projects
    def emptied(self, event: Emptied, meta: Meta) -> None:
        self.rows.delete(meta.id)


class GetTally(Query[Tally | None]):
    counter: str


class GetTallies(Query[list[Tally]]):
    pass


@answers
async def get_tally(query: GetTally, views: Views) -> Tally | None:
    return await views.get(Tallies.rows, query.counter)


@answers(projections=[Tallies])
async def get_tallies(query: GetTallies, views: Views) -> list[Tally]:
    return await views.find(Tallies.rows, order_by="counter")


def tallied(store: str, ports: Ports | None = None) -> Engine:
    """Give an engine of counters with their tallies."""
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=store,
        ports=ports,
    )


COMMANDS = [(f"c{n % 5}", n % 7 + 1, f"key-{n}") for n in range(60)]
"""Counter, amount and key of the child's commands."""


async def run_and_die(store: str, failpoint: str, hit: int) -> None:
    """Send the commands, print each acknowledged key, and be killed at a failpoint."""
    hits = 0

    def die(name: str) -> None:
        nonlocal hits
        if name == failpoint:
            hits += 1
            if hits == hit:
                os.kill(os.getpid(), signal.SIGKILL)

    async with tallied(store, Ports(failpoint=die)) as engine:
        for begin in range(0, len(COMMANDS), 6):
            part = COMMANDS[begin : begin + 6]
            receipts: list[Receipt] = await asyncio.gather(
                *(engine.execute(Add(counter, n), key=key) for counter, n, key in part)
            )
            os.write(1, "".join(f"{key}\n" for _, _, key in part).encode())
            await engine.query(GetTallies(), at=receipts[-1])


if __name__ == "__main__":
    asyncio.run(run_and_die(sys.argv[1], sys.argv[2], int(sys.argv[3])))
