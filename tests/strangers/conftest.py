"""Host code is orderly before and after each test, which says where it is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.strangers.unruly import where


@pytest.fixture(autouse=True)
def _orderly() -> Iterator[None]:
    where.clear()
    yield
    where.clear()
