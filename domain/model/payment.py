"""Checkout and payment of an order: the commands, the events, and the bill that is replied.

Rules: who checks out gets the bill at once, in the receipt, and pays within `PAYMENT_MINUTES`. A
payment has a number of its own, and pays one order. What a voucher takes off is in the bill, and
in no line. `orders` decides; `fulfilment` leads the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from engine import Command, Event, Id, Rejected

from .lines import Line
from .money import Money

__all__ = [
    "PAYMENT_MINUTES",
    "Bill",
    "CheckOut",
    "OrderCheckedOut",
    "OrderPaid",
    "OrderReserved",
    "PayOrder",
    "VoucherRedeemed",
    "pieces_of",
    "refuse_reference",
]

PAYMENT_MINUTES: Final = 15
"""How long the pieces of an order are kept for who has not paid."""
PRODUCTS_MAX: Final = 15
"""What is reserved in one decision: with their order these are 16 aggregates."""


REFERENCE_MAX: Final = 100


class Bill(msgspec.Struct, frozen=True):
    """What is to be paid, and how soon."""

    total: Money
    minutes: int


class CheckOut(Command[Bill]):
    """Have the pieces of a created order reserved, and get its bill; its lines stay as they are."""

    order_id: Id


class PayOrder(Command):
    """Pay the bill of an order whose pieces are reserved."""

    order_id: Id
    reference: str
    """The payment's own number, as the bank gives it."""
    amount: Money


class OrderCheckedOut(Event, name="order-checked-out", version=1):
    """A customer wants to pay."""

    pieces: Mapping[str, int]
    """How many of each product."""


class VoucherRedeemed(Event, name="voucher-redeemed", version=1, tags=("voucher",)):
    """The bill of an order is to be some percent less."""

    voucher: str
    percent: int


class OrderReserved(Event, name="order-reserved", version=1):
    """The pieces of an order are put aside; now it is to be paid."""


class OrderPaid(Event, name="order-paid", version=1):
    """An order is paid."""

    reference: str
    amount: Money


def pieces_of(lines: Iterable[Line]) -> dict[str, int]:
    """Give how many of each product; raise Rejected for what no stock can be asked for."""
    pieces: dict[str, int] = {}
    for line in lines:
        pieces[line.product] = pieces.get(line.product, 0) + line.quantity
    if len(pieces) > PRODUCTS_MAX:
        raise Rejected("too-many-products", f"an order is paid here up to {PRODUCTS_MAX} products")
    if not all(product.isprintable() and 0 < len(product) <= 200 for product in pieces):
        raise Rejected("product-unknown", "a product has a code of 1 to 200 printable characters")
    return pieces


def refuse_reference(reference: str) -> None:
    """Raise Rejected for what is no number of a payment."""
    if not reference.isprintable() or not 0 < len(reference) <= REFERENCE_MAX:
        raise Rejected(
            "reference-unsound",
            f"a payment's number has 1 to {REFERENCE_MAX} printable characters",
        )
