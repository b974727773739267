"""A shop of orders with notes and slips, which archives are tested with: some orders are closed."""

from __future__ import annotations

from engine import (
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)

__all__ = [
    "Close",
    "Closed",
    "GetAll",
    "Note",
    "Noted",
    "Open",
    "Opened",
    "Order",
    "Orders",
    "Shown",
    "engine",
    "filled",
    "get_all",
]


class Open(Command):
    order_id: Id
    slip: str


class Note(Command):
    order_id: Id
    text: str


class Close(Command):
    order_id: Id


class Opened(Event, name="order-opened"):
    slip: str


class Noted(Event, name="order-noted"):
    text: str


class Closed(Event, name="order-closed"):
    pass


class Order(Aggregate, kind="order"):
    notes: list[str] = []

    @handles
    def open(self, command: Open) -> Decision[Opened]:
        claim = Claim("slip", command.slip, "slip-taken", "another order has this slip")
        return Decision([Opened(command.slip)], claims=[claim])

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.text)

    @handles
    def close(self, command: Close) -> Closed:
        return Closed()

    @applies
    def opened(self, event: Opened) -> None:
        self.notes.append(event.slip)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes.append(event.text)

    @applies
    def closed(self, event: Closed) -> None:
        self.notes.append("closed")


class Shown(Row, key="order_id"):
    order_id: str
    notes: str


class Orders(Projection, name="orders", version=1):
    shown: Table[Shown]

    @projects
    def noted(self, event: Noted, meta: Meta) -> None:
        row = self.shown.get(meta.id) or Shown(meta.id, "")
        self.shown.put(Shown(meta.id, f"{row.notes} {event.text}"))


class GetAll(Query[list[Shown]]):
    pass


@answers(projections=[Orders])
async def get_all(query: GetAll, views: Views) -> list[Shown]:
    return await views.find(Orders.shown, order_by="order_id")


def engine(path: str) -> Engine:
    return Engine([Order], projections=[Orders], answers=[get_all], store=f"sqlite:{path}")


async def filled(path: str) -> None:
    """Store six orders, of which the first three are closed."""
    async with engine(path) as running:
        for n in range(6):
            await running.execute(Open(f"o-{n}", f"s-{n}"), key=f"open-{n}")
            for m in range(3):
                await running.execute(Note(f"o-{n}", f"{n}.{m}"), key=f"note-{n}-{m}")
            if n < 3:
                await running.execute(Close(f"o-{n}"), key=f"close-{n}")
