"""What the shop shows of its orders and returns, asked through a running engine."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

import pytest

from domain.model.lines import Line
from domain.model.orders import CancelOrder, ShipOrder
from domain.model.returns import RecordReturn
from domain.shop import open_shop
from domain.views.catalogue import Product
from domain.views.customers import Customer
from domain.views.queries import (
    BestSellers,
    GetCustomerHistory,
    GetOrderById,
    GetOverview,
    GetPendingOrders,
    GetTotals,
    Overview,
    PendingOrder,
    SalesByCountry,
    SalesByDay,
    SearchCatalogue,
    Totals,
)
from domain.views.sales import CountrySales, DaySales
from engine import Command, Engine, InvalidInput, Query, Receipt

from .goods import ANN, EVENING, MORNING, NEXT_DAY, STRANGER, adjust, create, heart, lantern


@pytest.fixture
async def shop() -> AsyncIterator[Engine]:
    async with open_shop() as engine:
        yield engine


async def done(shop: Engine, *commands: Command) -> Receipt:
    """Execute the commands; give the last receipt."""
    assert commands
    for command in commands:
        receipt = await shop.execute(command)
    return receipt


def back(number: str, *lines: Line, invoiced_at: str = NEXT_DAY) -> RecordReturn:
    return RecordReturn(number, ANN, invoiced_at, lines)


async def test_an_order_is_shown_as_it_is_now(shop: Engine) -> None:
    at = await done(shop, create("o-1", lantern(6), heart(2)))
    order = await shop.query(GetOrderById("o-1"), at=at)
    assert order is not None
    assert (order.status, order.total, order.shipped_at) == ("created", 2_544, None)
    assert (order.customer_id, order.country, order.invoiced_at) == ("17850", "France", MORNING)
    assert order.lines == (lantern(6), heart(2))

    at = await done(shop, adjust("o-1", lantern(), 10), ShipOrder("o-1"))
    order = await shop.query(GetOrderById("o-1"), at=at)
    assert order is not None
    assert (order.status, order.total) == ("shipped", 10 * 339 + 510)
    assert order.lines == (lantern(10), heart(2))
    assert order.shipped_at is not None
    assert order.shipped_at >= order.created_at


async def test_a_cancelled_order_is_still_shown(shop: Engine) -> None:
    at = await done(shop, create("o-1", lantern(6)), CancelOrder("o-1"))
    order = await shop.query(GetOrderById("o-1"), at=at)

    assert order is not None
    assert (order.status, order.total, order.lines) == ("cancelled", 6 * 339, (lantern(6),))
    assert order.cancelled_at is not None


async def test_an_order_that_is_not_there_is_none(shop: Engine) -> None:
    assert await shop.query(GetOrderById("o-1")) is None
    assert await shop.query(GetCustomerHistory("17850")) is None


async def test_pending_orders_come_in_pages(shop: Engine) -> None:
    at = await done(
        shop,
        *(create(f"o-{n}", heart()) for n in range(1, 8)),
        ShipOrder("o-2"),
        CancelOrder("o-4"),
    )

    first = await shop.query(GetPendingOrders(limit=3), at=at)
    second = await shop.query(GetPendingOrders(after=first[-1].order_id, limit=3), at=at)

    assert [order.order_id for order in first] == ["o-1", "o-3", "o-5"]
    assert [order.order_id for order in second] == ["o-6", "o-7"]


async def test_a_product_has_the_price_and_description_of_its_newest_invoice(
    shop: Engine,
) -> None:
    """Arrival does not matter: the newest comes first here, and a blank one hides nothing."""
    at = await done(
        shop,
        create("3", heart(1, 295, ""), invoiced_at=NEXT_DAY),
        create("2", heart(1, 275, "HEART, RED"), invoiced_at=EVENING),
        create("1", heart(1, 255, "HEART"), invoiced_at=MORNING),
        back("C4", heart(1, 100, "")),
    )

    assert await shop.query(BestSellers(), at=at) == [
        Product(
            product="85123A",
            description="HEART, RED",
            described_by=f"{EVENING} 2",
            last_price=295,
            priced_by=f"{NEXT_DAY} 3",
            units_sold=3,
            revenue=825,
            units_returned=1,
            refunds=100,
        )
    ]


async def test_what_only_came_back_has_no_price(shop: Engine) -> None:
    at = await done(shop, back("C1", heart(2)))
    (product,) = await shop.query(BestSellers(), at=at)

    assert (product.last_price, product.description) == (None, "HEART")
    assert (product.units_returned, product.refunds, product.units_sold) == (2, 510, 0)


async def test_best_sellers_are_by_money_or_by_pieces(shop: Engine) -> None:
    at = await done(shop, create("o-1", lantern(6), heart(7)), adjust("o-1", lantern(), 8))

    by_revenue = await shop.query(BestSellers(), at=at)
    by_units = await shop.query(BestSellers(by="units_sold", limit=1), at=at)

    assert [(row.product, row.revenue) for row in by_revenue] == [
        ("71053", 2_712),
        ("85123A", 1_785),
    ]
    assert [(row.product, row.units_sold) for row in by_units] == [("71053", 8)]


async def test_products_are_found_by_their_number_and_their_words(shop: Engine) -> None:
    at = await done(shop, create("o-1", lantern(6, description="RED LANTERN"), heart(2)))
    (found,) = await shop.query(SearchCatalogue("red lant"), at=at)

    assert (found.product, found.units_sold) == ("71053", 6)
    assert [row.product for row in await shop.query(SearchCatalogue("85123a"))] == ["85123A"]
    assert await shop.query(SearchCatalogue("lantern heart")) == []


async def test_a_product_is_found_by_its_newest_description_alone(shop: Engine) -> None:
    await done(shop, create("o-1", lantern()))
    renamed = lantern(description="GREEN KETTLE")
    at = await done(shop, create("o-2", renamed, invoiced_at=NEXT_DAY))

    assert [row.product for row in await shop.query(SearchCatalogue("kettle"), at=at)] == ["71053"]
    assert await shop.query(SearchCatalogue("lantern")) == []


async def test_sales_are_counted_per_country_and_day(shop: Engine) -> None:
    at = await done(
        shop,
        create("o-1", lantern(1)),
        create("o-2", lantern(2), invoiced_at=NEXT_DAY),
        create("o-3", lantern(10), buyer=STRANGER, invoiced_at=EVENING),
        adjust("o-2", lantern(), 3),
        back("C4", lantern(1)),
    )

    assert await shop.query(SalesByCountry(), at=at) == [
        CountrySales("EIRE", orders=1, sales=3_390),
        CountrySales("France", orders=2, sales=4 * 339, returns=1, refunds=339),
    ]
    assert await shop.query(SalesByDay(), at=at) == [
        DaySales("2010-12-01", orders=2, sales=11 * 339),
        DaySales("2010-12-02", orders=1, sales=3 * 339, returns=1, refunds=339),
    ]
    assert await shop.query(GetTotals(), at=at) == Totals(3, 14 * 339, 1, 339)


async def test_a_shop_without_orders_has_sold_nothing(shop: Engine) -> None:
    assert await shop.query(GetTotals()) == Totals(0, 0, 0, 0)
    assert await shop.query(BestSellers()) == []


async def test_a_cancelled_order_is_taken_back_everywhere(shop: Engine) -> None:
    at = await done(
        shop, create("o-1", lantern(6), heart(2)), adjust("o-1", heart(), 5), CancelOrder("o-1")
    )

    assert await shop.query(GetTotals(), at=at) == Totals(0, 0, 0, 0)
    for product in await shop.query(BestSellers(), at=at):
        assert (product.units_sold, product.revenue) == (0, 0)
    history = await shop.query(GetCustomerHistory("17850"), at=at)
    assert history is not None
    assert history.customer == Customer("17850", last_invoiced_at=MORNING)


async def test_a_customer_has_a_history(shop: Engine) -> None:
    at = await done(
        shop,
        create("o-2", lantern(2), invoiced_at=EVENING),
        create("o-1", lantern(1)),
        create("o-9", lantern(1), buyer=STRANGER),
        adjust("o-1", lantern(), 3),
        back("C3", lantern(1)),
    )

    history = await shop.query(GetCustomerHistory("17850"), at=at)

    assert history is not None
    assert history.customer == Customer(
        "17850", orders=2, spent=5 * 339, returns=1, refunded=339, last_invoiced_at=NEXT_DAY
    )
    assert [order.order_id for order in history.orders] == ["o-1", "o-2"]


INVOICES: Sequence[Sequence[Command]] = [
    [create("1", heart(2), heart(1, 295, "HEART, BIG")), adjust("1", heart(), 4), ShipOrder("1")],
    [create("2", heart(1, 260, ""), lantern(3)), ShipOrder("2")],
    [create("3", lantern(5, 300, "LAMP"), invoiced_at=EVENING), CancelOrder("3")],
    [create("4", lantern(2, 310), buyer=STRANGER, invoiced_at=NEXT_DAY)],
    [create("5", heart(9, 199, "HEARTS"), invoiced_at=EVENING), adjust("5", heart(9, 199), 1)],
    [back("C6", heart(1, 255, "HEART (BACK)"))],
    [back("C7", lantern(1, 339, ""), lantern(2, 339, "LANTERN?"), invoiced_at=MORNING)],
]


@pytest.mark.parametrize("seed", range(8))
async def test_the_views_end_the_same_in_whatever_order_invoices_came(seed: int) -> None:
    queries: tuple[Query[object], ...] = (
        BestSellers(),
        SalesByCountry(),
        SalesByDay(),
        GetTotals(),
    )
    ends: list[list[object]] = []
    for invoices in (INVOICES, shuffled(seed)):
        async with open_shop() as shop:
            at = await done(shop, *(command for invoice in invoices for command in invoice))
            end = [await shop.query(query, at=at) for query in queries]
            history = await shop.query(GetCustomerHistory("17850"), at=at)
            assert history is not None
            ends.append([*end, history.customer])

    assert ends[0] == ends[1]


def shuffled(seed: int) -> Sequence[Sequence[Command]]:
    """Mix the invoices, keeping the commands of each in order."""
    chance = random.Random(seed)
    waiting = [list(invoice) for invoice in INVOICES]
    mixed: list[list[Command]] = []
    while waiting:
        invoice = chance.choice(waiting)
        mixed.append([invoice.pop(0)])
        waiting = [rest for rest in waiting if rest]
    return mixed


async def test_the_overview_shows_the_newest_pending_orders_and_what_sells_best(
    shop: Engine,
) -> None:
    empty = await shop.query(GetOverview())
    assert empty == Overview(0, [], [])

    orders = [create(f"o-{n}", lantern(n), invoiced_at=NEXT_DAY) for n in range(1, 6)]
    at = await done(shop, *orders, create("o-0", heart(2)), ShipOrder("o-4"))
    seen = await shop.query(GetOverview(orders=3, products=1), at=at)

    assert seen.pending == 5
    assert set(seen.newest) <= {
        *(PendingOrder(f"o-{n}", "France", NEXT_DAY, n * 339) for n in (1, 2, 3, 5)),
        PendingOrder("o-0", "France", MORNING, 510),
    }
    assert len(seen.newest) == 3
    assert [(p.product, p.units_sold) for p in seen.best_sellers] == [("71053", 15)]
    assert await shop.query(GetOverview(orders=0, products=0), at=at) == Overview(5, [], [])
    shipped = await done(shop, *(ShipOrder(f"o-{n}") for n in (0, 1, 2, 3, 5)))
    assert await shop.query(GetOverview(products=0), at=shipped) == Overview(0, [], [])
    for wrong in (GetOverview(orders=-1), GetOverview(products=-1)):
        with pytest.raises(InvalidInput):
            await shop.query(wrong, at=at)
