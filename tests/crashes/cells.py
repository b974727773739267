"""What the processes that die run: cells that remember the order of all that befell them.

Rules: every event carries its command's operation, its part and the number of parts, so that the
log says what was run whole, by halves or twice. One projection is sliced and parks what it cannot
fold, until somebody has mended it. A trail is a checksum over operations in their
order: two trails are equal only where the same events were folded in the same order. Handlers
decide by the state alone, and a rejection tells the state that it was decided on.
"""

from __future__ import annotations

from typing import ClassVar
from zlib import crc32

from engine import (
    Aggregate,
    Command,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Rejected,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)

from .story import View

POISON = 10
"""The amount that is parked."""


def trail(before: int, operation: int, part: int) -> int:
    """Give the trail after one more event."""
    return crc32(f"{before} {operation} {part}".encode())


class Added(Event, name="added"):
    operation: int
    amount: int
    part: int
    parts: int
    filler: str = ""


class Add(Command):
    """Add, in several events; a filler makes them large."""

    cell_id: Id
    operation: int
    amount: int
    parts: int = 1
    filler: str = ""


class Take(Command):
    """Take away, if there is enough."""

    cell_id: Id
    operation: int
    amount: int


class Look(Command):
    """Be rejected, and told the state."""

    cell_id: Id


class Cell(Aggregate, kind="cell", key_window=100_000, snapshot_every=3):
    total: int = 0
    trail: int = 0

    @handles
    def add(self, command: Add) -> list[Added]:
        parts = command.parts
        return [
            Added(command.operation, command.amount, part, parts, command.filler)
            for part in range(parts)
        ]

    @handles
    def take(self, command: Take) -> Added:
        if command.amount > self.total:
            raise self._told()
        return Added(command.operation, -command.amount, 0, 1)

    @handles
    def look(self, command: Look) -> None:
        raise self._told()

    def _told(self) -> Rejected:
        state = {"version": self.version, "total": self.total, "trail": self.trail}
        return Rejected("told", "this is how it stands", **state)

    @applies
    def added(self, event: Added) -> None:
        self.total += event.amount
        self.trail = trail(self.trail, event.operation, event.part)


class CellRow(Row, key="cell"):
    cell: str
    total: int
    events: int
    trail: int


class Cells(Projection, name="cells", version=1):
    """Each cell, folded."""

    rows: Table[CellRow]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        before = self.rows.get(meta.id) or CellRow(meta.id, 0, 0, 0)
        self.rows.put(
            CellRow(
                meta.id,
                before.total + event.amount,
                before.events + 1,
                trail(before.trail, event.operation, event.part),
            )
        )


class OperationRow(Row, key="operation"):
    operation: int
    events: int


class Operations(Projection, name="operations", version=1, slices=2, on_poison="park"):
    """How many events each operation has, over all cells."""

    rows: Table[OperationRow]
    ailing: ClassVar[bool] = False
    """Whether one amount cannot be folded now; the process says so."""

    @projects
    def added(self, event: Added) -> None:
        if self.ailing and event.amount == POISON:
            raise ValueError("an amount that nobody has thought of")
        before = self.rows.get(event.operation)
        events = before.events if before is not None else 0
        self.rows.put(OperationRow(event.operation, events + 1))


class Show(Query[View]):
    """Both views, whole."""


@answers
async def show(query: Show, views: Views) -> View:
    cells = await views.find(Cells.rows)
    operations = await views.find(Operations.rows)
    return View(
        {row.cell: (row.total, row.events, row.trail) for row in cells},
        {row.operation: row.events for row in operations},
    )
