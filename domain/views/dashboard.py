"""The dashboard: what a page shows of the shop at a glance, in one answer.

Rules: all of it is one state of the views, so that its figures fit together. Every list is bounded,
and an order's lines are not in it. What is asked again while orders arrive is read along an index.
"""

from __future__ import annotations

import msgspec

from engine import Query, Views, answers

from ..model.money import Money
from .catalogue import Catalogue, Product
from .orders import Orders
from .queries import BestSellers, GetTotals, Totals, best_sellers, get_totals
from .sales import CountryDay, CountrySales, Sales

__all__ = ["Dashboard", "GetDashboard", "RecentOrder", "get_dashboard"]

DAYS_MAX = 14
COUNTRIES_MAX = 8

NEWEST = (
    "select order_id, country, invoiced_at, total, version from orders_summaries"
    " where status = 'created' order by created_at desc, order_id desc limit ?"
)
SENT = (
    "select order_id, country, invoiced_at, total, version from orders_summaries"
    " where shipped_at is not null order by shipped_at desc, order_id desc limit ?"
)
DAYS = (
    "select place, day, country, orders, sales from sales_country_days where day >="
    " (select min(day) from (select day from sales_days order by day desc limit ?))"
    " order by day, sales desc"
)


class RecentOrder(msgspec.Struct, frozen=True):
    """What a dashboard says of one order."""

    order_id: str
    country: str
    invoiced_at: str
    total: Money
    version: int


class Dashboard(msgspec.Struct, frozen=True):
    """The shop at a glance."""

    totals: Totals
    pending: int
    """How many orders wait to be shipped."""
    shipped: int
    newest: list[RecentOrder]
    """Of those that wait, the ones that came last."""
    sent: list[RecentOrder]
    """Of those that were shipped, the ones that were shipped last."""
    best_sellers: list[Product]
    countries: list[CountrySales]
    """The best ones."""
    days: list[CountryDay]
    """What each country bought on each of the last days."""


class GetDashboard(Query[Dashboard]):
    """What waits, what was shipped, what sells best, and what was sold where and when."""

    orders: int = 8
    products: int = 8


@answers(projections=[Orders, Catalogue, Sales])
async def get_dashboard(query: GetDashboard, views: Views) -> Dashboard:
    """Answer from the orders' rows without their lines, from the catalogue and the figures."""
    by_status = dict(
        await views.sql("select status, count(*) from orders_summaries group by status")
    )
    return Dashboard(
        totals=await get_totals(GetTotals(), views),
        pending=by_status.get("created", 0),
        shipped=by_status.get("shipped", 0),
        newest=list(await views.sql(NEWEST, (query.orders,), row=RecentOrder)),
        sent=list(await views.sql(SENT, (query.orders,), row=RecentOrder)),
        best_sellers=await best_sellers(BestSellers(limit=query.products), views),
        countries=await views.find(
            Sales.countries, order_by="sales", descending=True, limit=COUNTRIES_MAX
        ),
        days=list(await views.sql(DAYS, (DAYS_MAX,), row=CountryDay)),
    )
