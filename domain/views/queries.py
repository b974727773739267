"""Questions about the shop, each with the one function that answers it.

Rules: an answer is read from the views and never from an aggregate; it names the projections that
it reads, since a query `at` a receipt waits for these and for no others. A list is bounded and,
where it can be long, paged. Nothing is changed by asking.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from engine import InvalidInput, Query, Views, answers

from ..model.money import Money
from .catalogue import Catalogue, Product
from .customers import Customer, Customers
from .orders import Orders, OrderSummary
from .sales import CountrySales, DaySales, Sales

__all__ = [
    "ANSWERS",
    "BestSellers",
    "CustomerHistory",
    "GetCustomerHistory",
    "GetOrderById",
    "GetOverview",
    "GetPendingOrders",
    "GetTotals",
    "Overview",
    "PendingOrder",
    "SalesByCountry",
    "SalesByDay",
    "SearchCatalogue",
    "Totals",
    "search_catalogue",
]


class GetOrderById(Query[OrderSummary | None]):
    """How one order stands; None if there is no such order."""

    order_id: str


class GetPendingOrders(Query[list[OrderSummary]]):
    """The orders that are created and not yet shipped, by id, page by page."""

    after: str | None = None
    """The id of the last order of the page before."""
    limit: int = 50


class BestSellers(Query[list[Product]]):
    """The products that sold best, by money or by pieces."""

    by: Literal["revenue", "units_sold"] = "revenue"
    limit: int = 10


class PendingOrder(msgspec.Struct, frozen=True):
    """What an overview says of one order."""

    order_id: str
    country: str
    invoiced_at: str
    total: Money


class Overview(msgspec.Struct, frozen=True):
    """The shop at a glance."""

    pending: int
    """How many orders wait to be shipped."""
    newest: list[PendingOrder]
    """Of these, the ones that came last."""
    best_sellers: list[Product]


class GetOverview(Query[Overview]):
    """What waits to be shipped, the newest first, and what sold best by money.

    Of none of either the lists are empty, and what waits is counted all the same.
    """

    orders: int = 10
    products: int = 10


class SearchCatalogue(Query[list[Product]]):
    """The products whose number or description has these words, the best ones first."""

    text: str
    limit: int = 20


class SalesByCountry(Query[list[CountrySales]]):
    """What each country bought, the best one first."""

    limit: int = 1_000


class SalesByDay(Query[list[DaySales]]):
    """What was sold on each day, the first one first, page by page."""

    after: str | None = None
    """The last day of the page before."""
    limit: int = 1_000


class CustomerHistory(msgspec.Struct, frozen=True):
    """A customer and a page of their orders."""

    customer: Customer
    orders: list[OrderSummary]


class GetCustomerHistory(Query[CustomerHistory | None]):
    """What a customer bought, by order id, page by page; None if there is no such customer."""

    customer_id: str
    after: str | None = None
    limit: int = 50


class Totals(msgspec.Struct, frozen=True):
    """The shop in one line."""

    orders: int
    sales: Money
    returns: int
    refunds: Money


class GetTotals(Query[Totals]):
    """What the whole shop sold and refunded."""


@answers(projections=[Orders])
async def get_order(query: GetOrderById, views: Views) -> OrderSummary | None:
    """Answer from the order's row."""
    return await views.get(Orders.summaries, query.order_id)


@answers(projections=[Orders])
async def get_pending_orders(query: GetPendingOrders, views: Views) -> list[OrderSummary]:
    """Answer from the rows that are not shipped yet."""
    return await views.find(
        Orders.summaries, where={"status": "created"}, after=query.after, limit=query.limit
    )


@answers(projections=[Catalogue])
async def best_sellers(query: BestSellers, views: Views) -> list[Product]:
    """Answer from the catalogue."""
    return await views.find(
        Catalogue.products, order_by=query.by, descending=True, limit=query.limit
    )


@answers(projections=[Orders, Catalogue])
async def get_overview(query: GetOverview, views: Views) -> Overview:
    """Answer from the orders' rows without their lines, and from the catalogue."""
    if query.orders < 0:
        raise InvalidInput(f"orders={query.orders}: an overview names 0 orders or more")
    # One statement, so that both are of one moment; without an order a row has the count alone.
    rows = await views.sql(
        "select n, order_id, country, invoiced_at, total"
        " from (select count(*) as n from orders_summaries where status = 'created')"
        " left join (select order_id, country, invoiced_at, total, created_at"
        " from orders_summaries where status = 'created'"
        " order by created_at desc, order_id desc limit ?)"
        " order by created_at desc, order_id desc",
        (query.orders,),
    )
    return Overview(
        pending=rows[0][0],
        newest=[PendingOrder(*row[1:]) for row in rows if row[1] is not None],
        best_sellers=await best_sellers(BestSellers(limit=query.products), views),
    )


@answers(projections=[Catalogue])
async def search_catalogue(query: SearchCatalogue, views: Views) -> list[Product]:
    """Answer from the catalogue's words."""
    return await views.search(Catalogue.products, query.text, limit=query.limit)


@answers(projections=[Sales])
async def sales_by_country(query: SalesByCountry, views: Views) -> list[CountrySales]:
    """Answer from the countries' figures."""
    return await views.find(Sales.countries, order_by="sales", descending=True, limit=query.limit)


@answers(projections=[Sales])
async def sales_by_day(query: SalesByDay, views: Views) -> list[DaySales]:
    """Answer from the days' figures."""
    return await views.find(Sales.days, order_by="day", after=query.after, limit=query.limit)


@answers(projections=[Customers, Orders])
async def get_customer_history(query: GetCustomerHistory, views: Views) -> CustomerHistory | None:
    """Answer from the customer's row and their orders' rows."""
    customer = await views.get(Customers.customers, query.customer_id)
    if customer is None:
        return None
    orders = await views.find(
        Orders.summaries,
        where={"customer_id": query.customer_id},
        after=query.after,
        limit=query.limit,
    )
    return CustomerHistory(customer, orders)


@answers(projections=[Sales])
async def get_totals(query: GetTotals, views: Views) -> Totals:
    """Answer with sums over the countries, in SQL: a projection's table is `name_attribute`."""
    rows = await views.sql(
        "select coalesce(sum(orders), 0) as orders, coalesce(sum(sales), 0) as sales,"
        " coalesce(sum(returns), 0) as returns, coalesce(sum(refunds), 0) as refunds"
        " from sales_countries",
        row=Totals,
    )
    return rows[0]


ANSWERS = (
    get_order,
    get_pending_orders,
    best_sellers,
    get_overview,
    search_catalogue,
    sales_by_country,
    sales_by_day,
    get_customer_history,
    get_totals,
)
"""What the engine is given."""
