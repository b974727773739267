"""A fresh stage for the answers of each test, between whose reads nothing happens."""

from __future__ import annotations

import pytest

from tests.queries.ledger import BETWEEN
from tests.queries.watching import STEP, Stage, stages
from tests.support.tallies import AILING


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BETWEEN.clear()
    stages[:] = [Stage()]
    AILING.clear()
    STEP[0] = 1
