"""An engine by which a process runs some projections of a log that it shares, and nothing else.

Rules: it runs what its right names, as long as that stands. Its supervisor starts and ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...stores.contract.membership import Right
from ...wiring import Wiring

__all__ = ["FoldingEngine", "MakeFolding"]

MakeFolding: TypeAlias = Callable[[Right, Callable[[], None]], Wiring]
"""Puts an engine together for a right; it is given what tells that a connection was refused."""


class FoldingEngine:
    """An engine that runs some projections, from its start to its end."""

    def __init__(self, right: Right, wiring: Wiring) -> None:
        self.right = right
        self.wiring = wiring
        self.is_open = False

    @property
    def is_past(self) -> bool:
        """Whether it writes nothing more: its right is lost, or it has ended by itself."""
        task = self.wiring.supervisor.task
        return self.right.is_lost or task is None or task.done()
