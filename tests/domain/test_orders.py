"""The rules of orders: given these events, this command gives that event, or that refusal."""

from __future__ import annotations

import pytest

from domain.lines import Line
from domain.orders import (
    AdjustOrderItemQuantity,
    CancelOrder,
    Order,
    OrderCancelled,
    OrderCreated,
    OrderItemQuantityAdjusted,
    OrderShipped,
    ShipOrder,
    Status,
)
from engine import Command, Event, Rejected

from .goods import ANN, MORNING, adjust, create, created, decided, heart, lantern, order_after

CREATED = created(lantern(6), heart(2))
SHIPPED = OrderShipped()
CANCELLED = OrderCancelled(ANN, MORNING, (lantern(6), heart(2)), 2_544, "")


def test_an_order_is_created_with_its_total() -> None:
    event = decided(order_after(), create("o-1", lantern(6), heart(2)))

    assert event == OrderCreated(ANN, MORNING, (lantern(6), heart(2)), 6 * 339 + 2 * 255)


def test_a_product_at_two_prices_is_two_lines() -> None:
    order = order_after()
    decided(order, create("o-1", heart(2, 255), heart(1, 295)))

    assert list(order.lines) == ["85123A@255", "85123A@295"]
    assert order.total == 805


def test_a_price_of_nothing_is_a_price() -> None:
    assert decided(order_after(), create("o-1", heart(1, 0))) == created(heart(1, 0))


def test_an_adjusted_line_says_before_and_after() -> None:
    order = order_after(CREATED)

    event = decided(order, adjust("o-1", lantern(), 10))

    assert event == OrderItemQuantityAdjusted(
        buyer=ANN,
        invoiced_at=MORNING,
        line_id="71053@339",
        product="71053",
        unit_price=339,
        quantity_before=6,
        quantity_after=10,
        total=10 * 339 + 2 * 255,
    )
    assert order.lines["71053@339"] == lantern(10)
    assert order.total == 10 * 339 + 2 * 255


def test_an_adjustment_to_the_same_quantity_is_recorded() -> None:
    event = decided(order_after(CREATED), adjust("o-1", lantern(), 6))

    assert isinstance(event, OrderItemQuantityAdjusted)
    assert (event.quantity_added, event.total_added) == (0, 0)


def test_an_adjustment_down_adds_less_than_nothing() -> None:
    event = decided(order_after(CREATED), adjust("o-1", lantern(), 1))

    assert isinstance(event, OrderItemQuantityAdjusted)
    assert (event.quantity_added, event.total_added) == (-5, -5 * 339)


def test_a_created_order_is_shipped() -> None:
    order = order_after(CREATED)

    assert decided(order, ShipOrder("o-1")) == OrderShipped()
    assert order.status is Status.SHIPPED


def test_a_cancelled_order_says_what_it_was() -> None:
    order = order_after(CREATED)
    decided(order, adjust("o-1", heart(), 1))

    event = decided(order, CancelOrder("o-1", "changed my mind"))

    assert event == OrderCancelled(
        ANN, MORNING, (lantern(6), heart(1)), 6 * 339 + 255, "changed my mind"
    )
    assert order.status is Status.CANCELLED


@pytest.mark.parametrize(
    ("given", "command", "code"),
    [
        ([], create("o-1"), "order-empty"),
        ([], create("o-1", lantern(0)), "quantity-not-positive"),
        ([], create("o-1", heart(1), lantern(-6, 0)), "quantity-not-positive"),
        ([], create("o-1", lantern(1, -1)), "price-negative"),
        ([], create("o-1", lantern(1), lantern(2)), "line-repeated"),
        ([], adjust("o-1", lantern(), 1), "order-unknown"),
        ([], ShipOrder("o-1"), "order-unknown"),
        ([], CancelOrder("o-1"), "order-unknown"),
        ([CREATED], create("o-1", lantern(6), heart(2)), "order-exists"),
        ([CREATED], create("o-1"), "order-empty"),
        ([CREATED], adjust("o-1", lantern(), 0), "quantity-not-positive"),
        ([CREATED], adjust("o-1", lantern(unit_price=1), 1), "item-not-in-order"),
        ([CREATED], AdjustOrderItemQuantity("o-1", "71053", 1), "item-not-in-order"),
        ([CREATED, SHIPPED], create("o-1", lantern()), "order-exists"),
        ([CREATED, SHIPPED], adjust("o-1", lantern(), 1), "order-shipped"),
        ([CREATED, SHIPPED], ShipOrder("o-1"), "order-shipped"),
        ([CREATED, SHIPPED], CancelOrder("o-1"), "order-shipped"),
        ([CREATED, CANCELLED], adjust("o-1", lantern(), 1), "order-cancelled"),
        ([CREATED, CANCELLED], ShipOrder("o-1"), "order-cancelled"),
        ([CREATED, CANCELLED], CancelOrder("o-1"), "order-cancelled"),
    ],
)
def test_what_the_rules_refuse(given: list[Event], command: Command, code: str) -> None:
    order = order_after(*given)
    before = repr(order)

    with pytest.raises(Rejected) as refusal:
        decided(order, command)

    assert refusal.value.code == code
    assert repr(order) == before


@pytest.mark.parametrize("given", [[], [CREATED], [CREATED, SHIPPED], [CREATED, CANCELLED]])
def test_a_bad_command_is_refused_with_the_same_code_in_every_state(given: list[Event]) -> None:
    """A command that is sent again after a crash meets a later state."""
    for command in (create("o-1", lantern(-1)), adjust("o-1", lantern(), -1)):
        with pytest.raises(Rejected) as refusal:
            decided(order_after(*given), command)

        assert refusal.value.code == "quantity-not-positive"


def test_folding_shares_no_line_between_two_orders() -> None:
    first, second = order_after(CREATED), order_after(CREATED)
    decided(first, adjust("o-1", lantern(), 99))

    assert second.lines["71053@339"] == lantern(6)


def test_a_new_order_is_nothing_yet() -> None:
    assert Order(id="o-1").status is Status.NONE
    assert Order(id="o-1").lines == {}


def test_a_line_is_named_by_product_and_price() -> None:
    line = Line("POST", "POSTAGE", 3, 1_800)

    assert line.id == "POST@1800"
    assert line.total == 5_400
