"""`python -m benchmarks chart A.json NAME`: draws the headline figures as NAME.svg and NAME.png.

Rules: a panel per group, a bar per cell, as long as the median, with a line from the least to the
largest round; floors and peers are grey; every axis begins at 0. Needs matplotlib
(`foldline[bench]`), which only `draw` imports.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from .report import Report, Spread, figures, head, is_reference, read, spread

__all__ = ["Bar", "Panel", "draw", "main", "panels"]

_COLUMNS = 2


class Bar(msgspec.Struct, frozen=True):
    """One cell."""

    name: str
    figure: Spread
    reference: bool
    """Whether it is a floor or a peer."""


class Panel(msgspec.Struct, frozen=True):
    """The headline figures of one group."""

    title: str
    axis: str
    bars: Sequence[Bar]


def main(arguments: Sequence[str]) -> int:
    """Draw a report that was kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks chart", description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("name", type=Path, help="without .svg or .png")
    options = parser.parse_args(arguments)
    try:
        found = read(options.report)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"not a report that `--json` wrote: {error}", file=sys.stderr)
        return 2
    draw(found, options.name)
    return 0


def panels(report: Report) -> list[Panel]:
    """Give what is drawn."""
    drawn: list[Panel] = []
    for result in report.results:
        column = next(c for c in result.columns if c.name == result.headline)
        for group in dict.fromkeys(cell.group for cell in result.cells):
            bars = [
                Bar(cell.name, spread(values), is_reference(result, cell))
                for cell in result.cells
                if cell.group == group and (values := figures(cell, result.headline))
            ]
            if bars:
                drawn.append(Panel(f"{result.scenario}: {group}", head(column), bars))
    return drawn


def draw(report: Report, name: Path) -> None:
    """Write both files; raises ImportError, with what to install, where matplotlib is missing."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("a chart needs matplotlib: pip install 'foldline[bench]'") from error
    drawn = panels(report)
    lines = [drawn[first : first + _COLUMNS] for first in range(0, len(drawn), _COLUMNS)]
    heights = [max(len(panel.bars) for panel in line) * 0.3 + 0.8 for line in lines]
    figure = matplotlib.Figure(figsize=(7 * _COLUMNS, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(
        len(lines), _COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for place in axes.flat[len(drawn) :]:
        place.set_axis_off()
    for place, panel in zip(axes.flat, drawn, strict=False):
        _draw_panel(place, panel)
    about = report.machine
    figure.suptitle(f"{about['commit']}, {about['processor']}, {about['begun']}", fontsize=9)
    for kind in ("svg", "png"):
        figure.savefig(name.with_name(f"{name.name}.{kind}"), dpi=150)


def _draw_panel(place: Any, panel: Panel) -> None:
    names = [bar.name for bar in panel.bars]
    medians = [bar.figure.median for bar in panel.bars]
    below = [bar.figure.median - bar.figure.least for bar in panel.bars]
    above = [bar.figure.largest - bar.figure.median for bar in panel.bars]
    colors = ["#b8b8b8" if bar.reference else "#2f6f9f" for bar in panel.bars]
    place.barh(names, medians, xerr=(below, above), color=colors, ecolor="#404040", capsize=2)
    place.invert_yaxis()
    place.set_xlim(left=0)
    place.set_title(panel.title, fontsize=9, loc="left")
    place.set_xlabel(panel.axis, fontsize=8)
    place.tick_params(labelsize=8)
