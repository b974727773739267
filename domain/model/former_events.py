"""Events as earlier releases of the shop stored them, and what they are today.

Rules: a class here is never changed and never written any more; its upcaster is a pure function to
the next version. What an old event did not know is said to be unknown, and not guessed.
"""

from __future__ import annotations

from engine import Event, upcasts

from .lines import Buyer, Line
from .money import Money
from .orders import CancelReason, OrderCancelled

__all__ = ["UPCASTERS", "OrderCancelledV1"]


class OrderCancelledV1(Event, name="order-cancelled", version=1):
    """An order was called off, with a reason in anybody's words."""

    buyer: Buyer
    invoiced_at: str
    lines: tuple[Line, ...]
    total: Money
    reason: str


@upcasts
def order_cancelled_2(event: OrderCancelledV1) -> OrderCancelled:
    """Keep the words as a note: which of today's reasons they meant, nobody can tell."""
    return OrderCancelled(
        event.buyer, event.invoiced_at, event.lines, event.total, CancelReason.OTHER, event.reason
    )


UPCASTERS = (order_cancelled_2,)
