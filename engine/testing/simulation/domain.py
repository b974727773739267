"""What runs in the simulated world: a small aggregate with every kind of handler, and its views.

Rules: every command carries an operation's number, and every event the number of its command, so
that the log says which commands were run. Handlers decide by the state alone; one waits, one
raises, one hangs, and one gives several events.
"""

from __future__ import annotations

import asyncio

from ...aggregate import Aggregate, applies, handles
from ...answers import answers
from ...errors import Rejected
from ...messages import Command, Event, Id, Meta, Query
from ...projection import Projection, Row, Table, projects
from ...views import Views

__all__ = [
    "Cell",
    "CellRow",
    "Cells",
    "GetCell",
    "Hang",
    "Journey",
    "Put",
    "Puts",
    "Spoil",
    "Take",
    "Taken",
    "Was",
    "get_cell",
]


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
    """Add, after a while."""

    cell_id: Id
    operation: int
    amount: int
    seconds: float = 0.0


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

    @handles
    def put(self, command: Put) -> list[Was]:
        """Add."""
        parts = command.parts
        return [Was(command.operation, command.amount, n, parts) for n in range(parts)]

    @handles
    def take(self, command: Take) -> Taken | None:
        """Take, if there is enough; nothing at all is no event."""
        if command.amount == 0:
            return None
        if command.amount > self.total:
            raise Rejected("too-little", "", total=self.total, version=self.version)
        return Taken(command.operation, command.amount)

    @handles
    async def slowly(self, command: Slowly) -> Was:
        """Add, after a while."""
        before = self.version
        await asyncio.sleep(command.seconds)
        assert self.version == before, "nobody changes the state while a handler waits"
        return Was(command.operation, command.amount, 0, 1)

    @handles
    def spoil(self, command: Spoil) -> None:  # noqa: ARG002
        """Break the rule that handlers change nothing, and raise."""
        self.total += 1_000_000
        raise ValueError("spoilt")

    @handles
    async def hang(self, command: Hang) -> None:  # noqa: ARG002
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


class CellRow(Row, key="cell_id"):
    """A cell as the views show it."""

    cell_id: str
    total: int
    events: int
    position: int


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
        self.rows.put(CellRow(meta.id, total + amount, events + 1, meta.position))


class Journey(Row, key="operation"):
    """An operation as the views show it."""

    operation: int
    events: int


class Puts(Projection, name="puts", version=1):
    """How many events each operation had, of all cells."""

    rows: Table[Journey]

    @projects
    def was(self, event: Was) -> None:
        """Count."""
        row = self.rows.get(event.operation)
        self.rows.put(Journey(event.operation, (row.events if row is not None else 0) + 1))


class GetCell(Query[CellRow | None]):
    """A cell."""

    cell_id: str


@answers(projections=[Cells])
async def get_cell(query: GetCell, views: Views) -> CellRow | None:
    """Give its row."""
    return await views.get(Cells.rows, query.cell_id)
