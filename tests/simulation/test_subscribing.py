"""Decisions by tags see all that came before them, whatever loses power, fires or writes beside."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.subscribing import run_seed

SEEDS = int(os.environ.get("SUBSCRIBING_SEEDS", "30"))


def test_decisions_by_tags_see_all_that_came_through_crashes() -> None:
    told: Counter[str] = Counter()
    events: Counter[str] = Counter()
    crashes = lapsed = conflicts = 0
    for seed in range(SEEDS):
        found = run_seed(seed)
        assert found.problems == [], f"seed {seed}: {found.problems}"
        told += found.answers
        events += found.events
        crashes += found.crashes
        lapsed += found.lapsed
        conflicts += found.conflicts

    assert crashes > SEEDS
    assert conflicts > SEEDS // 4
    assert lapsed > SEEDS // 4
    assert events["left"] > lapsed
    assert events["awarded"] == events["left"]
    assert events["issued"] > SEEDS
    assert told["Receipt"] > SEEDS * 10
    assert told["Rejected"] > SEEDS * 5
    assert told["DeadlinePassed"] > SEEDS
    assert told["NoneType"] > SEEDS


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(7).digest == run_seed(7).digest
