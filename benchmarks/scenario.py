"""What a benchmark is made of: columns, cells and a scenario. Plain data; nothing is run here.

Rules: a cell is measured once a round, in turn with the others, so that a slow minute of the
machine falls on all alike. A figure that is worth telling is a ratio to another cell of its group
in the same round: a floor, or a peer that does the same work at the same durability. A cell opens
again what it wrote and counts it, and raises `Wrong` where that is not what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["Cell", "Column", "Scenario", "Wrong"]


class Wrong(Exception):
    """What a cell left behind is not what it was told had been done: its figures mean nothing."""


class Column(msgspec.Struct, frozen=True):
    """One figure that every cell of a scenario gives, or may leave out."""

    name: str
    unit: str
    better: Literal["more", "less", ""] = ""
    """Which way is better; nothing where it only explains the others."""
    digits: int = 0
    """After the point, in the table."""


class Cell(msgspec.Struct, frozen=True):
    """One thing that is measured."""

    group: str
    """What it has in common with those it is compared to: `sqlite, 256 clients`."""
    name: str
    """`floor`, `engine keyed`, `eventsourcing 9.5`."""
    measure: Callable[[Path], Mapping[str, float]]
    """Run once in an empty folder that is removed afterwards; gives figures by column name."""
    against: Sequence[str] = ()
    """Names of the cells of its group that it is a ratio to; a floor has none. The first is its
    floor, by which `compare` judges it."""


class Scenario(msgspec.Struct, frozen=True):
    """Cells with the same columns, and what must be said with their figures."""

    name: str
    title: str
    """One line: what is done, from where to where it is timed."""
    conditions: Mapping[str, str]
    """Durability, batches, work, loop: what no table shows."""
    columns: Sequence[Column]
    headline: str
    """The column whose ratios are told and charted."""
    cells: Sequence[Cell]
    notes: Sequence[str] = ()
    """What was left out, and why."""
