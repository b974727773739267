"""Fulfilment: leads an order from its checkout to its shipping, and undoes what was done.

It reserves stock, waits for the payment, and ships. Without stock, the order is cancelled. Not paid
in time, the stock is given back and the order is cancelled, in one decision.

Rules: one for each order that is checked out, with the order's id. What it decides, its commands
and its timer are stored together, so a crash leaves nothing half done. Whether a payment or the
deadline came first is the order's to say: it takes one and refuses the other.
"""

from __future__ import annotations

from enum import StrEnum

from engine import (
    After,
    CancelTimer,
    Command,
    Decision,
    Event,
    Id,
    Meta,
    ProcessManager,
    Rejected,
    applies,
    handles,
    reacts,
    when_rejected,
)

from .orders import CancelOrder, CancelReason, ShipOrder
from .payment import PAYMENT_MINUTES, OrderCheckedOut, OrderPaid, OrderReserved
from .stock import ReleaseStock, ReserveStock

__all__ = ["Fulfilment", "FulfilmentBegun", "FulfilmentMoved", "GiveUp", "Step"]

DEADLINE = "payment"


class Step(StrEnum):
    """How far it has come."""

    NONE = "none"
    RESERVING = "reserving"
    UNPAID = "unpaid"
    SHIPPING = "shipping"
    UNDONE = "undone"


class GiveUp(Command):
    """Stop waiting for the payment; its timer sends it."""

    order_id: Id


class FulfilmentBegun(Event, name="fulfilment-begun", version=1):
    """An order is to be fulfilled."""

    products: tuple[str, ...]


class FulfilmentMoved(Event, name="fulfilment-moved", version=1):
    """It has come to another step."""

    to: Step


def order_of(_: Event, meta: Meta) -> str:
    """Name the order that an event is of."""
    return meta.id


# From the start, so that a lost file of views loses no order: what was done is not done again.
class Fulfilment(ProcessManager, kind="fulfilment", begins="start"):
    """The way of one order."""

    step: Step = Step.NONE
    products: tuple[str, ...] = ()

    @reacts(by=order_of)
    def checked_out(self, event: OrderCheckedOut) -> Decision[FulfilmentBegun]:
        """Reserve its pieces."""
        begun = FulfilmentBegun(tuple(event.pieces))
        return Decision(begun, commands=[ReserveStock(self.id, list(event.pieces))])

    @when_rejected
    def out_of_stock(self, command: ReserveStock, rejection: Rejected) -> Decision[FulfilmentMoved]:
        """Cancel it: nothing was reserved."""
        cancel = CancelOrder(self.id, CancelReason.OUT_OF_STOCK, rejection.message)
        return Decision(FulfilmentMoved(Step.UNDONE), commands=[cancel])

    @reacts(by=order_of)
    def reserved(self, event: OrderReserved) -> Decision[FulfilmentMoved]:
        """Wait for the payment, not longer than the bill says."""
        deadline = After(GiveUp(self.id), DEADLINE, minutes=PAYMENT_MINUTES)
        return Decision(FulfilmentMoved(Step.UNPAID), timers=[deadline])

    @reacts(by=order_of)
    def paid(self, event: OrderPaid) -> Decision[FulfilmentMoved]:
        """Ship it; the deadline is off."""
        moved = FulfilmentMoved(Step.SHIPPING)
        return Decision(moved, commands=[ShipOrder(self.id)], timers=[CancelTimer(DEADLINE)])

    @handles
    def give_up(self, command: GiveUp) -> Decision[FulfilmentMoved] | None:
        """Undo the reservation; the order refuses that if it was paid at this very moment."""
        if self.step is not Step.UNPAID:
            return None
        release = ReleaseStock(self.id, list(self.products))
        return Decision(FulfilmentMoved(Step.UNDONE), commands=[release])

    @applies
    def begun(self, event: FulfilmentBegun) -> None:
        """Know which stock to give back."""
        self.step, self.products = Step.RESERVING, event.products

    @applies
    def moved(self, event: FulfilmentMoved) -> None:
        """Be there."""
        self.step = event.to
