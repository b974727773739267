"""Engines that share a log hold what they promise, whatever dies, parts, or stands still.

Judged without an excuse: an answer that was given when the log was another engine's is a false one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.simulation.joining.duties import run_duties_seed
from tests.simulation.joining.world import run_joining_seed, run_spread_seed
from tests.simulation.postgres.judge import judge_world
from tests.simulation.postgres.troubles import LEASE_SECONDS, Incident

ROOT: Final = Path(__file__).parent.parent.parent
SEEDS: Final = 60
HAPPENINGS: Final = (
    *("kill", "lose", "pause", "close", "crash", "restart", "part", "terminate", "owners hit"),
    *("cut wires", "part wires", "cut off", "late faults", "reply faults", "request faults"),
    *("silent faults", "lines", "OutcomeUnknown", "Closed", "Rejected", "WrongVersion"),
)
Run: TypeAlias = Callable[..., Any]
_OFTEN: Final = 6
_LONG: Final = 1.5 * LEASE_SECONDS
SCRIPTS: Final[dict[str, Sequence[Incident]]] = {
    "the owner does not reach the server": [Incident(1.0, "cut off", _LONG)] * 2,
    "the owner stands still": [Incident(1.0, "pause", _LONG)] * 2,
    "the lines to the owner break": [Incident(0.3, "cut wires", 0.0)] * _OFTEN,
    "nothing happens": [Incident(0.1, "close", 0.0)],
}


@pytest.mark.parametrize(("world", "seeds"), [("--joining", SEEDS), ("--spread", SEEDS // 2)])
def test_seeds_hold_and_are_full_of_what_breaks(world: str, seeds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", world, "--seeds", str(seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{seeds} seeds, 0 bad")
    for happening in (*HAPPENINGS, "together") if world == "--spread" else HAPPENINGS:
        assert re.search(rf" [1-9]\d* {happening}[,\n]", done.stdout), (happening, done.stdout)


def test_shared_projections_are_a_fold_of_the_log_whoever_runs_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--duties", "--seeds", "24"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("24 seeds, 0 bad")
    duties = ("duties: handed over", "duties: slices of one at two", "duties: swaps")
    for happening in (*duties, "kill", "pause", "cut off"):
        assert re.search(rf" [1-9]\d* {happening}[,\n]", done.stdout), (happening, done.stdout)


@pytest.mark.parametrize("run", [run_joining_seed, run_spread_seed])
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_told_is_true(script: str, run: Run) -> None:
    for seed in range(8 if run is run_joining_seed else 4):
        world = run(seed, *SCRIPTS[script])
        assert judge_world(world) == [], f"seed {seed}"
        assert world.story.answers["Rejected"] > 0


@pytest.mark.parametrize("run", [run_joining_seed, run_spread_seed, run_duties_seed])
def test_a_seed_replays_step_by_step(run: Run) -> None:
    first, second = (run(3).story for _ in range(2))

    assert (first.digest, first.steps) == (second.digest, second.steps)
