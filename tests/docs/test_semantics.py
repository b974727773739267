"""SEMANTICS.md names what there is: tests that exist, and every mutant under its promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutants.__main__ import load

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "SEMANTICS.md").read_text()
PROMISE = re.compile(r"^### (\d+)\. (.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)
MUTANTS = load([])
PROMISES = {int(number): text for number, text in PROMISE.findall(TEXT)}


def test_there_are_eighteen_promises() -> None:
    assert list(PROMISES) == list(range(1, 19))


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_names_tests_that_exist(number: int) -> None:
    line = re.search(r"^Tests: (.*)\.$", PROMISES[number], re.MULTILINE)
    assert line
    names = re.findall(r"`([^`]+)`", line[1])

    assert names
    assert [name for name in names if not (TESTS / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_names_its_mutants_and_has_one(number: int) -> None:
    named = set(re.findall(r"^- `([^`]+)`:", PROMISES[number], re.MULTILINE))
    kept = {name for name, mutant in MUTANTS.items() if mutant.promise == number}

    assert named == kept
    assert kept


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_what_a_mutant_changes_stands_once_and_leaves_a_program(name: str) -> None:
    mutant = MUTANTS[name]
    text = (TESTS.parent / mutant.file).read_text()

    assert text.count(mutant.old) == 1
    if mutant.file.endswith(".py"):
        ast.parse(text.replace(mutant.old, mutant.new))
