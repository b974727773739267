"""Results that were made up, for what tells and judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.report import CellResult, Report, Result
from benchmarks.scenario import Column

COLUMNS = (
    Column("commands", "/s", "more"),
    Column("p99", "ms", "less", 1),
    Column("events", "/commit", "", 1),
)
MACHINE = {"processor": "abacus", "cores": "2", "system": "Linux", "python": "3.11.7"}
ABOUT = {"commit": "c0ffee", "begun": "2026-11-23T12:00:00+00:00"}


def cell(
    name: str, commands: Sequence[float], p99: Sequence[float], *against: str, group: str = "sqlite"
) -> CellResult:
    rounds: list[Mapping[str, float]] = [
        {"commands": c, "p99": p} for c, p in zip(commands, p99, strict=True)
    ]
    return CellResult(group, name, against, rounds)


def result(*cells: CellResult, scenario: str = "walk") -> Result:
    conditions = {"durability": "FULL"}
    return Result(scenario, "how far it is", conditions, COLUMNS, "commands", cells, ["a peer"])


def report(*results: Result, machine: Mapping[str, str] = MACHINE) -> Report:
    return Report({**machine, **ABOUT}, results)
