"""Stock: how many pieces of each product are left; and what is decided with an order at once.

Rules: an order is reserved as a whole, or nothing of it is: one decision sees the order and the
stock of all its products, and its events are stored together. Giving back goes the same way. So
nobody ever sees an order that is half reserved, and two orders never get the same piece.
"""

from __future__ import annotations

from engine import Aggregate, Command, Event, Id, Rejected, To, applies, decides, handles

from .lines import refuse_quantity
from .orders import CancelReason, Order, OrderCancelled, Status
from .payment import OrderReserved, pieces_of

__all__ = [
    "ReceiveStock",
    "ReleaseStock",
    "ReserveStock",
    "Stock",
    "StockReceived",
    "StockReleased",
    "StockReserved",
    "release_stock",
    "reserve_stock",
]


class ReceiveStock(Command):
    """Take pieces of a product into stock."""

    product: Id
    quantity: int


class ReserveStock(Command):
    """Put the pieces of an order aside that was checked out; `Fulfilment` sends it."""

    order: Id
    products: list[Id]
    """All of the order."""


class ReleaseStock(Command):
    """Give the pieces of an order back that was not paid; `Fulfilment` sends it, once."""

    order: Id
    products: list[Id]


class StockReceived(Event, name="stock-received", version=1):
    """There are more pieces."""

    quantity: int


class StockReserved(Event, name="stock-reserved", version=1):
    """Pieces are put aside for an order."""

    order_id: str
    quantity: int


class StockReleased(Event, name="stock-released", version=1):
    """Pieces that were put aside are back."""

    order_id: str
    quantity: int


class Stock(Aggregate, kind="stock", snapshot_every=500):
    """The pieces of one product."""

    left: int = 0

    @handles
    def receive(self, command: ReceiveStock) -> StockReceived:
        """Take a delivery."""
        refuse_quantity(command.product, command.quantity)
        return StockReceived(command.quantity)

    @applies
    def received(self, event: StockReceived) -> None:
        """Have more."""
        self.left += event.quantity

    @applies
    def released(self, event: StockReleased) -> None:
        """Have them again."""
        self.left += event.quantity

    @applies
    def reserved(self, event: StockReserved) -> None:
        """Have less."""
        self.left -= event.quantity


@decides
def reserve_stock(
    command: ReserveStock, order: Order, products: list[Stock]
) -> list[To[OrderReserved | StockReserved]]:
    """Reserve all pieces of an order, or none."""
    order.refuse_unless("reserved", Status.CHECKED_OUT)
    pieces = _asked(order, products)
    short = [stock.id for stock in products if stock.left < pieces[stock.id]]
    if short:
        raise Rejected("out-of-stock", f"there is too little of {len(short)}", products=short)
    aside = [To(stock, StockReserved(order.id, pieces[stock.id])) for stock in products]
    return [To(order, OrderReserved()), *aside]


@decides
def release_stock(
    command: ReleaseStock, order: Order, products: list[Stock]
) -> list[To[OrderCancelled | StockReleased]]:
    """Undo it: give all pieces back, and cancel the order unless its customer has already."""
    order.refuse_unless("released", Status.RESERVED, Status.CANCELLED)
    pieces = _asked(order, products)
    back = [To(stock, StockReleased(order.id, pieces[stock.id])) for stock in products]
    if order.status is Status.CANCELLED:
        return [*back]
    return [To(order, order.cancellation(CancelReason.NOT_PAID)), *back]


def _asked(order: Order, products: list[Stock]) -> dict[str, int]:
    pieces = pieces_of(order.lines.values())
    if pieces.keys() != {stock.id for stock in products}:
        raise Rejected("products-differ", f"these are not the products of order {order.id}")
    return pieces
