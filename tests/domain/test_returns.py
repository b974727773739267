"""The rules of returns."""

from __future__ import annotations

import pytest

from domain.model.lines import Line
from domain.model.returns import RecordReturn, Return, ReturnRecorded
from engine.testing.scenario import given

from .goods import ANN, MORNING, heart, lantern


def record(*lines: Line) -> RecordReturn:
    return RecordReturn("C1", ANN, MORNING, lines)


def test_a_return_is_recorded_with_its_refund() -> None:
    lines = (lantern(1), lantern(2), heart(1, 295))

    given(Return).when(record(*lines)).then(ReturnRecorded(ANN, MORNING, lines, 1_312))


def test_a_return_is_recorded_once() -> None:
    recorded = given(Return).when(record(lantern(1)))

    recorded.when(record(lantern(1))).then_rejected("return-exists")


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "return-empty"),
        ([lantern(0)], "quantity-not-positive"),
        ([lantern(1), heart(-1)], "quantity-not-positive"),
        ([lantern(1, -5)], "price-negative"),
        ([lantern(10**25)], "quantity-too-large"),
        ([lantern(1, 10**25)], "total-too-large"),
    ],
)
def test_what_the_rules_refuse(lines: list[Line], code: str) -> None:
    given(Return).when(record(*lines)).then_rejected(code)
