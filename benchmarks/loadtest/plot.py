"""Plots as inline SVG: lines over time, with marks; nothing but text comes out.

Rules: colours are those of the page's style sheet (classes `s0`, `s1` …), so that a plot is read
in light and in dark. Every series is told in the legend with its unit; gaps stay gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

__all__ = ["Plot", "Series", "draw"]

WIDTH, HEIGHT = 880, 230
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 12, 28

Point = tuple[float, float | None]
"""Seconds and a value; None where there is none."""


class Series(msgspec.Struct, frozen=True):
    """One line."""

    name: str
    points: Sequence[Point]


class Plot(msgspec.Struct, frozen=True):
    """Several lines over the same time."""

    title: str
    series: Sequence[Series]
    logarithmic: bool = False
    marks: Sequence[float] = ()
    """Seconds at which something happened that all lines show."""


class _Axes:
    """Where a point of a plot stands in the picture."""

    def __init__(self, plot: Plot) -> None:
        points = [point for series in plot.series for point in series.points]
        values = [value for _, value in points if value is not None]
        self.seconds = max([second for second, _ in points] + list(plot.marks), default=1.0) or 1.0
        self.logarithmic = plot.logarithmic
        self.high = 1.05 * max(values, default=1.0) or 1.0
        self.low = 0.0
        if plot.logarithmic:
            positive = [value for value in values if value > 0]
            self.low = 10.0 ** math.floor(math.log10(min(positive, default=1.0)))
            self.high = 10.0 ** math.ceil(math.log10(max(self.high, self.low * 10)))

    def x(self, second: float) -> float:
        return LEFT + second / self.seconds * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = value / self.high
        if self.logarithmic:
            span = math.log10(self.high / self.low)
            share = math.log10(max(value, self.low) / self.low) / span
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = round(math.log10(self.high / self.low))
            return [self.low * 10.0**n for n in range(decades + 1)]
        step = _round_step(self.high / 6)
        return [n * step for n in range(int(self.high / step) + 1)]


def draw(plot: Plot) -> str:
    """Give a plot as a figure of HTML."""
    axes = _Axes(plot)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">']
    for tick in axes.ticks():
        y = axes.y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.10g}</text>')
    step = _round_step(axes.seconds / 8)
    for n in range(int(axes.seconds / step) + 1):
        x = axes.x(n * step)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{n * step:g} s</text>'
        )
    for mark in plot.marks:
        x = axes.x(mark)
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for number, series in enumerate(plot.series):
        parts.append(f'<path class="line s{number}" d="{_path(axes, series)}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span class="key s{number}">{escape(series.name)}</span>'
        for number, series in enumerate(plot.series)
    )
    if plot.marks:
        legend += '<span class="key killed">killed</span>'
    title = f"<figcaption><b>{escape(plot.title)}</b> {legend}</figcaption>"
    return f"<figure>{title}{''.join(parts)}</figure>"


def _path(axes: _Axes, series: Series) -> str:
    parts: list[str] = []
    gap = True
    for second, value in series.points:
        if value is not None:
            parts.append(f"{'M' if gap else 'L'}{axes.x(second):.1f} {axes.y(value):.1f}")
        gap = value is None
    return "".join(parts)


def _round_step(least: float) -> float:
    """Give 1, 2 or 5 times a power of ten, no smaller than `least`."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(power * m for m in (1, 2, 5, 10) if power * m >= least * 0.999)
