"""The suite of a log: all that a store promises of events, claims, tags, streams and snapshots."""

from __future__ import annotations

from .appending import AppendingCases
from .claiming import ClaimingCases
from .joint import JointCases
from .lacking import LackingCases
from .reading import ReadingCases
from .tagging import TaggingCases
from .timing import TimingCases

__all__ = ["StoreConformance"]


class StoreConformance(
    AppendingCases,
    ClaimingCases,
    JointCases,
    TaggingCases,
    TimingCases,
    ReadingCases,
    LackingCases,
):
    """All cases of a log; abstract in how a store is made.

    A store that says what it lacks (`foldline.stores.contract.traits.Partial`) passes over the
    cases of that, by name, and must refuse it.
    """
