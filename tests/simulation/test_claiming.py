"""Claims and replies hold whatever loses power, and however commands meet."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.claiming import run_seed

SEEDS = int(os.environ.get("CLAIMING_SEEDS", "40"))


def test_claims_hold_through_crashes() -> None:
    told: Counter[str] = Counter()
    crashes = events = 0
    for seed in range(SEEDS):
        found = run_seed(seed)
        assert found.problems == [], f"seed {seed}: {found.problems}"
        told += found.answers
        crashes += found.crashes
        events += found.events

    assert crashes > SEEDS
    assert events > SEEDS * 5
    assert told["Receipt"] > SEEDS * 5
    assert told["Rejected"] > SEEDS * 5
    assert told["NoneType"] > 0


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(7).digest == run_seed(7).digest
