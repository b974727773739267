"""Claims, joint decisions, reactions, processes and timers hold together, whatever loses power."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.mixing import run_seed

SEEDS = int(os.environ.get("MIXING_SEEDS", "40"))
FOUND = (68, 81, 127)
"""Further seeds, which have found bugs that were planted."""


def test_all_that_follows_from_events_holds_through_crashes() -> None:
    crashes, found = 0, Counter[str]()
    for seed in (*range(SEEDS), *FOUND):
        told = run_seed(seed)
        assert told.problems == [], f"seed {seed}: {told.problems}"
        crashes += told.crashes
        found += told.found

    assert crashes > SEEDS
    # Bookings of a run come to each end, and to each one often.
    ends = ("confirmed", "dropped", "expired", "refunded")
    assert min(found[end] for end in ends) > SEEDS / 2


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(5).digest == run_seed(5).digest
