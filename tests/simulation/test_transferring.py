"""Joint decisions are whole whatever loses power, and however commands meet."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.transferring import run_seed

SEEDS = int(os.environ.get("TRANSFERRING_SEEDS", "30"))


def test_joint_decisions_are_whole_through_crashes() -> None:
    told: Counter[str] = Counter()
    crashes = joint = 0
    for seed in range(SEEDS):
        found = run_seed(seed)
        assert found.problems == [], f"seed {seed}: {found.problems}"
        told += found.answers
        crashes += found.crashes
        joint += found.joint

    assert crashes > SEEDS
    assert joint > SEEDS * 8
    assert told["Receipt"] > SEEDS * 10
    assert told["Rejected"] > SEEDS * 3
    assert told["DeadlinePassed"] > SEEDS
    assert told["NoneType"] > 0


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(7).digest == run_seed(7).digest
