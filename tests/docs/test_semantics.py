"""The page of promises names tests that exist, and every promise has mutants that are programs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import load

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs/reference/promises.md").read_text()
PROMISE = re.compile(r"^### (\d+)\. (.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)
MUTANTS = load([])
PROMISES = {int(number): text for number, text in PROMISE.findall(TEXT)}


def test_there_are_so_many_promises() -> None:
    assert list(PROMISES) == list(range(1, 27))


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_names_tests_that_exist(number: int) -> None:
    line = re.search(r"^Tests: (.*)\.$", PROMISES[number], re.MULTILINE)
    assert line
    names = re.findall(r"`([^`]+)`", line[1])

    assert names
    assert [name for name in names if not (TESTS / f"{name}.py").is_file()] == []


def test_every_promise_has_a_mutant_and_every_mutant_has_a_promise() -> None:
    assert {mutant.promise for mutant in MUTANTS.values()} == set(PROMISES)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_what_a_mutant_changes_stands_once_and_leaves_a_program(name: str) -> None:
    mutant = MUTANTS[name]
    text = (TESTS.parent / mutant.file).read_text()

    assert text.count(mutant.old) == 1
    if mutant.file.endswith(".py"):
        ast.parse(text.replace(mutant.old, mutant.new))


def test_what_a_mutant_plants_knows_its_names(tmp_path: Path) -> None:
    """A test that fails by `NameError` catches a slip of the mutant and not its bug."""
    for name, mutant in MUTANTS.items():
        if mutant.file.endswith(".py"):
            text = (TESTS.parent / mutant.file).read_text()
            (tmp_path / f"{name}.py").write_text(text.replace(mutant.old, mutant.new))

    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet"]
    done = subprocess.run(
        [*ruff, "--select", "F821,F823", "--output-format", "concise", str(tmp_path)],
        capture_output=True,
        text=True,
    )

    assert done.stdout + done.stderr == ""
