"""Sales per country, per day, and per country and day: what was sold, and what was refunded.

Rules: an order counts from its creation; a cancelled order is taken back from the figures of the
day on which it was invoiced. Refunds stand beside sales and are not deducted. Figures are sums, so
that they end the same in whatever order the events of different orders came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from engine import Meta, Projection, Row, Table, projects

from ..model.lines import Buyer
from ..model.money import Money
from ..model.orders import OrderCancelled, OrderCreated, OrderItemQuantityAdjusted
from ..model.returns import ReturnRecorded

__all__ = ["CountryDay", "CountrySales", "DaySales", "Sales"]


class CountrySales(Row, key="country"):
    """The figures of one country."""

    country: str
    orders: int = 0
    sales: Money = 0
    returns: int = 0
    refunds: Money = 0


class DaySales(Row, key="day"):
    """The figures of one day of the shop."""

    day: str
    """ISO 8601, "2010-12-01"."""
    orders: int = 0
    sales: Money = 0
    returns: int = 0
    refunds: Money = 0


class CountryDay(Row, key="place", index=["day"]):
    """What one country bought on one day."""

    place: str
    """Day and country: a row has one key."""
    day: str
    country: str
    orders: int = 0
    sales: Money = 0


def rows_of(
    event: OrderCreated | OrderItemQuantityAdjusted | OrderCancelled | ReturnRecorded, _: Meta
) -> Mapping[str, Sequence[str]]:
    """Name the rows that an event will read, so that a batch fetches all of them at once."""
    country, day = event.buyer.country, _day(event.invoiced_at)
    return {"countries": [country], "days": [day], "country_days": [_place(day, country)]}


class Sales(Projection, name="sales", version=2):
    """Sales per country, per day, and per both."""

    countries: Table[CountrySales]
    days: Table[DaySales]
    country_days: Table[CountryDay]

    @projects(keys=rows_of)
    def created(self, event: OrderCreated) -> None:
        """Count an order and its sales."""
        self._count(event.buyer, event.invoiced_at, orders=1, sales=event.total)

    @projects(keys=rows_of)
    def adjusted(self, event: OrderItemQuantityAdjusted) -> None:
        """Count what the order grew by."""
        self._count(event.buyer, event.invoiced_at, sales=event.total_added)

    @projects(keys=rows_of)
    def cancelled(self, event: OrderCancelled) -> None:
        """Take the order back."""
        self._count(event.buyer, event.invoiced_at, orders=-1, sales=-event.total)

    @projects(keys=rows_of)
    def returned(self, event: ReturnRecorded) -> None:
        """Count a return and its refund."""
        self._count(event.buyer, event.invoiced_at, returns=1, refunds=event.total)

    def _count(
        self,
        buyer: Buyer,
        invoiced_at: str,
        *,
        orders: int = 0,
        sales: Money = 0,
        returns: int = 0,
        refunds: Money = 0,
    ) -> None:
        day = _day(invoiced_at)
        country_row = self.countries.get(buyer.country) or CountrySales(buyer.country)
        day_row = self.days.get(day) or DaySales(day)
        self.countries.put(
            replace(
                country_row,
                orders=country_row.orders + orders,
                sales=country_row.sales + sales,
                returns=country_row.returns + returns,
                refunds=country_row.refunds + refunds,
            )
        )
        place = _place(day, buyer.country)
        both = self.country_days.get(place) or CountryDay(place, day, buyer.country)
        self.country_days.put(replace(both, orders=both.orders + orders, sales=both.sales + sales))
        self.days.put(
            replace(
                day_row,
                orders=day_row.orders + orders,
                sales=day_row.sales + sales,
                returns=day_row.returns + returns,
                refunds=day_row.refunds + refunds,
            )
        )


def _day(invoiced_at: str) -> str:
    return invoiced_at[:10]


def _place(day: str, country: str) -> str:
    return f"{day} {country}"
