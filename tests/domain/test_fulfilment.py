"""From the checkout to the parcel: stock, payment and shipping, and back where something fails."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from domain.gate import staff_gate
from domain.model.fulfilment import Fulfilment, GiveUp
from domain.model.lines import Line
from domain.model.orders import (
    AdjustOrderItemQuantity,
    CancelOrder,
    CancelReason,
    Order,
    OrderCancelled,
    ShipOrder,
    Status,
)
from domain.model.payment import Bill, CheckOut, OrderCheckedOut, OrderPaid, OrderReserved, PayOrder
from domain.model.stock import (
    ReceiveStock,
    ReleaseStock,
    ReserveStock,
    Stock,
    StockReceived,
    StockReleased,
    StockReserved,
    release_stock,
    reserve_stock,
)
from domain.shop import open_shop
from domain.views.queries import GetOrderById
from domain.web.app import create_app
from engine import Engine, Forbidden, Meta, Ports, Rejected
from engine.testing.joint import given_all
from engine.testing.scenario import ManualClock, given
from tests.domain.goods import ANN, MORNING, ORDER, create, created, heart, lantern
from tests.support.waiting import until

LINES = (lantern(6), heart(2), heart(1, 300))
OUT = OrderCheckedOut({"71053": 6, "85123A": 3})
PRODUCTS = ["71053", "85123A"]
TOTAL = 6 * 339 + 2 * 255 + 300
CALLED_OFF = OrderCancelled(ANN, MORNING, LINES, TOTAL, CancelReason.NOT_PAID, "")
OF_ORDER = Meta("order:test", 1, 1, 0)


# -- each decision alone ---------------------------------------------------------------------------


def test_who_checks_out_gets_the_bill_and_the_lines_stay_as_they_are() -> None:
    order = given(Order, created(*LINES)).when(CheckOut("test")).then(OUT)

    order.then_reply(Bill(TOTAL, 15))
    out = given(Order, created(*LINES), OUT)
    out.when(AdjustOrderItemQuantity("test", heart().id, 5)).then_rejected("order-checked-out")
    out.when(ShipOrder("test")).then_rejected("order-checked-out")


def test_an_order_of_more_products_than_one_decision_sees_is_not_checked_out() -> None:
    lines = [Line(str(number), "A THING", 1, 10) for number in range(16)]
    nameless = Line("", "A THING", 1, 10)
    given(Order, created(*lines)).when(CheckOut("test")).then_rejected("too-many-products")
    given(Order, created(nameless)).when(CheckOut("test")).then_rejected("product-unknown")


def test_the_whole_bill_is_paid_and_no_more() -> None:
    reserved = given(Order, created(*LINES), OUT, OrderReserved())

    reserved.when(PayOrder("test", "p-1", TOTAL)).then(OrderPaid("p-1", TOTAL))
    reserved.when(PayOrder("test", "p-1", TOTAL - 1)).then_rejected("amount-differs")
    for reference in ("", "p" * 101, "p-1\0", "p-1\n"):
        reserved.when(PayOrder("test", reference, TOTAL)).then_rejected("reference-unsound")
    paid = given(Order, created(*LINES), OUT, OrderReserved(), OrderPaid("p-1", TOTAL))
    paid.when(CancelOrder("test")).then_rejected("order-paid")


def test_an_order_is_reserved_as_a_whole_or_not_at_all() -> None:
    order = given(Order, created(*LINES), OUT, aggregate_id="o-1")
    lanterns = given(Stock, StockReceived(6), aggregate_id="71053")
    command = ReserveStock("o-1", PRODUCTS)

    hearts = given(Stock, StockReceived(3), aggregate_id="85123A")
    given_all(order, lanterns, hearts).when(reserve_stock, command).then(
        {
            "order:o-1": [OrderReserved()],
            "stock:71053": [StockReserved("o-1", 6)],
            "stock:85123A": [StockReserved("o-1", 3)],
        }
    )
    few = given(Stock, StockReceived(2), aggregate_id="85123A")
    given_all(order, lanterns, few).when(reserve_stock, command).then_rejected("out-of-stock")
    others = ReserveStock("o-1", ["71053"])
    given_all(order, lanterns).when(reserve_stock, others).then_rejected("products-differ")


def test_stock_is_given_back_with_the_cancellation_unless_the_customer_was_first() -> None:
    before = (created(*LINES), OUT, OrderReserved())
    back = {"stock:71053": [StockReleased("o-1", 6)], "stock:85123A": [StockReleased("o-1", 3)]}
    command = ReleaseStock("o-1", PRODUCTS)

    order = given(Order, *before, aggregate_id="o-1")
    given_all(order).when(release_stock, command).then({"order:o-1": [CALLED_OFF], **back})
    gone = given(Order, *before, CALLED_OFF, aggregate_id="o-1")
    given_all(gone).when(release_stock, command).then(back)
    paid = given(Order, *before, OrderPaid("p-1", TOTAL), aggregate_id="o-1")
    given_all(paid).when(release_stock, command).then_rejected("order-paid")


def test_the_deadline_gives_the_stock_back_and_a_payment_takes_the_deadline_off() -> None:
    out = (
        given(Fulfilment, aggregate_id="test")
        .when(OUT, meta=OF_ORDER)
        .then_commands(ReserveStock("test", PRODUCTS))
    )
    unpaid = out.when(OrderReserved(), meta=OF_ORDER)
    *_, give_up = unpaid.when_time_passes(minutes=15).due

    assert give_up == GiveUp("test")
    unpaid.when(give_up).then_commands(ReleaseStock("test", PRODUCTS))
    paid = unpaid.when(OrderPaid("p-1", TOTAL), meta=OF_ORDER).then_commands(ShipOrder("test"))
    paid.when(give_up).then()
    undone = out.when_rejected(ReserveStock("test", PRODUCTS), "out-of-stock")
    undone.then_commands(CancelOrder("test", CancelReason.OUT_OF_STOCK, ""))


# -- the shop --------------------------------------------------------------------------------------


async def status(shop: Engine, order: str) -> Status:
    return (await shop.state(Order, order)).status


async def becomes(shop: Engine, order: str, wanted: Status) -> None:
    """Wait until an order is in a state, and all that follows is done."""
    feed = shop.feed(kinds=["order"], follow=True)
    async for logged in feed:
        if logged.meta.id == order and await status(shop, order) is wanted:
            break
    await feed.aclose()
    numbers = shop.statistics
    await until(lambda: not numbers().timers.due)
    await until(lambda: numbers().projectors["fulfilment"].position == numbers().position)
    await until(lambda: not numbers().timers.due)


async def happened(shop: Engine, name: str) -> None:
    """Wait for an event of that name."""
    feed = shop.feed(names=[name], follow=True, principal="sam")
    await feed.__anext__()
    await feed.aclose()


async def checked_out(shop: Engine, order: str) -> Bill:
    await shop.execute(create(order, *LINES))
    return (await shop.execute(CheckOut(order))).reply


async def delivered(shop: Engine, times: int) -> None:
    await shop.execute(ReceiveStock("71053", 6 * times))
    await shop.execute(ReceiveStock("85123A", 3 * times))


async def left(shop: Engine) -> list[int]:
    return [(await shop.state(Stock, product)).left for product in PRODUCTS]


async def test_what_is_paid_is_shipped_and_what_is_not_goes_back(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_shop(f"sqlite:{tmp_path}/shop.db", ports=Ports(clock=clock)) as shop:
        await delivered(shop, 2)
        for order in ("o-1", "o-2", "o-3"):
            bill = await checked_out(shop, order)
            assert bill == Bill(TOTAL, 15)
            wanted = Status.CANCELLED if order == "o-3" else Status.RESERVED
            await becomes(shop, order, wanted)
        assert (await shop.state(Order, "o-3")).status is Status.CANCELLED  # nothing was left
        assert await left(shop) == [0, 0]

        await shop.execute(PayOrder("o-1", "p-1", TOTAL))
        await becomes(shop, "o-1", Status.SHIPPED)
        with pytest.raises(Rejected, match="payment-used"):
            await shop.execute(PayOrder("o-2", "p-1", TOTAL))
        clock.advance(15 * 60)
        await becomes(shop, "o-2", Status.CANCELLED)

        assert await left(shop) == [6, 3]
        row = await shop.query(GetOrderById("o-2"), at=shop.statistics().position)
        assert row is not None
        assert (row.status, row.version) == ("cancelled", 4)
        with pytest.raises(Rejected, match="order-cancelled"):
            await shop.execute(PayOrder("o-2", "p-2", TOTAL))


async def test_who_is_not_on_the_staff_is_shipped_what_they_paid_and_ships_nothing() -> None:
    async with open_shop(authorize=staff_gate({"sam"})) as shop:
        for command in (ReceiveStock("71053", 1), GiveUp("o-1"), ReserveStock("o-1", PRODUCTS)):
            with pytest.raises(Forbidden):
                await shop.execute(command, principal="ann")
        await shop.execute(ReceiveStock("85123A", 3), principal="sam")
        await shop.execute(create("o-1", heart()), principal="ann")
        await shop.execute(CheckOut("o-1"), principal="ann")
        await happened(shop, "order-reserved")
        await shop.execute(PayOrder("o-1", "p-1", 510), principal="ann")
        await happened(shop, "order-shipped")


async def test_a_client_checks_out_and_pays_over_http() -> None:
    app = create_app()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        for product, quantity in (("71053", 6), ("85123A", 2)):
            path, key = f"/stock/{product}/deliveries", {"Idempotency-Key": product}
            done = await client.post(path, json={"quantity": quantity}, headers=key)
            assert done.json()["product"] == product
        made = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "k-1"})
        order = f"/orders/{made.json()['order_id']}"
        bill = (await client.post(f"{order}/checkout", headers={"If-Match": '"1"'})).json()
        assert (bill["total"], bill["minutes"]) == (2_544, 15)
        await happened(app.state.engine, "order-reserved")
        body = {"reference": "p-1", "amount": bill["total"]}
        headers = {"If-Match": '"3"'}
        assert (await client.post(f"{order}/payment", json=body, headers=headers)).is_success
        again = await client.post(f"{order}/payment", json=body, headers={"If-Match": "*"})

    assert again.status_code == 409
