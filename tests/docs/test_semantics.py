"""The page of promises names tests that exist, and every promise has mutants that are programs."""

from __future__ import annotations

import ast
import re
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
