"""What is bought or brought back, and by whom: the values that orders and returns share.

Rules: a line is one product at one price, and its id says which; a line is never changed, a new
one takes its place. This file knows no aggregate, event or view.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from engine import Rejected

from .money import Money

__all__ = [
    "QUANTITY_MAX",
    "TOTAL_MAX",
    "Buyer",
    "Line",
    "LineId",
    "line_id",
    "refuse_moment",
    "refuse_quantity",
    "refuse_total",
    "refuse_unsound",
    "total_of",
]

# A view adds up what many orders bring, in columns of 64 bits, and stops where a sum does not fit.
# With these two it takes ninety million of the largest orders; without, one client's one number.
QUANTITY_MAX = 1_000_000
"""Pieces of one line."""
TOTAL_MAX: Money = 100_000_000_000
"""What one order or return comes to: a thousand million pounds."""

_MOMENT = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})")

LineId = str
"""Product and unit price, "85123A@255": the same product at another price is another line."""


class Buyer(msgspec.Struct, frozen=True):
    """Who buys, as far as the shop knows."""

    country: str
    customer_id: str | None = None


class Line(msgspec.Struct, frozen=True):
    """So many pieces of one product at one price."""

    product: str
    description: str
    quantity: int
    unit_price: Money

    @property
    def id(self) -> LineId:
        """Its name within the order."""
        return line_id(self.product, self.unit_price)

    @property
    def total(self) -> Money:
        """What all its pieces cost."""
        return self.quantity * self.unit_price


def line_id(product: str, unit_price: Money) -> LineId:
    """Give the id of the line of a product at a price."""
    return f"{product}@{unit_price}"


def total_of(lines: Iterable[Line]) -> Money:
    """Give the sum of the lines."""
    return sum(line.total for line in lines)


def refuse_moment(invoiced_at: str) -> None:
    """Raise Rejected for a time that no calendar and no clock has."""
    found = _MOMENT.fullmatch(invoiced_at)
    try:
        if found is None:
            raise ValueError
        datetime(*map(int, found.groups()))  # type: ignore[arg-type]
    except ValueError:
        raise Rejected(
            "time-impossible",
            "a time of the shop is a day of the calendar and a time of it without a zone, as "
            "2010-12-01T08:26:00",
        ) from None


def refuse_quantity(line: LineId, quantity: int) -> None:
    """Raise Rejected for a quantity that no line can have."""
    if quantity <= 0:
        raise Rejected(
            "quantity-not-positive",
            f"the quantity of {line} would be {quantity}: it must be 1 or more",
            line=line,
            quantity=quantity,
        )
    if quantity > QUANTITY_MAX:
        raise Rejected(
            "quantity-too-large",
            f"a line has {QUANTITY_MAX} pieces at most",
            line=line,
            quantity=quantity,
        )


def refuse_total(total: Money) -> None:
    """Raise Rejected for more than an order or a return can come to."""
    if total > TOTAL_MAX:
        raise Rejected("total-too-large", f"an order or return comes to {TOTAL_MAX} pence at most")


def refuse_unsound(lines: Sequence[Line]) -> None:
    """Raise Rejected for the first line that nobody can buy or bring back, or for their sum."""
    for line in lines:
        refuse_quantity(line.id, line.quantity)
        if line.unit_price < 0:
            raise Rejected(
                "price-negative",
                f"the price of {line.id} is below 0",
                line=line.id,
                unit_price=line.unit_price,
            )
    refuse_total(total_of(lines))
