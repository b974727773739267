"""The catalogue: what is known of each product, gathered from what was sold and what came back.

Rules: figures are sums. Description and price are those of the newest invoice, by its own time and
number and not by arrival, so that they end the same in whatever order the events of different
invoices came; a blank description hides no other. Returns do not
set the price; a cancelled order takes its pieces back, but was asked that price all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from engine import Meta, Projection, Row, Table, projects

from ..model.lines import Line
from ..model.money import Money
from ..model.orders import OrderCancelled, OrderCreated, OrderItemQuantityAdjusted
from ..model.returns import ReturnRecorded

__all__ = ["Catalogue", "Product"]


class Product(Row, key="product", search=["product", "description"]):
    """One product."""

    product: str
    description: str = ""
    described_by: str = ""
    """The newest invoice with a description: its time and number."""
    last_price: Money | None = None
    """None for what only ever came back."""
    priced_by: str = ""
    """The newest order: its time and number."""
    units_sold: int = 0
    revenue: Money = 0
    units_returned: int = 0
    refunds: Money = 0


def products_of(
    event: OrderCreated | OrderCancelled | ReturnRecorded, _: Meta
) -> Mapping[str, Sequence[str]]:
    """Name the rows that an event will read, so that a batch fetches all of them at once."""
    return {"products": [line.product for line in event.lines]}


def product_of(event: OrderItemQuantityAdjusted, _: Meta) -> Mapping[str, Sequence[str]]:
    """Name the one row that an adjustment will read."""
    return {"products": [event.product]}


class Catalogue(Projection, name="catalogue", version=2):
    """All products."""

    products: Table[Product]

    @projects(keys=products_of)
    def created(self, event: OrderCreated, meta: Meta) -> None:
        """Count what was sold, and note price and description."""
        invoice = f"{event.invoiced_at} {meta.id}"
        for line in event.lines:
            row = _described(self._row(line.product), line, invoice)
            if invoice >= row.priced_by:
                row = replace(row, last_price=line.unit_price, priced_by=invoice)
            self.products.put(_sold(row, line.quantity, line.total))

    @projects(keys=product_of)
    def adjusted(self, event: OrderItemQuantityAdjusted) -> None:
        """Count what the line grew by."""
        row = self._row(event.product)
        self.products.put(_sold(row, event.quantity_added, event.total_added))

    @projects(keys=products_of)
    def cancelled(self, event: OrderCancelled) -> None:
        """Take back what was sold."""
        for line in event.lines:
            self.products.put(_sold(self._row(line.product), -line.quantity, -line.total))

    @projects(keys=products_of)
    def returned(self, event: ReturnRecorded, meta: Meta) -> None:
        """Count what came back."""
        invoice = f"{event.invoiced_at} {meta.id}"
        for line in event.lines:
            row = _described(self._row(line.product), line, invoice)
            units, refunds = row.units_returned + line.quantity, row.refunds + line.total
            self.products.put(replace(row, units_returned=units, refunds=refunds))

    def _row(self, product: str) -> Product:
        return self.products.get(product) or Product(product)


def _described(row: Product, line: Line, invoice: str) -> Product:
    if not line.description or invoice < row.described_by:
        return row
    return replace(row, description=line.description, described_by=invoice)


def _sold(row: Product, units: int, revenue: Money) -> Product:
    return replace(row, units_sold=row.units_sold + units, revenue=row.revenue + revenue)
