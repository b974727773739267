"""Which commands an invoice stands for, and under which keys."""

from __future__ import annotations

from domain.importer.importer import commands_of
from domain.importer.invoices import Invoice
from domain.model.lines import Line
from domain.model.orders import AdjustOrderItemQuantity, CreateOrder, ShipOrder
from domain.model.returns import RecordReturn
from engine import Command

from .goods import ANN, MORNING, heart, lantern


def sent(number: str, *lines: Line) -> list[tuple[str | None, Command]]:
    invoice = Invoice(number, ANN, MORNING, lines)
    return [(envelope.key, envelope.command) for envelope in commands_of(invoice)]


def test_an_order_is_created_and_shipped() -> None:
    assert sent("1", lantern(), heart()) == [
        ("1/create", CreateOrder("1", ANN, MORNING, (lantern(), heart()))),
        ("1/ship", ShipOrder("1")),
    ]


def test_a_repeated_row_adjusts_its_line_to_the_sum() -> None:
    assert sent("1", lantern(6), heart(2), lantern(3), lantern(1), heart(5)) == [
        ("1/create", CreateOrder("1", ANN, MORNING, (lantern(6), heart(2)))),
        ("1/adjust/1", AdjustOrderItemQuantity("1", "71053@339", 9)),
        ("1/adjust/2", AdjustOrderItemQuantity("1", "71053@339", 10)),
        ("1/adjust/3", AdjustOrderItemQuantity("1", "85123A@255", 7)),
        ("1/ship", ShipOrder("1")),
    ]


def test_the_same_product_at_another_price_is_another_line() -> None:
    assert sent("1", lantern(6), lantern(1, 300)) == [
        ("1/create", CreateOrder("1", ANN, MORNING, (lantern(6), lantern(1, 300)))),
        ("1/ship", ShipOrder("1")),
    ]


def test_two_equal_rows_are_a_line_and_its_adjustment() -> None:
    row = lantern(1)

    assert [key for key, _ in sent("1", row, row)] == ["1/create", "1/adjust/1", "1/ship"]


def test_a_return_is_one_command_with_all_its_rows() -> None:
    assert sent("C1", lantern(1), heart(2), lantern(1)) == [
        ("C1/return", RecordReturn("C1", ANN, MORNING, (lantern(1), heart(2), lantern(1)))),
    ]


def test_what_the_rules_will_refuse_is_sent_all_the_same() -> None:
    assert sent("1", lantern(-5, 0))[0] == (
        "1/create",
        CreateOrder("1", ANN, MORNING, (lantern(-5, 0),)),
    )
