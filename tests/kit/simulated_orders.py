"""A user's program to simulate: orders that are reserved, paid and booked, and their bugs.

Rules: everything is as a user would write it: aggregates, a projection with a query, a process
manager with a timer, and a sink to a system outside. What is wrong on purpose is a subclass or a
function of its own, named after its bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from engine import (
    After,
    Aggregate,
    CancelTimer,
    Command,
    Decision,
    Delivery,
    Engine,
    Event,
    Id,
    Meta,
    ProcessManager,
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
    reacts,
)
from engine.testing import Simulation

PATIENCE_SECONDS = 3 * 86_400


class Place(Command):
    order: Id
    cents: int


class Finish(Command):
    order: Id
    how: str


class Charge(Command):
    card: Id
    order: str
    cents: int


class Refund(Command):
    card: Id
    order: str
    cents: int


class Placed(Event, name="placed"):
    order: str
    cents: int


class Finished(Event, name="finished"):
    how: str


class Charged(Event, name="charged"):
    order: str
    cents: int


class Refunded(Event, name="refunded"):
    order: str
    cents: int


class Order(Aggregate, kind="order"):
    state: str = "new"
    cents: int = 0

    @handles
    def place(self, command: Place) -> Placed:
        return Placed(self.id, command.cents)

    @handles
    def finish(self, command: Finish) -> Finished | None:
        return Finished(command.how) if self.state == "placed" else None

    @applies
    def placed(self, event: Placed) -> None:
        self.state, self.cents = "placed", event.cents

    @applies
    def finished(self, event: Finished) -> None:
        self.state = event.how


class Card(Aggregate, kind="card"):
    cents: int = 0

    @handles
    def charge(self, command: Charge) -> Charged | None:
        # Some banks never answer: the order is given up after some days.
        return None if command.cents % 5 == 0 else Charged(command.order, command.cents)

    @handles
    def refund(self, command: Refund) -> Refunded:
        return Refunded(command.order, command.cents)

    @applies
    def charged(self, event: Charged) -> None:
        self.cents += event.cents

    @applies
    def refunded(self, event: Refunded) -> None:
        self.cents -= event.cents


class Begun(Event, name="begun"):
    pass


class Ended(Event, name="ended"):
    pass


class GiveUp(Command):
    order: Id


class Paying(ProcessManager, kind="paying", begins="now"):
    refunds: ClassVar[bool] = True
    """Whether it undoes a payment that came too late: it does not where that is the bug."""
    over: bool = False

    @reacts(by="order")
    def order_placed(self, event: Placed) -> Decision[Begun]:
        charge = Charge(f"c{event.cents % 2}", self.id, event.cents)
        give_up = After(GiveUp(self.id), "patience", seconds=PATIENCE_SECONDS)
        return Decision(Begun(), commands=[charge], timers=[give_up])

    @reacts(by="order")
    def card_charged(self, event: Charged, meta: Meta) -> Decision[Ended] | None:
        if self.over:  # the machine was down so long that its patience had ended before
            refund = Refund(meta.id, self.id, event.cents)
            return Decision(Ended(), commands=[refund]) if self.refunds else None
        finish = Finish(self.id, "paid")
        return Decision(Ended(), commands=[finish], timers=[CancelTimer("patience")])

    @handles
    def give_up(self, command: GiveUp) -> Decision[Ended]:
        return Decision(Ended(), commands=[Finish(self.id, "given up")])

    @applies
    def began(self, event: Begun) -> None:
        self.over = False

    @applies
    def ended(self, event: Ended) -> None:
        self.over = True


class CardRow(Row, key="card"):
    card: str
    cents: int


class Charges(Projection, name="charges", version=1):
    rows: Table[CardRow]

    @projects
    def charged(self, event: Charged, meta: Meta) -> None:
        self.add(meta.id, event.cents)

    @projects
    def refunded(self, event: Refunded, meta: Meta) -> None:
        self.add(meta.id, -event.cents)

    def add(self, card: str, cents: int) -> None:
        row = self.rows.get(card)
        self.rows.put(CardRow(card, (row.cents if row else 0) + cents))


class GetCard(Query[CardRow | None]):
    card: str


@answers
async def get_card(query: GetCard, views: Views) -> CardRow | None:
    return await views.get(Charges.rows, query.card)


class Books:
    """A fake of the books of another system, which outlives every crash."""

    def __init__(self) -> None:
        self.by_position: dict[int, int] = {}
        self.sum = 0


def booked(event: Charged | Refunded) -> int:
    return event.cents if isinstance(event, Charged) else -event.cents


class Booking(Sink, name="booking", version=1):
    async def deliver(self, batch: Sequence[Delivery[Charged | Refunded]], books: Books) -> None:
        for delivery in batch:
            books.by_position[delivery.position] = booked(delivery.event)
        books.sum = sum(books.by_position.values())


class BookingTwice(Sink, name="booking", version=1):
    """Adds what may come again after a crash."""

    async def deliver(self, batch: Sequence[Delivery[Charged | Refunded]], books: Books) -> None:
        for delivery in batch:
            books.sum += booked(delivery.event)


def engine_of(simulation: Simulation, booking: type[Sink] = Booking) -> Engine:
    books = simulation.outside.setdefault("books", Books())
    return Engine(
        [Order, Card, Paying],
        projections=[Charges, booking],
        answers=[get_card],
        resources={Books: books},
        store=simulation.store,
        ports=simulation.ports,
    )


async def workload(engine: Engine, simulation: Simulation) -> None:
    """Place some orders, by a key each."""
    for number in range(6):
        order = f"o-{simulation.life}-{number}"
        cents = simulation.random.randrange(1, 100)
        await simulation.execute(Place(order, cents), key=f"place {order}")


async def charged_and_booked_once(engine: Engine, simulation: Simulation) -> None:
    """Each order that was placed is over; what was paid is on the cards, in rows and in books."""
    owed = 0
    for sent in simulation.sent:
        assert not sent.in_doubt
        order = await engine.state(Order, sent.command.order)
        over = {"given up"} if order.cents % 5 == 0 else {"paid", "given up"}
        assert order.state in (over if sent.receipt else over | {"new"}), order.state
        owed += order.cents if order.state == "paid" else 0
    cards = [(await engine.state(Card, card)).cents for card in ("c0", "c1")]
    rows = [await engine.query(GetCard(card)) for card in ("c0", "c1")]
    assert sum(cards) == owed, "money was taken for nothing"
    assert sum(row.cents for row in rows if row) == owed
    assert simulation.outside["books"].sum == owed, "the books differ"
