"""`python -m benchmarks compare A.json B.json`: names what became slower from A to B.

Rules: what has a floor is judged by its ratios to it, figure by figure, because both were measured
in the same rounds on the same machine; what has none is judged by its figures, and only where both
runs were on one machine. Floors and peers are not judged. A regression is a figure whose median
became worse by more than the tolerance, and by more than the rounds of both runs lie apart
(largest less least, of both together); what moved less than that is noise, and is only counted.
So the rounds of a regression all lie on the worse side of those before. Fewer than five rounds do
not tell how far they lie apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from .machine import SAME
from .report import CellResult, Report, Result, Spread, figures, is_reference, ratios, read, spread
from .runner import FEWEST_ROUNDS
from .scenario import Column

__all__ = ["Difference", "differences", "main", "verdict"]

Verdict = Literal["regression", "improvement", "noise", "same"]


class Difference(msgspec.Struct, frozen=True):
    """One figure, before and after."""

    scenario: str
    group: str
    cell: str
    column: str
    floor: str
    """What it is a ratio to; empty for a figure as it is."""
    before: Spread
    after: Spread
    verdict: Verdict

    def __str__(self) -> str:
        """Tell it in one line."""
        of = f" to {self.floor}" if self.floor else ""
        return (
            f"{self.verdict}: {self.scenario}, {self.group}: {self.cell}: {self.column}{of} "
            f"{_told(self.before)} -> {_told(self.after)}"
        )


def main(arguments: Sequence[str]) -> int:
    """Compare two files; give 1 where there is a regression."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05, help="default 0.05: 5 %%")
    options = parser.parse_args(arguments)
    try:
        before, after = read(options.before), read(options.after)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"not a report that `--json` wrote: {error}", file=sys.stderr)
        return 2
    for line in _unjudged(before, after):
        print(line)
    found = list(differences(before, after, options.tolerance))
    for difference in found:
        if difference.verdict in ("regression", "improvement"):
            print(difference)
    verdicts = Counter(difference.verdict for difference in found)
    told = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in get_args(Verdict))
    print(f"{len(found)} figures were judged: {told}")
    return 1 if verdicts["regression"] else 0


def differences(before: Report, after: Report, tolerance: float) -> Iterator[Difference]:
    """Give every figure that can be judged, with its verdict."""
    alike = not _machine_changes(before.machine, after.machine)
    for old, new in _pairs(before, after):
        if _too_few(old) or _too_few(new):
            continue
        cells = {(cell.group, cell.name): cell for cell in old.cells}
        for cell in new.cells:
            was = cells.get((cell.group, cell.name))
            if was is None or is_reference(new, cell):
                continue
            for column in new.columns:
                if column.better:
                    yield from _judged(old, was, new, cell, column, tolerance, alike)


def _judged(
    old: Result,
    was: CellResult,
    new: Result,
    cell: CellResult,
    column: Column,
    tolerance: float,
    alike: bool,
) -> Iterator[Difference]:
    floor = cell.against[0] if cell.against else ""
    if floor and was.against and was.against[0] == floor:
        first, second = (
            ratios(result, c, floor, column.name) for result, c in ((old, was), (new, cell))
        )
    elif alike:
        floor = ""
        first, second = figures(was, column.name), figures(cell, column.name)
    else:
        return
    if first and second:
        before, after = spread(first), spread(second)
        what = verdict(before, after, column.better, tolerance)
        yield Difference(
            new.scenario, cell.group, cell.name, column.name, floor, before, after, what
        )


def verdict(
    before: Spread, after: Spread, better: Literal["more", "less", ""], tolerance: float
) -> Verdict:
    """Say what became of a figure, beside what it does by itself."""
    moved = after.median - before.median
    noise = (before.largest - before.least) + (after.largest - after.least)
    if abs(moved) <= before.median * tolerance:
        return "same"
    if abs(moved) <= noise:
        return "noise"
    return "improvement" if (moved > 0) == (better == "more") else "regression"


def _pairs(before: Report, after: Report) -> Iterator[tuple[Result, Result]]:
    old = {result.scenario: result for result in before.results}
    for new in after.results:
        if new.scenario in old:
            yield old[new.scenario], new


def _too_few(result: Result) -> bool:
    return any(len(cell.rounds) < FEWEST_ROUNDS for cell in result.cells)


def _machine_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in SAME
        if before.get(name) != after.get(name)
    ]


def _unjudged(before: Report, after: Report) -> Iterator[str]:
    """Tell what the verdicts leave out, so that silence is not taken for a yes."""
    if changes := _machine_changes(before.machine, after.machine):
        yield f"only ratios are judged, since the machine changed: {'; '.join(changes)}"
    for old, new in _pairs(before, after):
        if _too_few(old) or _too_few(new):
            yield f"not judged: {new.scenario}, which has fewer than {FEWEST_ROUNDS} rounds"
        if changes := [
            f"{name}: {old.conditions.get(name)} -> {value}"
            for name, value in new.conditions.items()
            if old.conditions.get(name) != value
        ]:
            yield f"{new.scenario} was run under other conditions: {'; '.join(changes)}"
    for one, other, where in ((before, after, "before"), (after, before, "after")):
        there = set(_names(other))
        for name in _names(one):
            if name not in there:
                yield f"only {where}: {name}"


def _names(report: Report) -> Iterator[str]:
    for result in report.results:
        for cell in result.cells:
            yield f"{result.scenario}, {cell.group}: {cell.name}"


def _told(found: Spread) -> str:
    return f"{found.median:.4g} ({found.least:.4g} to {found.largest:.4g})"
