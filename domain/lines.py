"""What is bought or brought back, and by whom: the values that orders and returns share.

Rules: a line is one product at one price, and its id says which; a line is never changed, a new
one takes its place. This file knows no aggregate, event or view.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine import Rejected

from .money import Money

__all__ = ["Buyer", "Line", "LineId", "line_id", "refuse_unsound", "total_of"]

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


def refuse_unsound(lines: Iterable[Line]) -> None:
    """Raise Rejected for the first line that nobody can buy or bring back."""
    for line in lines:
        if line.quantity <= 0:
            raise Rejected(
                "quantity-not-positive",
                f"the quantity of {line.id} is {line.quantity}: it must be 1 or more",
                line=line.id,
                quantity=line.quantity,
            )
        if line.unit_price < 0:
            raise Rejected(
                "price-negative",
                f"the price of {line.id} is below 0",
                line=line.id,
                unit_price=line.unit_price,
            )
