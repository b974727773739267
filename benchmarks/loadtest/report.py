"""The report of a run: the figures as JSON, and a page of HTML that stands alone.

Rules: every figure comes with the machine, the versions and the settings. The page has no script
and loads nothing; it is read in light and in dark. What was found wrong stands first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import msgspec

from ..histogram import Sample
from .book import SLICE_SECONDS, Book, Slice
from .lives import Lives, Seen
from .plot import Plot, Series, draw
from .record import Answer
from .runs import Overload, Run, Step, tell_overload, tell_step

__all__ = ["Kill", "Quarter", "Report", "page", "summary", "write_up"]

PERCENTS = (50, 90, 99, 99.9, 100)


class Kill(msgspec.Struct, frozen=True):
    """One kill and what followed; seconds."""

    at: float
    """Since the first command was due."""
    opening: float
    """In which the engine opened its store."""
    first_answer: float | None
    """From the kill to the first answer of the next life; None where that one had none."""


class Quarter(msgspec.Struct, frozen=True):
    """A quarter of a second; latencies are those of the commands that were due in it."""

    at: float
    """Its begin, in seconds since the first command was due."""
    answered: int
    overloaded: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True):
    """All that is told of a run."""

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    seconds: float
    answers: Mapping[str, int]
    repeated: int
    """Receipts that were asked for once more, and were the same."""
    events: int
    """In the log, at the end."""
    latency_ms: Mapping[str, float]
    typical_p99_ms: float
    """The median of the p99 of each quarter of a second: what kills and hiccups do not move."""
    kills: Sequence[Kill]
    steps: Sequence[Step]
    saturation: float | None
    """Of a ramp: what was run in a second, at most."""
    well: float | None
    """Of a ramp: the highest rate that was followed with its p99 below the bound."""
    overload: Overload | None
    record_us: float
    """What writing down one answer costs the engine's process."""
    findings: Sequence[str]
    quarters: Sequence[Quarter]


def write_up(
    book: Book,
    lives: Lives,
    run: Run,
    *,
    machine: Mapping[str, str],
    settings: Mapping[str, Any],
    events: int,
    record_us: float,
    findings: Sequence[str],
) -> Report:
    """Gather what there is to tell."""
    answers = dict(zip((kind.name.lower() for kind in Answer), book.answered(), strict=True))
    latency = book.latency()
    seconds = max((numbers.last_at for numbers in book.phases), default=book.began) - book.began
    return Report(
        machine=machine,
        settings=settings,
        seconds=seconds,
        answers={kind: count for kind, count in answers.items() if kind != "nothing"},
        repeated=book.repeated,
        events=events,
        latency_ms={_name(percent): latency.ms(percent) for percent in PERCENTS},
        typical_p99_ms=_typical(book),
        kills=_kills(lives.seen, book.began),
        steps=run.steps,
        saturation=run.saturation if run.steps else None,
        well=run.well if run.steps else None,
        overload=run.overload,
        record_us=record_us,
        findings=findings,
        quarters=[_quarter(n * SLICE_SECONDS, each) for n, each in enumerate(book.slices)],
    )


def _quarter(at: float, each: Slice) -> Quarter:
    p50, p99, most = each.latency.ms(50, 99, 100)
    return Quarter(at, each.answered, each.overloaded, p50, p99, most)


def _name(percent: float) -> str:
    return "max" if percent == 100 else f"p{percent:g}"


def _typical(book: Book) -> float:
    p99s = sorted(each.latency.ms(99)[0] for each in book.slices if each.latency.count)
    return p99s[len(p99s) // 2] if p99s else 0.0


def _kills(seen: Sequence[Seen], began: float) -> list[Kill]:
    kills: list[Kill] = []
    for life, following in pairwise(seen):
        if life.killed_at is None:
            continue
        first = following.first_answer_at
        waited = None if first is None else first - life.killed_at
        kills.append(Kill(life.killed_at - began, following.opening, waited))
    return kills


def summary(report: Report) -> list[str]:
    """Give the report as lines of text."""
    answers = ", ".join(f"{count:,} {kind}" for kind, count in report.answers.items() if count)
    latency = ", ".join(f"{name} {value:,.2f}" for name, value in report.latency_ms.items())
    typical = f"p99 of the median quarter second {report.typical_p99_ms:,.2f}"
    lines = [
        "; ".join(f"{name} {value}" for name, value in report.machine.items()),
        "; ".join(f"{name} {value}" for name, value in report.settings.items()),
        f"{report.seconds:.1f} s: {answers}; {report.repeated:,} receipts asked for again",
        f"latency from the moment a command was due, ms: {latency}; {typical}",
        f"writing the record costs {report.record_us:.2f} us an answer",
    ]
    waits = sorted(k.first_answer for k in report.kills if k.first_answer is not None)
    if report.kills:
        told = f"median {waits[len(waits) // 2]:.2f} s, at most {waits[-1]:.2f} s" if waits else "-"
        lines.append(f"{len(report.kills)} kills; from a kill to the next answer {told}")
    if report.steps:
        lines += ["ramp:", *(f"  {tell_step(step)}" for step in report.steps)]
        bound = report.settings["p99_ms_max"]
        lines.append(f"p99 below {bound:g} ms up to {report.well or 0:,.0f}/s")
        lines.append(f"saturation: {report.saturation or 0:,.0f}/s")
    if report.overload is not None:
        lines += tell_overload(report.overload)
    return lines


# -- the page -------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --page: #ffffff; --faint: #d8d8dc;
  --s0: #0b6bcb; --s1: #c2410c; --s2: #7c3aed; --s3: #0f766e; --bad: #c81e1e; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6ea; --page: #17171a; --faint: #3a3a40;
  --s0: #60a5fa; --s1: #fb923c; --s2: #c4a1ff; --s3: #5eead4; --bad: #ff7b72; --good: #4ade80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; } figure { margin: 1.5rem 0; } svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--text); } .grid { stroke: var(--faint); }
.line { fill: none; stroke-width: 1.5; } .mark { stroke: var(--bad); stroke-dasharray: 3 3; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); }
.line.s2 { stroke: var(--s2); } .line.s3 { stroke: var(--s3); }
.key { margin-left: 1em; } .key::before { content: "\\2014\\00a0"; font-weight: bold; }
.key.s0::before { color: var(--s0); } .key.s1::before { color: var(--s1); }
.key.s2::before { color: var(--s2); } .key.s3::before { color: var(--s3); }
.key.killed::before { color: var(--bad); } .bad { color: var(--bad); } .good { color: var(--good); }
"""


def page(report: Report, book: Book, lives: Lives) -> str:
    """Give the report as a page."""
    verdict = '<p class="good"><b>Every promise held.</b></p>'
    if report.findings:
        text = escape("\n".join(report.findings))
        verdict = f'<p class="bad"><b>Broken:</b></p><pre class="bad">{text}</pre>'
    plots = "\n".join(draw(plot) for plot in _plots(report, book, lives))
    told = escape("\n".join(summary(report)))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Load test</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>Load test</h1>{verdict}{plots}<pre>{told}</pre></html>\n"
    )


def _plots(report: Report, book: Book, lives: Lives) -> list[Plot]:
    marks = [kill.at for kill in report.kills]
    told = [(life, n.at - book.began, n) for life, n in lives.numbers if n.at >= book.began]
    quantiles = [
        Series(name, _latency(book, percent))
        for name, percent in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("max", 100))
    ]
    return [
        Plot("Latency, ms, by the moment a command was due", quantiles, True, marks),
        Plot("Commands a second", _rates(book), marks=marks),
        Plot(
            "Commands and events that wait",
            [
                Series("commands in the engine", [(at, n.waiting) for _, at, n in told]),
                Series("commands due and not sent", [(at, n.late) for _, at, n in told]),
                Series("events the slowest view lags", [(at, n.lag) for _, at, n in told]),
            ],
            marks=marks,
        ),
        Plot("Commits (each one sync) and batches", _commits(lives, book.began), True, marks),
        Plot(
            "Memory", [Series("resident, MiB", [(at, n.rss / 2**20) for _, at, n in told])], False
        ),
    ]


def _latency(book: Book, percent: float) -> list[tuple[float, float | None]]:
    def value(of: Sample) -> float | None:
        return of.ms(percent)[0] if of.count else None

    return [((n + 0.5) * SLICE_SECONDS, value(each.latency)) for n, each in enumerate(book.slices)]


def _rates(book: Book) -> list[Series]:
    places = [(n + 0.5) * SLICE_SECONDS for n in range(len(book.slices))]
    run = [each.answered / SLICE_SECONDS for each in book.slices]
    refused = [each.overloaded / SLICE_SECONDS for each in book.slices]
    due: list[tuple[float, float | None]] = []
    for numbers in book.phases:
        phase = numbers.phase
        begin = phase.begin - book.began
        due += [(begin, phase.rate), (begin + phase.seconds, phase.rate), (begin, None)]
    series = [Series("run or rejected", list(zip(places, run, strict=True))), Series("due", due)]
    if any(refused):
        series.append(Series("overloaded", list(zip(places, refused, strict=True))))
    return series


def _commits(lives: Lives, began: float) -> list[Series]:
    commits: list[tuple[float, float | None]] = []
    batches: list[tuple[float, float | None]] = []
    for (life, before), (next_life, now) in pairwise(lives.numbers):
        if now.at < began or now.at <= before.at:
            continue
        count = now.commits - before.commits
        gap = life != next_life or not count
        commits.append((now.at - began, None if gap else count / (now.at - before.at)))
        batches.append((now.at - began, None if gap else (now.events - before.events) / count))
    return [Series("commits a second", commits), Series("events a commit", batches)]
