"""A broker that dies under load: `python -m tests.relays --kills 50` is the same, for longer."""

from __future__ import annotations

import pytest

from tests.relays.kills import run
from tests.support.brokers import Broker


@pytest.mark.slow
async def test_a_broker_that_is_killed_under_load_loses_nothing(broker: Broker, topic: str) -> None:
    outcome = await run(broker, topic, kills=3 if broker.starts_soon else 1, seed=7)

    assert outcome.felt > 0
    assert outcome.repeated == 0 or not broker.drops_repetitions
