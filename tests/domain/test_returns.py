"""The rules of returns."""

from __future__ import annotations

import pytest

from domain.lines import Line
from domain.returns import RecordReturn, Return, ReturnRecorded
from engine import Rejected

from .goods import ANN, MORNING, heart, lantern


def record(*lines: Line) -> RecordReturn:
    return RecordReturn("C1", ANN, MORNING, lines)


def test_a_return_is_recorded_with_its_refund() -> None:
    back = Return(id="C1")

    event = back.record(record(lantern(1), lantern(2), heart(1, 295)))

    assert event == ReturnRecorded(ANN, MORNING, (lantern(1), lantern(2), heart(1, 295)), 1_312)


def test_a_return_is_recorded_once() -> None:
    back = Return(id="C1")
    back.be_recorded(back.record(record(lantern(1))))

    with pytest.raises(Rejected, match="return-exists"):
        back.record(record(lantern(1)))


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "return-empty"),
        ([lantern(0)], "quantity-not-positive"),
        ([lantern(1), heart(-1)], "quantity-not-positive"),
        ([lantern(1, -5)], "price-negative"),
    ],
)
def test_what_the_rules_refuse(lines: list[Line], code: str) -> None:
    with pytest.raises(Rejected) as refusal:
        Return(id="C1").record(record(*lines))

    assert refusal.value.code == code
