"""Customers: what each has ordered and brought back.

Rules: who buys without a number is no customer here. A cancelled order is taken back. Figures are
sums and the newest time, so that they end the same in whatever order the events of different
invoices came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from engine import Meta, Projection, Row, Table, projects

from ..model.lines import Buyer
from ..model.money import Money
from ..model.orders import OrderCancelled, OrderCreated, OrderItemQuantityAdjusted
from ..model.returns import ReturnRecorded

__all__ = ["Customer", "Customers"]


class Customer(Row, key="customer_id"):
    """One customer."""

    customer_id: str
    orders: int = 0
    spent: Money = 0
    returns: int = 0
    refunded: Money = 0
    last_invoiced_at: str = ""


def customer_of(
    event: OrderCreated | OrderItemQuantityAdjusted | OrderCancelled | ReturnRecorded, _: Meta
) -> Mapping[str, Sequence[str]]:
    """Name the row that an event will read, so that a batch fetches all of them at once."""
    customer_id = event.buyer.customer_id
    return {"customers": [] if customer_id is None else [customer_id]}


class Customers(Projection, name="customers", version=1):
    """All customers."""

    customers: Table[Customer]

    @projects(keys=customer_of)
    def created(self, event: OrderCreated) -> None:
        """Count an order."""
        self._count(event.buyer, event.invoiced_at, orders=1, spent=event.total)

    @projects(keys=customer_of)
    def adjusted(self, event: OrderItemQuantityAdjusted) -> None:
        """Count what the order grew by."""
        self._count(event.buyer, event.invoiced_at, spent=event.total_added)

    @projects(keys=customer_of)
    def cancelled(self, event: OrderCancelled) -> None:
        """Take the order back."""
        self._count(event.buyer, event.invoiced_at, orders=-1, spent=-event.total)

    @projects(keys=customer_of)
    def returned(self, event: ReturnRecorded) -> None:
        """Count a return."""
        self._count(event.buyer, event.invoiced_at, returns=1, refunded=event.total)

    def _count(
        self,
        buyer: Buyer,
        invoiced_at: str,
        *,
        orders: int = 0,
        spent: Money = 0,
        returns: int = 0,
        refunded: Money = 0,
    ) -> None:
        if buyer.customer_id is None:
            return
        row = self.customers.get(buyer.customer_id) or Customer(buyer.customer_id)
        self.customers.put(
            replace(
                row,
                orders=row.orders + orders,
                spent=row.spent + spent,
                returns=row.returns + returns,
                refunded=row.refunded + refunded,
                last_invoiced_at=max(row.last_invoiced_at, invoiced_at),
            )
        )
