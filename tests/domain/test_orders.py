"""The rules of orders: given these events, this command gives that event, or that refusal."""

from __future__ import annotations

import pytest

from domain.model.lines import QUANTITY_MAX, TOTAL_MAX, Line
from domain.model.orders import (
    AdjustOrderItemQuantity,
    CancelOrder,
    CancelReason,
    Order,
    OrderCancelled,
    OrderCreated,
    OrderItemQuantityAdjusted,
    OrderShipped,
    ShipOrder,
    Status,
)
from engine import Command, Event
from engine.testing.scenario import given

from .goods import ANN, MORNING, adjust, create, created, heart, lantern

CREATED = created(lantern(6), heart(2))
SHIPPED = OrderShipped()
CANCELLED = OrderCancelled(ANN, MORNING, (lantern(6), heart(2)), 2_544, CancelReason.OTHER, "")


def test_an_order_is_created_with_its_total() -> None:
    given(Order).when(create("o-1", lantern(6), heart(2))).then(
        OrderCreated(ANN, MORNING, (lantern(6), heart(2)), 6 * 339 + 2 * 255)
    )


def test_a_product_at_two_prices_is_two_lines() -> None:
    order = given(Order).when(create("o-1", heart(2, 255), heart(1, 295))).state

    assert list(order.lines) == ["85123A@255", "85123A@295"]
    assert order.total == 805


def test_a_price_of_nothing_is_a_price() -> None:
    given(Order).when(create("o-1", heart(1, 0))).then(created(heart(1, 0)))


def test_the_largest_quantity_and_total_are_taken() -> None:
    order = given(Order).when(create("o-1", lantern(QUANTITY_MAX, 0), heart(1, TOTAL_MAX))).state

    assert order.total == TOTAL_MAX


def test_an_adjusted_line_says_before_and_after() -> None:
    total = 10 * 339 + 2 * 255
    adjusted = given(Order, CREATED).when(adjust("o-1", lantern(), 10))

    adjusted.then(
        OrderItemQuantityAdjusted(
            buyer=ANN,
            invoiced_at=MORNING,
            line_id="71053@339",
            product="71053",
            unit_price=339,
            quantity_before=6,
            quantity_after=10,
            total=total,
        )
    )
    assert adjusted.state.lines["71053@339"] == lantern(10)
    assert adjusted.state.total == total


@pytest.mark.parametrize(("quantity", "added"), [(6, 0), (1, -5)])
def test_an_adjustment_to_the_same_or_less_is_recorded(quantity: int, added: int) -> None:
    (event,) = given(Order, CREATED).when(adjust("o-1", lantern(), quantity)).events

    assert isinstance(event, OrderItemQuantityAdjusted)
    assert (event.quantity_added, event.total_added) == (added, added * 339)


def test_a_created_order_is_shipped() -> None:
    shipped = given(Order, CREATED).when(ShipOrder("o-1")).then(OrderShipped())

    assert shipped.state.status is Status.SHIPPED


def test_a_cancelled_order_says_what_it_was() -> None:
    cancelled = (
        given(Order, CREATED)
        .when(adjust("o-1", heart(), 1))
        .when(CancelOrder("o-1", CancelReason.CUSTOMER, "changed my mind"))
        .then(
            OrderCancelled(
                ANN,
                MORNING,
                (lantern(6), heart(1)),
                6 * 339 + 255,
                CancelReason.CUSTOMER,
                "changed my mind",
            )
        )
    )

    assert cancelled.state.status is Status.CANCELLED


@pytest.mark.parametrize(
    ("history", "command", "code"),
    [
        ([], create("o-1"), "order-empty"),
        ([], create("o-1", lantern(0)), "quantity-not-positive"),
        ([], create("o-1", heart(1), lantern(-6, 0)), "quantity-not-positive"),
        ([], create("o-1", lantern(1, -1)), "price-negative"),
        ([], create("o-1", heart(1), lantern(QUANTITY_MAX + 1, 0)), "quantity-too-large"),
        ([], create("o-1", heart(1), lantern(1, TOTAL_MAX)), "total-too-large"),
        ([], create("o-1", lantern(10**4_000)), "quantity-too-large"),
        ([CREATED], adjust("o-1", lantern(), QUANTITY_MAX + 1), "quantity-too-large"),
        ([created(heart(1, TOTAL_MAX))], adjust("o-1", heart(1, TOTAL_MAX), 2), "total-too-large"),
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
def test_what_the_rules_refuse(history: list[Event], command: Command, code: str) -> None:
    given(Order, *history).when(command).then_rejected(code)


@pytest.mark.parametrize("history", [[], [CREATED], [CREATED, SHIPPED], [CREATED, CANCELLED]])
def test_a_bad_command_is_refused_with_the_same_code_in_every_state(history: list[Event]) -> None:
    """A command that is sent again after a crash meets a later state."""
    for command in (create("o-1", lantern(-1)), adjust("o-1", lantern(), -1)):
        given(Order, *history).when(command).then_rejected("quantity-not-positive")


def test_a_new_order_is_nothing_yet() -> None:
    assert Order(id="o-1").status is Status.NONE
    assert Order(id="o-1").lines == {}


def test_a_line_is_named_by_product_and_price() -> None:
    line = Line("POST", "POSTAGE", 3, 1_800)

    assert line.id == "POST@1800"
    assert line.total == 5_400
