"""People are erased, and others lose nothing, whatever loses power, fails, hangs or is raised."""

from __future__ import annotations

from collections import Counter

from tests.simulation.persons.world import run_seed

SEEDS = 24


def test_an_erased_person_is_nowhere_and_others_are_there_through_crashes() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        told = run_seed(seed)
        assert told.problems == [], f"seed {seed}: {told.problems}, {told.made_of}"
        counts += told.counts

    assert counts["crashes"] > SEEDS // 2
    assert counts["finished"] > SEEDS
    assert counts["gone"] > 5 * SEEDS
    assert counts["disk failures"] > SEEDS // 10


def test_a_seed_replays_step_by_step() -> None:
    assert run_seed(12).digest == run_seed(12).digest
