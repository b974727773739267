"""Money crosses to text and back without losing a penny."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.model.money import parse_pounds, pounds


@pytest.mark.parametrize(
    ("text", "pence"),
    [("2.55", 255), ("2.5", 250), ("2", 200), ("0", 0), ("0.07", 7), ("-11062.06", -1_106_206)],
)
def test_pounds_are_read_as_pence(text: str, pence: int) -> None:
    assert parse_pounds(text) == pence


@pytest.mark.parametrize(
    "text",
    ["", "2.555", "2.550", "2.", ".5", "1,000", "£2", "1e3", "nan", "٣", "+1", "--1", "1234567890"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        parse_pounds(text)


@pytest.mark.parametrize(
    ("pence", "text"), [(54_016_130, "540,161.30"), (5, "0.05"), (-255, "-2.55"), (0, "0.00")]
)
def test_pence_are_written_as_pounds(pence: int, text: str) -> None:
    assert pounds(pence) == text


@given(st.integers(-99_999_999_999, 99_999_999_999))
def test_an_amount_comes_back_as_it_was(pence: int) -> None:
    assert parse_pounds(pounds(pence).replace(",", "")) == pence
