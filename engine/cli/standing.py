"""How the standing of projections is shown: a table for people, JSON lines for programs.

Rules: what needs attention is said below its projection, in words. Nothing is looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..outside.standings import BuildStanding, Standing
from ..statistics import ProjectionFailure
from .layout import time_text
from .printing import counted, escaped
from .tables import Column, Table, numbers

__all__ = ["json_line", "table_of"]

_STYLES: Final = {"live": "green", "stopped": "bold red", "paused": "yellow", "building": "cyan"}


def json_line(standing: Standing) -> str:
    """Give one JSON object."""
    shown: dict[str, Any] = msgspec.to_builtins(standing)
    shown["requests"] = [
        {**request, "asked": time_text(request["asked"])} for request in shown["requests"]
    ]
    return escaped(msgspec.json.encode(shown).decode())


def table_of(standings: Sequence[Standing], *, traceback: bool = False) -> Table:
    """Give a table, with what needs attention said of each projection."""
    texts = (Column("PROJECTION"), *numbers(VERSION=0), Column("STATE", styles=_STYLES))
    rest = {"POSITION": 0, "LAG": 0, "SECONDS": 0, "EVENTS/S": 0, "PARKED": 0}
    table = Table(*texts, *numbers(**rest))
    for standing in standings:
        table.add(
            standing.name,
            _or_dash(standing.version, "d"),
            standing.state,
            f"{standing.position:,}",
            f"{standing.lag_events:,}",
            _or_dash(standing.lag_seconds, ",.1f"),
            _or_dash(standing.events_per_second, ",.0f"),
            f"{standing.parked:,}",
            notes=_notes(standing, traceback=traceback),
        )
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _notes(standing: Standing, *, traceback: bool) -> Iterator[str]:
    if standing.ahead_events:
        yield (
            f"its tables are {standing.ahead_events:,} events ahead of the log, which was restored "
            f"or replaced: they are not to be believed. An engine folds them anew when it starts"
        )
    if standing.failure is not None:
        yield from _failure_notes(standing.failure, traceback=traceback)
    for build in standing.builds:
        yield _build_note(build)
        if build.failure is not None:
            yield from _failure_notes(build.failure, traceback=traceback)
    for request in standing.requests:
        yield (
            f"request {request.number}, {request.kind}, by {request.principal}, "
            f"{request.state} since {time_text(request.asked)}"
        )


def _failure_notes(failure: ProjectionFailure, *, traceback: bool) -> Iterator[str]:
    what = f", {failure.event} of {failure.stream}" if failure.event else ""
    lines = failure.cause.rstrip().splitlines() or ["(no cause was noted)"]
    yield f"stopped at position {failure.position:,}{what}: {lines[-1].strip()}"
    if traceback:
        yield from (f"  {line}" for line in lines)


def _build_note(build: BuildStanding) -> str:
    text = f"build {build.number}, version {build.version}: {build.state}"
    if build.state == "former":
        return f"{text}, at {build.position:,}"
    by = " by another process" if build.by_another_process else ""
    text = f"{text}{by}, at {build.position:,}, {counted(build.lag_events, 'event')} to go"
    if build.events_per_second:
        text += f", {build.events_per_second:,.0f} events/s"
    if build.seconds_left is not None:
        text += f", {build.seconds_left:,.0f} s left"
    return text
