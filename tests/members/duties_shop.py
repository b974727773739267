"""Projections that members of a log share, in which an event applied twice or left out shows.

A row has the positions of the events of its counter, in the order in which they were applied. A
sink writes what it delivers into a file. The rows are compared with a fresh fold of the log.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import (
    Delivery,
    Engine,
    Meta,
    Projection,
    Query,
    Row,
    Sink,
    Table,
    Views,
    answers,
    projects,
)
from engine.members.duties.whose import duties_of
from engine.stores.contract.membership import Present, View
from engine.stores.postgres.address import read_address
from tests.members.joining import part
from tests.support.counters import Added, Counter
from tests.support.postgres import Server, asked
from tests.support.tallies import Tallies
from tests.support.waiting import until

NAMES: Final = ("ledger0", "ledger1", "ledger2", "ledger3")
ALL: Final = [*NAMES, "tallies", "told"]
SLICES: Final = [f"ledger3/{n}" for n in range(3)]
AILING: Final[set[str]] = set()
"""Ids of counters whose events the first ledger cannot fold now."""


class Line0(Row, key="counter"):
    counter: str
    positions: list[int]


class Line1(Row, key="counter"):
    counter: str
    positions: list[int]


class Line2(Row, key="counter"):
    counter: str
    positions: list[int]


class Line3(Row, key="counter"):
    counter: str
    positions: list[int]


class Ledger0(Projection, name="ledger0", version=1, on_poison="park"):
    lines: Table[Line0]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        if meta.id in AILING:
            raise ValueError("ailing")
        row = self.lines.get(meta.id) or Line0(meta.id, [])
        self.lines.put(Line0(meta.id, [*row.positions, meta.position]))


class Ledger1(Projection, name="ledger1", version=1):
    lines: Table[Line1]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.lines.get(meta.id) or Line1(meta.id, [])
        self.lines.put(Line1(meta.id, [*row.positions, meta.position]))


class Ledger2(Projection, name="ledger2", version=1):
    lines: Table[Line2]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.lines.get(meta.id) or Line2(meta.id, [])
        self.lines.put(Line2(meta.id, [*row.positions, meta.position]))


class Ledger3(Projection, name="ledger3", version=1, slices=3):
    lines: Table[Line3]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.lines.get(meta.id) or Line3(meta.id, [])
        self.lines.put(Line3(meta.id, [*row.positions, meta.position]))


class Delivered:
    """Where the sink writes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path


class Told(Sink, name="told", version=1):
    async def deliver(self, batch: Sequence[Delivery[Added]], delivered: Delivered) -> None:
        if delivered.path is not None:
            with delivered.path.open("a") as file:
                file.write("".join(f"{one.position}\n" for one in batch))
                file.flush()
                os.fsync(file.fileno())


class GetLine(Query[list[int]]):
    counter: str


@answers
async def get_line(query: GetLine, views: Views) -> list[int]:
    row = await views.get(Ledger1.lines, query.counter)
    return [] if row is None else row.positions


PROJECTIONS: Final[Sequence[type[Projection]]] = (Ledger0, Ledger1, Ledger2, Ledger3, Told, Tallies)


def sharing(store: str, delivered: Path | None = None, **options: Any) -> Engine:
    """Give an engine that runs some of the projections."""
    given: dict[str, Any] = {"projections": PROJECTIONS, "share_projections": True, **options}
    return Engine(
        [Counter],
        answers=[get_line],
        store=store,
        join=True,
        resources={Delivered: Delivered(delivered)},
        **given,
    )


async def differences(postgres: Server, store: str) -> list[str]:
    """Compare the rows of each ledger with a fresh fold of the log; give what differs."""
    schema = read_address(store).schema
    log: Any = await asked(
        postgres, f"SELECT position, stream FROM {schema}.log WHERE event = 'added' ORDER BY 1"
    )
    fresh: dict[str, list[int]] = {}
    for position, stream in log:
        fresh.setdefault(stream.partition(":")[2], []).append(position)
    found: list[str] = []
    for name in NAMES:
        rows: Any = await asked(
            postgres, f'SELECT counter, positions FROM "{schema}_views".{name}_lines'
        )
        kept = {counter: _listed(positions) for counter, positions in rows}
        for counter in sorted(kept.keys() | fresh.keys()):
            is_there, should = kept.get(counter, []), fresh.get(counter, [])
            if is_there != should:
                found.append(f"{name} {counter}: {is_there} in place of {should}")
    return found


def _listed(value: Any) -> list[int]:
    found: list[int] = json.loads(value) if isinstance(value, str) else list(value)
    return found


def whole(duties: Sequence[str]) -> list[str]:
    """Give what is run of all these duties, with the name of a projection for all its slices."""
    found = sorted(duties)
    return sorted({*found} - {*SLICES} | {"ledger3"}) if {*SLICES} <= {*found} else found


def beside(me: Present) -> View:
    """Give members among which one's part has no slice of a projection that others run too."""
    for number in range(me.member + 1, me.member + 1_000):
        view = View(me.view_seen, (me, msgspec.structs.replace(me, member=number)))
        mine = duties_of(view, me.member, ALL)
        if not mine & {*SLICES}:
            return view
    raise AssertionError("no number divides them so")


def projections(duties: Sequence[str]) -> set[str]:
    """Give the projections that these duties are of."""
    return {name.partition("/")[0] for name in duties}


def _run_by(engines: Sequence[Engine]) -> list[str]:
    return whole([name for engine in engines for name in part(engine).duties])


async def begun(engines: Sequence[Engine]) -> None:
    """Wait until each projection is run by one of these, and each of these runs one."""
    await until(lambda: _run_by(engines) == ALL and all(part(e).duties for e in engines))


async def until_reached(engine: Engine, name: str, position: int) -> None:
    """Wait until a projection has come so far, whoever runs it."""
    async with asyncio.timeout(60):
        while (await engine.projections.status(name)).position < position:
            await asyncio.sleep(0.02)
