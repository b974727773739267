"""What runs in the simulated world: a small aggregate with every kind of handler, and its views.

Rules: every command carries an operation's number, and every event the number of its command, so
that the log says which commands were run. Handlers decide by the state alone; one waits, one
raises, one hangs, and one gives several events. One projection breaks at some events, until it is
mended.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ClassVar

from engine.errors import Rejected
from engine.model.aggregate import Aggregate, applies, handles
from engine.model.messages import Command, Event, Id, Meta, Query
from engine.model.projection import Projection, Row, Table, projects
from engine.queries.declared import answers
from engine.queries.views import Views

__all__ = [
    "OPERATION",
    "POISON",
    "Brittle",
    "Cell",
    "CellRow",
    "Cells",
    "Count",
    "FindCells",
    "GetCell",
    "GetCount",
    "GetJourney",
    "Hang",
    "Journey",
    "Put",
    "Puts",
    "Slowly",
    "Spoil",
    "Take",
    "Taken",
    "Was",
    "cell_class",
    "find_cells",
    "get_cell",
    "get_count",
    "get_journey",
]

OPERATION = "operation"
"""The header that says which operation a command is of."""
POISON = 19
"""The amount that breaks the brittle projection."""


class Was(Event, name="was", version=1):
    """So much was added."""

    operation: int
    amount: int
    part: int
    parts: int


class Taken(Event, name="taken", version=1):
    """So much was taken."""

    operation: int
    amount: int


class Put(Command):
    """Add, in several events."""

    cell_id: Id
    operation: int
    amount: int
    parts: int = 1


class Take(Command):
    """Take away, if there is enough; decided at once or after a while."""

    cell_id: Id
    operation: int
    amount: int


class Slowly(Command):
    """Add, after a while; then compute, with the event loop standing still."""

    cell_id: Id
    operation: int
    amount: int
    seconds: float = 0.0
    blocked: float = 0.0


class Spoil(Command):
    """Raise, with the state half changed."""

    cell_id: Id
    operation: int


class Hang(Command):
    """Never return."""

    cell_id: Id
    operation: int


class Cell(Aggregate, kind="cell", key_window=1_000, snapshot_every=4):
    """A number, and who changed it."""

    total: int = 0
    operations: list[int] = []
    watch: ClassVar[Callable[[int], object]] = int
    """Called with the number of each operation as its handler begins, and negative as an async one
    returns; the world sets it."""

    @handles
    def put(self, command: Put) -> list[Was]:
        """Add."""
        Cell.watch(command.operation)
        parts = command.parts
        return [Was(command.operation, command.amount, n, parts) for n in range(parts)]

    @handles
    def take(self, command: Take) -> Taken | None:
        """Take, if there is enough; nothing at all is no event."""
        Cell.watch(command.operation)
        if command.amount == 0:
            return None
        if command.amount > self.total:
            raise Rejected("too-little", "", total=self.total, version=self.version)
        return Taken(command.operation, command.amount)

    @handles
    async def slowly(self, command: Slowly) -> Was:
        """Add, after a while."""
        Cell.watch(command.operation)
        before = self.version
        await asyncio.sleep(command.seconds)
        if command.blocked:
            loop: Any = asyncio.get_running_loop()
            loop.block(command.blocked)
        Cell.watch(-command.operation)
        assert self.version == before, "nobody changes the state while a handler waits"
        return Was(command.operation, command.amount, 0, 1)

    @handles
    def spoil(self, command: Spoil) -> None:
        """Break the rule that handlers change nothing, and raise."""
        self.total += 1_000_000
        raise ValueError("spoilt")

    @handles
    async def hang(self, command: Hang) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()

    @applies
    def was(self, event: Was) -> None:
        """Add."""
        self.total += event.amount
        self.operations.append(event.operation)

    @applies
    def taken(self, event: Taken) -> None:
        """Take."""
        self.total -= event.amount
        self.operations.append(event.operation)


@functools.cache
def cell_class(key_window: int, snapshot_every: int | None) -> type[Cell]:
    """Give the aggregate with these options; one class for each."""

    class Tuned(Cell, kind="cell", key_window=key_window, snapshot_every=snapshot_every):
        pass

    return Tuned


class CellRow(Row, key="cell_id", search=["words"]):
    """A cell as the views show it."""

    cell_id: str
    total: int
    events: int
    position: int
    words: str
    """What it is found by: its figures."""


def words_of(total: int, events: int) -> str:
    """Give the words of a cell; they change with each of its events."""
    sign = "minus" if total < 0 else "plus"
    return f"{sign}{abs(total)} of{events} cell"


class Cells(Projection, name="cells", version=1):
    """All cells."""

    rows: Table[CellRow]

    @projects
    def was(self, event: Was, meta: Meta) -> None:
        """Add."""
        self._change(meta, event.amount)

    @projects
    def taken(self, event: Taken, meta: Meta) -> None:
        """Take."""
        self._change(meta, -event.amount)

    def _change(self, meta: Meta, amount: int) -> None:
        row = self.rows.get(meta.id)
        total, events = (row.total, row.events) if row is not None else (0, 0)
        total, events = total + amount, events + 1
        self.rows.put(CellRow(meta.id, total, events, meta.position, words_of(total, events)))


class Journey(Row, key="operation"):
    """An operation as the views show it; all of them together in row 0."""

    operation: int
    events: int


class Count(Row, key="cell_id"):
    """How many events of a cell the brittle projection has taken."""

    cell_id: str
    events: int
    position: int


class Puts(Projection, name="puts", version=1):
    """How many times each operation has added, over all cells."""

    rows: Table[Journey]

    @projects
    def was(self, event: Was) -> None:
        """Count, twice: the second row may have to be fetched when the first is changed."""
        for operation in (event.operation, 0):
            row = self.rows.get(operation)
            self.rows.put(Journey(operation, (row.events if row is not None else 0) + 1))


class Brittle(Projection, name="brittle", version=1):
    """The events of each cell, until one comes that it cannot take."""

    rows: Table[Count]
    mended: ClassVar[bool] = False
    """Whether its program was mended; the world sets it."""

    @projects
    def was(self, event: Was, meta: Meta) -> None:
        """Count, or break."""
        row = self.rows.get(meta.id)
        self.rows.put(Count(meta.id, (row.events if row is not None else 0) + 1, meta.position))
        if event.amount == POISON and not self.mended:
            raise ValueError("an amount that nobody has thought of")


class GetCell(Query[CellRow | None]):
    """A cell."""

    cell_id: str


@answers(projections=[Cells])
async def get_cell(query: GetCell, views: Views) -> CellRow | None:
    """Give its row."""
    return await views.get(Cells.rows, query.cell_id)


class FindCells(Query[list[str]]):
    """The ids of the cells that have some words."""

    words: str


@answers(projections=[Cells])
async def find_cells(query: FindCells, views: Views) -> list[str]:
    """Search for them."""
    return [row.cell_id for row in await views.search(Cells.rows, query.words, limit=1_000)]


class GetCount(Query[Count | None]):
    """What the brittle projection has of a cell."""

    cell_id: str


@answers(projections=[Brittle])
async def get_count(query: GetCount, views: Views) -> Count | None:
    """Give its row."""
    return await views.get(Brittle.rows, query.cell_id)


class GetJourney(Query[Journey | None]):
    """An operation's row."""

    operation: int


@answers(projections=[Puts])
async def get_journey(query: GetJourney, views: Views) -> Journey | None:
    """Give its row."""
    return await views.get(Puts.rows, query.operation)
