"""Orders, parcels, and a dispatch that waits for both, for the tests of process managers."""

from __future__ import annotations

from typing import Any

from engine import (
    Aggregate,
    Command,
    Context,
    Engine,
    Event,
    Id,
    Meta,
    ProcessManager,
    Query,
    Rejected,
    Views,
    answers,
    applies,
    handles,
    reacts,
)


class Paid(Event, name="paid"):
    cents: int


class Packed(Event, name="packed"):
    order: str | None
    box: str


class Begun(Event, name="dispatch-begun"):
    because: str


class Sent(Event, name="dispatch-sent"):
    box: str
    at: int


class Pay(Command):
    order_id: Id
    cents: int


class Pack(Command):
    box_id: Id
    order: str | None = None
    box: str = "box"


class Stop(Command):
    dispatch_id: Id


class Stopped(Event, name="dispatch-stopped"):
    pass


class Order(Aggregate, kind="order"):
    cents: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        return Paid(command.cents)

    @applies
    def paid(self, event: Paid) -> None:
        self.cents += event.cents


class Box(Aggregate, kind="box"):
    packed: int = 0

    @handles
    def pack(self, command: Pack) -> Packed:
        return Packed(command.order, command.box)

    @applies
    def was_packed(self, event: Packed) -> None:
        self.packed += 1


class Carrier:
    """A resource of the dispatch."""

    def __init__(self) -> None:
        self.broken = False
        self.asked: list[str] = []

    def book(self, order: str) -> None:
        self.asked.append(order)
        if self.broken:
            raise RuntimeError("the carrier is broken")


class Dispatch(ProcessManager, kind="dispatch", key_window=1, begins="now"):
    """Sends what is paid and packed, whichever comes first."""

    paid: bool = False
    box: str = ""
    sent: int = 0
    stopped: bool = False

    @reacts(by=lambda event, meta: meta.id)
    def order_paid(self, event: Paid, meta: Meta, ctx: Context) -> list[Begun | Sent]:
        if event.cents < 0:
            raise Rejected("refund", "this is no payment")
        begun = Begun(meta.event_id)
        return [begun, Sent(self.box, ctx.now)] if self.box else [begun]

    @reacts(by="order")
    async def box_packed(self, event: Packed, carrier: Carrier) -> list[Begun | Sent] | None:
        if self.stopped:
            return None
        carrier.book(self.id)
        if not self.paid:
            return [Begun(event.box)]
        return [Sent(event.box, 0)]

    @handles
    def stop(self, command: Stop) -> Stopped:
        return Stopped()

    @applies
    def begun(self, event: Begun) -> None:
        if event.because.startswith("order:"):
            self.paid = True
        else:
            self.box = event.because

    @applies
    def was_sent(self, event: Sent) -> None:
        self.sent += 1

    @applies
    def was_stopped(self, event: Stopped) -> None:
        self.stopped = True


class Routed(Query[None]):
    pass


@answers(projections=[Dispatch.__process__.reactor])
async def routed(query: Routed, views: Views) -> None:
    return None


def depot(store: str = "memory:", carrier: Carrier | None = None, **options: Any) -> Engine:
    return Engine(
        [Order, Box, Dispatch],
        answers=[routed],
        store=store,
        resources={Carrier: carrier or Carrier()},
        **options,
    )


async def settled(engine: Engine) -> None:
    """Wait until every event that there is was routed."""
    await engine.query(Routed(), at=engine.statistics().position)
