"""Orders that are paid and shipped, and reactors between them, for the tests of reactors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Meta,
    Projection,
    Query,
    Reactor,
    Rejected,
    Views,
    answers,
    applies,
    handles,
    reacts,
    when_rejected,
)


class Paid(Event, name="paid"):
    parcels: int


class Cancelled(Event, name="cancelled"):
    why: str


class Shipped(Event, name="shipped"):
    order: str
    place: int


class Pay(Command):
    order_id: Id
    parcels: int = 1


class Cancel(Command):
    order_id: Id
    why: str


class Ship(Command):
    parcel_id: Id
    order: str
    place: int = 0


class Order(Aggregate, kind="order"):
    """Can be paid as often as one likes."""

    paid: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        return Paid(command.parcels)

    @handles
    def cancel(self, command: Cancel) -> Cancelled:
        return Cancelled(command.why)

    @applies
    def was_paid(self, event: Paid) -> None:
        self.paid += 1

    @applies
    def was_cancelled(self, event: Cancelled) -> None:
        self.paid = 0


class Depot:
    """What the parcels' handlers do for which order, as a test says."""

    def __init__(self) -> None:
        self.rejects: set[str] = set()
        self.fails: set[str] = set()
        self.hold: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []


class Parcel(Aggregate, kind="parcel", key_window=2):
    """Remembers few keys, so that a record by keys alone would not do."""

    shipped: int = 0

    @handles
    async def ship(self, command: Ship, depot: Depot) -> Shipped:
        depot.asked.append(command.order)
        if command.order in depot.hold:
            await depot.hold[command.order].wait()
        if command.order in depot.rejects:
            raise Rejected("no-stock", "there is none")
        if command.order in depot.fails:
            raise ValueError("the depot is broken")
        return Shipped(command.order, command.place)

    @applies
    def was_shipped(self, event: Shipped) -> None:
        self.shipped += 1


class Shipping(Reactor, name="shipping", begins="now"):
    @reacts
    def paid(self, event: Paid, meta: Meta) -> list[Ship]:
        order = meta.id
        return [Ship(f"{order}-{n}", order, n) for n in range(event.parcels)]


class OneDepot(Reactor, name="shipping", begins="now"):
    """Sends all to one aggregate, which forgets its keys soon."""

    @reacts
    def paid(self, event: Paid, meta: Meta) -> list[Ship]:
        return [Ship("depot", meta.id, n) for n in range(event.parcels)]


class Careful(Shipping, name="shipping", begins="now"):
    @when_rejected
    def refused(self, command: Ship, rejection: Rejected) -> Cancel:
        return Cancel(command.order, rejection.code)


class Stopping(Shipping, name="shipping", begins="now", on_poison="stop"):
    pass


class FromTheStart(Shipping, name="shipping", begins="start"):
    pass


class Done(Query[None]):
    pass


@answers(projections=[Shipping])
async def done(query: Done, views: Views) -> None:
    return None


def shop(
    store: str = "memory:",
    reactor: type[Projection] = Shipping,
    depot: Depot | None = None,
    **options: Any,
) -> Engine:
    return Engine(
        [Order, Parcel],
        projections=[reactor],
        answers=[done],
        store=store,
        resources={Depot: depot or Depot()},
        **options,
    )


async def pay(engine: Engine, *orders: str, parcels: int = 1) -> int:
    receipts = [await engine.execute(Pay(order, parcels)) for order in orders]
    return receipts[-1].position


async def reached(engine: Engine, position: int) -> None:
    await engine.query(Done(), at=position)


async def events(engine: Engine) -> Sequence[tuple[Event, Meta]]:
    """All events of the log."""
    return [(each.event, each.meta) async for each in engine.feed() if each.event is not None]


async def shipments(engine: Engine) -> list[str]:
    """What was shipped, in the order of the log, as `order/place`."""
    found = await events(engine)
    return [f"{e.order}/{e.place}" for e, _ in found if isinstance(e, Shipped)]
