"""Orders and lines in few words, for the tests of the shop."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from domain.model.lines import Buyer, Line
from domain.model.orders import AdjustOrderItemQuantity, CreateOrder, OrderCreated
from engine import Meta

ANN = Buyer("France", "17850")
STRANGER = Buyer("EIRE")
MORNING = "2010-12-01T08:26:00"
EVENING = "2010-12-01T20:00:00"
NEXT_DAY = "2010-12-02T09:00:00"


def lantern(quantity: int = 6, unit_price: int = 339, description: str = "LANTERN") -> Line:
    return Line("71053", description, quantity, unit_price)


def heart(quantity: int = 2, unit_price: int = 255, description: str = "HEART") -> Line:
    return Line("85123A", description, quantity, unit_price)


def create(
    number: str, *lines: Line, buyer: Buyer = ANN, invoiced_at: str = MORNING
) -> CreateOrder:
    return CreateOrder(number, buyer, invoiced_at, lines)


def adjust(number: str, line: Line, quantity: int) -> AdjustOrderItemQuantity:
    return AdjustOrderItemQuantity(number, line.id, quantity)


def created(*lines: Line, buyer: Buyer = ANN, invoiced_at: str = MORNING) -> OrderCreated:
    return OrderCreated(buyer, invoiced_at, lines, sum(line.total for line in lines))


def meta(stream: str, position: int = 1) -> Meta:
    return Meta(stream, 1, position, 1_000_000 + position)


ORDER: dict[str, Any] = json.loads(
    msgspec.json.encode({"buyer": ANN, "invoiced_at": MORNING, "lines": [lantern(6), heart(2)]})
)
"""A new order as a client of the web API sends it."""
