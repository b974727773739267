"""What is read of orders: one row per order, as it is now.

Rules: each row is written by the events of one order only, so that it ends the same in whatever
order the events of different orders came. Times are the log's, but for `invoiced_at`, which is the
shop's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from engine import Event, Meta, Projection, Row, Table, projects

from ..model.lines import Line
from ..model.money import Money
from ..model.orders import (
    OrderCancelled,
    OrderCreated,
    OrderItemQuantityAdjusted,
    OrderQuoted,
    OrderShipped,
)
from ..model.payment import OrderCheckedOut, OrderPaid, OrderReserved

__all__ = ["OrderSummary", "Orders"]


class OrderSummary(Row, key="order_id", index=["status", "customer_id", "shipped_at"]):
    """One order."""

    order_id: str
    status: str
    """"created", "shipped" or "cancelled"; what is checked out or paid is "created" until then."""
    customer_id: str | None
    country: str
    invoiced_at: str
    lines: tuple[Line, ...]
    total: Money
    version: int
    """The order's, as this row shows it."""
    created_at: int
    """In µs since 1970-01-01 UTC, as the next two."""
    shipped_at: int | None = None
    cancelled_at: int | None = None


def order_of(_: Event, meta: Meta) -> Mapping[str, Sequence[str]]:
    """Name the row that an event will read, so that a batch fetches all of them at once."""
    return {"summaries": [meta.id]}


class Orders(Projection, name="orders", version=3):
    """All orders."""

    summaries: Table[OrderSummary]

    @projects
    def created(self, event: OrderCreated, meta: Meta) -> None:
        """Begin a row."""
        self.summaries.put(
            OrderSummary(
                order_id=meta.id,
                status="created",
                customer_id=event.buyer.customer_id,
                country=event.buyer.country,
                invoiced_at=event.invoiced_at,
                lines=event.lines,
                total=event.total,
                version=meta.version,
                created_at=meta.recorded,
            )
        )

    @projects(keys=order_of)
    def adjusted(self, event: OrderItemQuantityAdjusted, meta: Meta) -> None:
        """Show the line's quantity and the order's total."""
        order = self.summaries.get(meta.id)
        assert order is not None, "an order is created before anything else happens to it"
        lines = tuple(
            replace(line, quantity=event.quantity_after) if line.id == event.line_id else line
            for line in order.lines
        )
        self.summaries.update(meta.id, version=meta.version, lines=lines, total=event.total)

    @projects(keys=order_of)
    def went_on(
        self, event: OrderQuoted | OrderCheckedOut | OrderReserved | OrderPaid, meta: Meta
    ) -> None:
        """Show that the order has gone on: who changes it names the version that it shows."""
        self.summaries.update(meta.id, version=meta.version)

    @projects(keys=order_of)
    def shipped(self, event: OrderShipped, meta: Meta) -> None:
        """Show that it is on its way."""
        self.summaries.update(
            meta.id, version=meta.version, status="shipped", shipped_at=meta.recorded
        )

    @projects(keys=order_of)
    def cancelled(self, event: OrderCancelled, meta: Meta) -> None:
        """Show that it was called off; its lines stay to be seen."""
        self.summaries.update(
            meta.id, version=meta.version, status="cancelled", cancelled_at=meta.recorded
        )
