"""`python -m tests.strangers.writing STORE FOLDS`: an engine that writes, and says what is durable.

Rules: each line on its output is a number of events that were acknowledged before it was written;
the first line is written when so many folds of the write-ahead log have passed. It takes one line
of its input, and then ends as an engine ends; it is killed at other times.
"""

from __future__ import annotations

import asyncio
import sys

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Limits,
    Meta,
    Projection,
    Row,
    Table,
    applies,
    handles,
    projects,
)
from engine.stores.contract.traits import Measured


class Put(Command):
    shelf_id: Id
    text: str


class WasPut(Event, name="was-put", version=1):
    text: str


class Shelf(Aggregate, kind="shelf"):
    count: int = 0

    @handles
    def put(self, command: Put) -> WasPut:
        return WasPut(command.text)

    @applies
    def was_put(self, event: WasPut) -> None:
        self.count += 1


class Fill(Row, key="shelf_id"):
    shelf_id: str
    count: int


class Fills(Projection, name="fills", version=1):
    rows: Table[Fill]

    @projects
    def was_put(self, event: WasPut, meta: Meta) -> None:
        row = self.rows.get(meta.id)
        self.rows.put(Fill(meta.id, 1 + (row.count if row else 0)))


LIMITS = Limits(event_bytes=128 * 1024, projector_retries=2)
TEXT = "x" * 60_000


def engine_on(store: str) -> Engine:
    return Engine([Shelf], projections=[Fills], store=store, limits=LIMITS)


async def write(store: str, folds: int) -> None:
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    async with engine_on(store) as engine:
        assert isinstance(engine._store, Measured)
        while not ended.done():
            text = TEXT if engine._store.statistics().wal_merges < folds else "y"
            receipt = await engine.execute(Put("one", text))
            if text == "y":
                print(receipt.position, flush=True)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2])))
