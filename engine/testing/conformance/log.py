"""The suite of a log: every case of what a store promises of events, streams and snapshots."""

from __future__ import annotations

from .appending import AppendingCases
from .reading import ReadingCases

__all__ = ["StoreConformance"]


class StoreConformance(AppendingCases, ReadingCases):
    """All cases of a log; abstract in how a store is made."""
