"""The suite of a backend's views: every case of what a store of views promises its engine."""

from __future__ import annotations

from .asking import AskingCases
from .deciding import DecidingCases
from .holding import HoldingCases
from .opening import OpeningCases
from .writing import WritingCases

__all__ = ["ViewsConformance"]


class ViewsConformance(OpeningCases, WritingCases, AskingCases, HoldingCases, DecidingCases):
    """All cases of views; abstract in how a backend is made."""
