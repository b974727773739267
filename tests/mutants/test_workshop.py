"""How a mutant is judged, and that each run in a workshop sees the change that was made for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.__main__ import Mutant, catch_of, judge, seed_of
from tests.mutants.workshop import Run, Workshop

MUTANT = Mutant("a rule", 1, "engine/a.py", "old", "new", ["tests/test_a.py"])


@pytest.mark.parametrize(
    ("run", "caught_by", "problem"),
    [
        (Run(0, "1 passed"), "", ""),
        (
            Run(1, "...\nFAILED tests/test_a.py::test_b[1] - assert 1"),
            "tests/test_a.py::test_b[1]",
            "",
        ),
        (Run(1, "ERROR tests/test_a.py::test_b - in a fixture"), "tests/test_a.py::test_b", ""),
        (Run(3, "FAILED tests/test_a.py::test_b - x\nunclosed"), "tests/test_a.py::test_b", ""),
        (Run(-1, "", "t.py::test_b"), "t.py::test_b by a hang or a death (-1)", ""),
        (Run(-1, ""), "pytest by a hang or a death (-1)", ""),
        (
            Run(1, "Timeout (0:00:20)!\nThread 0x", "t.py::test_b[1]"),
            "t.py::test_b[1] by a hang or a death (1)",
            "",
        ),
        (
            Run(2, "ERROR tests/test_a.py - SyntaxError"),
            "",
            "pytest ended with 2: ERROR tests/test_a.py",
        ),
        (Run(4, "no such file"), "", "pytest ended with 4: no such file"),
        (Run(5, "no tests ran"), "", "pytest ended with 5: no tests ran"),
    ],
)
def test_only_a_test_that_fails_or_hangs_catches_a_mutant(
    run: Run, caught_by: str, problem: str
) -> None:
    outcome = judge("mutant", MUTANT, run)

    assert outcome.caught_by == caught_by
    assert outcome.problem.startswith(problem)
    assert bool(outcome.problem) == bool(problem)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    model = tmp_path / "model"
    (model / "tests/mutants").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("forks.py"), model / "tests/mutants")
    (model / "engine.py").write_text("NUMBER = 1\n")
    (model / "tests/test_a.py").write_text(
        "import engine, time\n\n"
        "def test_one():\n    assert engine.NUMBER == 1\n\n"
        "def test_end():\n    time.sleep(60 * (engine.NUMBER == 3))\n"
    )
    with Workshop(model) as made:
        yield made


def test_each_run_sees_the_change_that_was_made_for_it_and_the_next_one_does_not(
    shop: Workshop,
) -> None:
    def run(*tests: str, seconds: float = 60) -> Run:
        return shop.run([*tests], test_seconds_max=60, seconds_max=seconds)

    one, end = "tests/test_a.py::test_one", "tests/test_a.py::test_end"
    assert run(one).status == 0
    with shop.changed("engine.py", "NUMBER = 2\n"):
        assert "FAILED tests/test_a.py::test_one" in run(one).output
        assert run(end).status == 0
    with shop.changed("engine.py", "NUMBER = 3\n"):
        hung = run(end, seconds=1)
        assert (hung.status < 0, hung.begun) == (True, end)
    assert run(one, end).status == 0


def test_a_catch_is_recorded_by_its_test_or_its_seed() -> None:
    assert catch_of("t.py::test_b[1] by a hang or a death (1)") == "t.py::test_b"
    assert catch_of("t.py::test_b[a by b] ") == "t.py::test_b"
    assert catch_of("pytest by a hang or a death (-1)") is None
    assert catch_of("seed 31: P8: [x] by y") == "seed 31"
    assert catch_of("") is None
    assert (seed_of(["seed 31"]), seed_of(["tests/t.py"]), seed_of([])) == (31, None, None)
