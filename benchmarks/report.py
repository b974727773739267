"""What a run found: kept as JSON with its conditions and every round, and told as a table.

Rules: a figure is the median over the rounds, always beside its least and its largest; a ratio is
taken within each round, before the median. Nothing is measured or judged here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from .scenario import Column

__all__ = [
    "CellResult",
    "Report",
    "Result",
    "Spread",
    "figures",
    "head",
    "is_reference",
    "ratios",
    "read",
    "spread",
    "table",
    "write",
]


class CellResult(msgspec.Struct, frozen=True):
    """A cell and what it gave."""

    group: str
    name: str
    against: Sequence[str]
    rounds: Sequence[Mapping[str, float]]
    """Of each round, in order, the figures by column name."""


class Result(msgspec.Struct, frozen=True):
    """One scenario, run."""

    scenario: str
    title: str
    conditions: Mapping[str, str]
    columns: Sequence[Column]
    headline: str
    cells: Sequence[CellResult]
    notes: Sequence[str]


class Report(msgspec.Struct, frozen=True):
    """One run of the harness."""

    machine: Mapping[str, str]
    """The machine, the versions, the commit, the time."""
    results: Sequence[Result]


class Spread(msgspec.Struct, frozen=True):
    """What the rounds gave of one figure."""

    median: float
    least: float
    largest: float


def spread(values: Sequence[float]) -> Spread:
    """Give the median with the least and the largest."""
    return Spread(statistics.median(values), min(values), max(values))


def figures(cell: CellResult, column: str) -> list[float]:
    """Give a cell's figures of one column; none where it leaves the column out."""
    return [figures[column] for figures in cell.rounds if column in figures]


def ratios(result: Result, cell: CellResult, reference: str, column: str) -> list[float]:
    """Give a cell's figures divided by those of another of its group, round by round."""
    other = next(c for c in result.cells if (c.group, c.name) == (cell.group, reference))
    return [
        mine[column] / theirs[column]
        for mine, theirs in zip(cell.rounds, other.rounds, strict=True)
        if mine.get(column) is not None and theirs.get(column)
    ]


def is_reference(result: Result, cell: CellResult) -> bool:
    """Whether it is a floor or a peer: others are a ratio to it, and it is one to nothing."""
    named = {name for other in result.cells if other.group == cell.group for name in other.against}
    return cell.name in named and not cell.against


def write(report: Report, path: Path) -> None:
    """Keep a report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def read(path: Path) -> Report:
    """Give a report that was kept; raises msgspec.ValidationError for another file."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def table(result: Result, machine: Mapping[str, str]) -> str:
    """Give a scenario as text: figures by group, ratios below them, and all conditions."""
    return "\n".join(_lines(result, machine))


def _lines(result: Result, machine: Mapping[str, str]) -> Iterator[str]:
    headline = next(column for column in result.columns if column.name == result.headline)
    better = f", {headline.better} is better" if headline.better else ""
    yield f"{result.scenario}: {result.title}"
    yield f"  ratios: of {head(headline)}{better}"
    width = max(len(cell.name) for cell in result.cells) + 2
    for group in dict.fromkeys(cell.group for cell in result.cells):
        cells = [cell for cell in result.cells if cell.group == group]
        shown = [c for c in result.columns if any(figures(cell, c.name) for cell in cells)]
        heads = (f"{head(column):>{_width(column, result)}}" for column in shown)
        yield ""
        yield f"  {group:<{width + 2}}{''.join(heads)}"
        for cell in cells:
            told = (f"{_told(cell, c, result):>{_width(c, result)}}" for c in shown)
            yield f"    {cell.name:<{width}}{''.join(told)}"
            yield from _ratio_lines(result, cell)
    yield ""
    for name, value in result.conditions.items():
        yield f"  {name}: {value}"
    yield f"  machine: {'; '.join(f'{name} {value}' for name, value in machine.items())}"
    for note in result.notes:
        yield f"  left out: {note}"


def _ratio_lines(result: Result, cell: CellResult) -> Iterator[str]:
    for reference in cell.against:
        if values := ratios(result, cell, reference, result.headline):
            found = spread(values)
            around = f" ({_ratio(found.least)} to {_ratio(found.largest)})"
            yield f"      {_ratio(found.median)} of {reference}{around if len(values) > 1 else ''}"


def head(column: Column) -> str:
    """Give a column's name with its unit."""
    return f"{column.name}{'' if column.unit.startswith('/') else ' '}{column.unit}".strip()


def _width(column: Column, result: Result) -> int:
    told = (len(_told(cell, column, result)) for cell in result.cells)
    return max(len(head(column)), *told) + 2


def _told(cell: CellResult, column: Column, result: Result) -> str:
    values = figures(cell, column.name)
    if not values:
        return ""
    found = spread(values)
    median = f"{found.median:,.{column.digits}f}"
    if column.name != result.headline or len(values) == 1:
        return median
    return f"{median} ({found.least:,.{column.digits}f} to {found.largest:,.{column.digits}f})"


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:,.1f}x"
