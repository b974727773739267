"""Rounds of strangers beside an engine, as `python -m tests.strangers locks` runs them."""

from __future__ import annotations

import pytest

from tests.strangers.locks import run_rounds


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20, 2))
def test_rounds_of_strangers_lose_nothing(first: int) -> None:
    assert run_rounds(range(first, first + 2)) == 0
