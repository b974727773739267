"""A shop in small: reserve stock, take payment, ship; what fails undoes what was done."""

from __future__ import annotations

from typing import Any

from engine import (
    After,
    Aggregate,
    CancelTimer,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    ProcessManager,
    Rejected,
    applies,
    handles,
    reacts,
    when_rejected,
)


class Place(Command):
    order_id: Id
    item: str
    card: str
    cents: int


class Cancel(Command):
    order_id: Id
    why: str


class Reserve(Command):
    item_id: Id
    order: str


class Restock(Command):
    item_id: Id
    order: str


class Charge(Command):
    card_id: Id
    order: str
    cents: int


class Settle(Command):
    card_id: Id
    order: str


class Ship(Command):
    parcel_id: Id


class GiveUp(Command):
    order: Id


class Placed(Event, name="placed"):
    order: str
    item: str
    card: str
    cents: int


class Cancelled(Event, name="order-cancelled"):
    why: str


class Reserved(Event, name="reserved"):
    order: str


class Restocked(Event, name="restocked"):
    order: str


class Charged(Event, name="charged"):
    order: str
    cents: int


class Settled(Event, name="settled"):
    order: str


class Shipped(Event, name="shipped"):
    pass


class Begun(Event, name="fulfilment-begun"):
    item: str
    card: str
    cents: int


class Moved(Event, name="fulfilment-moved"):
    to: str


class Order(Aggregate, kind="order"):
    state: str = "new"

    @handles
    def place(self, command: Place) -> Placed:
        return Placed(self.id, command.item, command.card, command.cents)

    @handles
    def cancel(self, command: Cancel) -> Cancelled | None:
        return None if self.state == "cancelled" else Cancelled(command.why)

    @applies
    def placed(self, event: Placed) -> None:
        self.state = "placed"

    @applies
    def cancelled(self, event: Cancelled) -> None:
        self.state = "cancelled"


class Item(Aggregate, kind="item"):
    left: int = 2

    @handles
    def reserve(self, command: Reserve) -> Reserved:
        if not self.left:
            raise Rejected("no-stock", "there is none left")
        return Reserved(command.order)

    @handles
    def restock(self, command: Restock) -> Restocked:
        return Restocked(command.order)

    @applies
    def reserved(self, event: Reserved) -> None:
        self.left -= 1

    @applies
    def restocked(self, event: Restocked) -> None:
        self.left += 1


class Card(Aggregate, kind="card"):
    """Is charged, and settles later, if its owner does so in time."""

    charged: int = 0

    @handles
    def charge(self, command: Charge) -> Charged:
        if command.cents > 100:
            raise Rejected("no-money", "there is not enough")
        return Charged(command.order, command.cents)

    @handles
    def settle(self, command: Settle) -> Settled:
        return Settled(command.order)

    @applies
    def was_charged(self, event: Charged) -> None:
        self.charged += event.cents

    @applies
    def settled(self, event: Settled) -> None:
        self.charged = 0


class Parcel(Aggregate, kind="parcel"):
    shipped: int = 0

    @handles
    def ship(self, command: Ship) -> Shipped:
        return Shipped()

    @applies
    def was_shipped(self, event: Shipped) -> None:
        self.shipped += 1


class Fulfilment(ProcessManager, kind="fulfilment", begins="now"):
    """Leads an order from its placing to its parcel, or back."""

    state: str = ""
    item: str = ""
    card: str = ""
    cents: int = 0

    @reacts(by="order")
    def order_placed(self, event: Placed) -> Decision[Begun]:
        begun = Begun(event.item, event.card, event.cents)
        return Decision(begun, commands=[Reserve(event.item, self.id)])

    @reacts(by="order")
    def item_reserved(self, event: Reserved) -> Decision[Moved]:
        return Decision(
            Moved("reserved"),
            commands=[Charge(self.card, self.id, self.cents)],
            timers=[After(GiveUp(self.id), "payment", minutes=15)],
        )

    @reacts(by="order")
    def card_settled(self, event: Settled) -> Decision[Moved] | None:
        if self.state != "reserved":
            return None
        ship = Ship(self.id)
        return Decision(Moved("shipped"), commands=[ship], timers=[CancelTimer("payment")])

    @when_rejected
    def no_stock(self, command: Reserve, rejection: Rejected) -> Decision[Moved]:
        return Decision(Moved("failed"), commands=[Cancel(self.id, rejection.code)])

    @when_rejected
    def no_money(self, command: Charge, rejection: Rejected) -> Decision[Moved]:
        return self._undo(rejection.code)

    @handles
    def give_up(self, command: GiveUp) -> Decision[Moved] | None:
        return self._undo("not-paid") if self.state == "reserved" else None

    def _undo(self, why: str) -> Decision[Moved]:
        undo = [Restock(self.item, self.id), Cancel(self.id, why)]
        return Decision(Moved("failed"), commands=undo, timers=[CancelTimer("payment")])

    @applies
    def begun(self, event: Begun) -> None:
        self.state, self.item = "begun", event.item
        self.card, self.cents = event.card, event.cents

    @applies
    def moved(self, event: Moved) -> None:
        self.state = event.to


def shop(store: str = "memory:", **options: Any) -> Engine:
    return Engine([Order, Item, Card, Parcel, Fulfilment], store=store, **options)
