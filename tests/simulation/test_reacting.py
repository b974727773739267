"""Reactions are made once, whatever loses power between event, command and checkpoint."""

from __future__ import annotations

import os

from tests.simulation.reacting import run_seed

SEEDS = int(os.environ.get("REACTING_SEEDS", "10"))


def test_reactions_are_made_once_through_crashes() -> None:
    crashes = shipped = cancelled = 0
    for seed in range(SEEDS):
        found = run_seed(seed)
        assert found.problems == [], f"seed {seed}: {found.problems}"
        crashes += found.crashes
        shipped += found.shipped
        cancelled += found.cancelled

    assert crashes > SEEDS
    assert shipped > SEEDS * 20
    assert cancelled > SEEDS * 5


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(7).digest == run_seed(7).digest
