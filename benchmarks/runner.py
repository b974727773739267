"""Runs a scenario: every cell once a round, in turn (A B A B), after a round that does not count.

Rules: each cell gets an empty folder of its own, on the disk that is asked for, and the collector's
leavings of the cell before it are cleared first. A cell that raises ends the run, naming itself. A
figure that is missing, has no column, or is not a number is an error here and never a gap in a
table. No figure is judged by its size.
"""

from __future__ import annotations

import gc
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .report import CellResult, Result
from .scenario import Cell, Scenario

__all__ = ["FEWEST_ROUNDS", "Broken", "run"]

FEWEST_ROUNDS = 5
"""With fewer, no figure says how far it moves by itself."""


class Broken(Exception):
    """A scenario does not give what it says that it gives."""


def run(scenario: Scenario, *, rounds: int, warm_up: int, folder: Path) -> Result:
    """Run all cells of a scenario and give every round of every cell."""
    _check_references(scenario)
    found: list[list[Mapping[str, float]]] = [[] for _ in scenario.cells]
    for number in range(1 - warm_up, rounds + 1):
        for cell, kept in zip(scenario.cells, found, strict=True):
            _tell(scenario, cell, number, rounds)
            figures = _measure(scenario, cell, folder)
            if number > 0:
                kept.append(figures)
    _tell_end()
    conditions = {**scenario.conditions, "rounds": _rounds_told(rounds, warm_up)}
    result = Result(
        scenario.name,
        scenario.title,
        conditions,
        scenario.columns,
        scenario.headline,
        [
            CellResult(cell.group, cell.name, cell.against, kept)
            for cell, kept in zip(scenario.cells, found, strict=True)
        ],
        scenario.notes,
    )
    _check_complete(result)
    return result


def _measure(scenario: Scenario, cell: Cell, folder: Path) -> Mapping[str, float]:
    gc.collect()
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="benchmark-") as place:
            figures = cell.measure(Path(place))
        unknown = set(figures) - {column.name for column in scenario.columns}
        if unknown or not figures:
            raise Broken(f"figures without a column: {sorted(unknown)}; all figures: {figures}")
        if broken := {name: value for name, value in figures.items() if not math.isfinite(value)}:
            raise Broken(f"these figures are not numbers: {broken}")
    except BaseException as error:
        error.add_note(f"in the benchmark {scenario.name}, {cell.group}: {cell.name}")
        raise
    return figures


def _check_references(scenario: Scenario) -> None:
    names = [(cell.group, cell.name) for cell in scenario.cells]
    if len(set(names)) < len(names):
        raise Broken(f"{scenario.name} has two cells of one name in a group: {sorted(names)}")
    for cell in scenario.cells:
        for reference in cell.against:
            if (cell.group, reference) not in names:
                raise Broken(
                    f"{scenario.name}, {cell.group}: no {reference!r} beside {cell.name!r}"
                )


def _check_complete(result: Result) -> None:
    for cell in result.cells:
        if len({frozenset(figures) for figures in cell.rounds}) > 1:
            raise Broken(f"{result.scenario}, {cell.group}: {cell.name} has not one set of figures")
    given = {name for cell in result.cells for figures in cell.rounds for name in figures}
    if missing := {result.headline, *(column.name for column in result.columns)} - given:
        raise Broken(f"{result.scenario}: no cell gave {sorted(missing)}")


def _rounds_told(rounds: int, warm_up: int) -> str:
    few = "" if rounds >= FEWEST_ROUNDS else f"; fewer than {FEWEST_ROUNDS}: not to be quoted"
    return f"{rounds}, each cell in turn, after {warm_up} that did not count{few}"


def _tell(scenario: Scenario, cell: Cell, number: int, rounds: int) -> None:
    which = f"round {number} of {rounds}" if number > 0 else "warm-up"
    if sys.stderr.isatty():
        line = f"{scenario.name}, {which}: {cell.group}: {cell.name}"[:100]
        print(f"\r{line:100}", end="", file=sys.stderr, flush=True)
    elif cell is scenario.cells[0]:
        print(f"{scenario.name}, {which}", file=sys.stderr, flush=True)


def _tell_end() -> None:
    if sys.stderr.isatty():
        print(f"\r{'':100}\r", end="", file=sys.stderr, flush=True)
