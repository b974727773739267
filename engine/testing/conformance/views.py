"""The suites of a backend: all cases of its views, and of what other processes have of it.

A backend that other processes can open passes `BackendConformance`; one whose log its process keeps
to itself passes `OwnConformance`.
"""

from __future__ import annotations

from .asking import AskingCases
from .deciding import DecidingCases
from .holding import HoldingCases
from .opening import OpeningCases
from .operations import OperationsCases
from .outside import OutsideCases, OwnCases
from .writing import WritingCases

__all__ = ["BackendConformance", "OwnConformance", "ViewsConformance"]


class ViewsConformance(OpeningCases, WritingCases, AskingCases, HoldingCases, DecidingCases):
    """All cases of views; abstract in how a backend is made."""


class BackendConformance(ViewsConformance, OutsideCases, OperationsCases):
    """All cases of a backend that other processes open too; abstract in where its copy goes."""


class OwnConformance(ViewsConformance, OwnCases):
    """All cases of a backend that is there for its own process alone."""
