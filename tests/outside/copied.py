"""An engine with snapshots, tables and a sink, whose log is copied; and a copy that is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from engine import (
    Aggregate,
    Command,
    Delivery,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Row,
    Sink,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.model.stored import EventData, StoredEvent
from engine.outside.copying import CopyProgress, Transferred, transfer
from engine.runtime.ports import Ports
from engine.stores.contract.claims import HeldClaim, TakeClaim
from engine.stores.contract.log import AppendRequest, Batch, Extra, Write
from engine.stores.contract.timers import SetTimer, WaitingTimer
from engine.stores.urls import open_backend
from engine.testing.conformance import ADDED
from engine.testing.scenario import ManualClock

NewStore = Callable[[str], str]
"""Gives the URL of a store that is not there yet, of a kind."""
WAYS = [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("postgresql", "postgresql")]
BOTH = ["sqlite", "postgresql"]
ALL = 10**9


class Pinned(Event, name="pinned"):
    note: str


class Pin(Command):
    board_id: Id
    note: str


class Board(Aggregate, kind="board", key_window=20, snapshot_every=5, snapshot_version=1):
    notes: list[str] = []

    @handles
    def pin(self, command: Pin) -> Pinned:
        return Pinned(command.note)

    @applies
    def pinned(self, event: Pinned) -> None:
        self.notes.append(event.note)


class Count(Row, key="board"):
    board: str
    notes: int


class Counts(Projection, name="counts", version=1):
    rows: Table[Count]

    @projects
    def pinned(self, event: Pinned, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Count(meta.id, 0)
        self.rows.put(Count(meta.id, row.notes + 1))


class Letters(Sink, name="letters", version=1, on_poison="park", slices=2):
    delivered: list[int] = []

    async def deliver(self, batch: Sequence[Delivery[Pinned]]) -> None:
        if any(delivery.event.note == "poison" for delivery in batch):
            raise ValueError("poison")
        self.delivered.extend(delivery.position for delivery in batch)


class GetCounts(Query[list[Count]]):
    pass


@answers(projections=[Counts, Letters])
async def get_counts(query: GetCounts, views: Views) -> list[Count]:
    return await views.find(Counts.rows, order_by="board")


def boards(store: str, *, views: str | None = None, ports: Ports | None = None) -> Engine:
    return Engine(
        [Board],
        projections=[Counts, Letters],
        answers=[get_counts],
        store=store,
        views=views,
        ports=ports,
    )


def declared() -> Engine:
    """Give an engine for commands that ask what is declared."""
    return boards("memory:")


async def filled(engine: Engine, clock: ManualClock | None = None) -> None:
    """Let 24 commands run, a second after each other, of which one has poison for the sink."""
    for n in range(24):
        note = "poison" if n == 7 else f"note {n}"
        pin = Pin(f"b{n % 3}", note)
        await engine.execute(pin, key=f"key-{n}", headers={"who": f"ü{n}"}, principal="ann")
        if clock is not None:
            await engine.query(GetCounts(), at=n + 1)  # what is parked has its time
            clock.advance(1)
    await engine.query(GetCounts(), at=24)


def copy(
    source: str,
    target: str,
    show: Callable[[CopyProgress], None] = lambda _: None,
    *,
    page_events: int = 7,
    ports: Ports | None = None,
) -> Transferred:
    """Copy a log, by default in small pages."""
    return transfer(
        open_backend(source).outside(Ports()).copy_source(),
        open_backend(target).outside(ports or Ports()).copy_target(),
        show,
        page_events=page_events,
    )


def log_of(
    store: str,
) -> tuple[str, list[StoredEvent], list[object], list[HeldClaim], list[WaitingTimer]]:
    """Give the id of a log, its events, types, claims and timers, as others read them."""
    with open_backend(store).outside(Ports()).log_reader() as log:
        return (
            log.log_id,
            list(log.read_feed(0, events_max=100_000, bytes_max=ALL)),
            list(log.event_types()),
            log.read_claims(claims_max=100_000),
            log.read_timers(timers_max=100_000),
        )


async def raw(store: str, count: int, recorded: Sequence[int] = (1_000,)) -> None:
    """Fill a log with events of streams, in batches at these times in turn."""
    log = open_backend(store).log()
    await log.open(Ports())
    for n in range(count):
        data = EventData(ADDED, b'{"amount":%d}' % n)
        stream = f"stream:{n % 50}"
        write = Write(stream, n // 50, [data])
        extras: list[Extra] = [TakeClaim("name", f"ü {n}", stream)] if n % 3 == 0 else []
        if n % 4 == 0:
            extras.append(SetTimer(stream, f"t-{n}", 1_000 + n, "go", b'{"n":"\xc3\xbc"}', b"{}"))
        await log.append(Batch([AppendRequest([write], extras)], recorded[n % len(recorded)]))
    await log.close()


def _killed_copy(source: str, target: str, page_events: int) -> None:
    """Copy, and tell each page on the output."""

    def show(progress: CopyProgress) -> None:
        os.write(1, f"{progress.what} {progress.position}\n".encode())

    copy(source, target, show, page_events=page_events)


if __name__ == "__main__":
    _killed_copy(sys.argv[1], sys.argv[2], int(sys.argv[3]))
