"""Returns: what comes back to the shop, from whom, and what is refunded.

Rules: a return is recorded once and stays as it is; it has at least one line, and its quantities
are positive, being the pieces that came back. It names no order: the shop does not know which one
the pieces came from. No clock, no I/O.
"""

from __future__ import annotations

from engine import Aggregate, Command, Event, Id, Rejected, applies, handles

from .lines import Buyer, Line, refuse_moment, refuse_unsound, total_of
from .money import Money

__all__ = ["RecordReturn", "Return", "ReturnRecorded"]


class RecordReturn(Command):
    """Take these lines back. A product may come back in several lines, at one price or more."""

    return_id: Id
    buyer: Buyer
    invoiced_at: str
    """The shop's own time, ISO 8601 without a zone."""
    lines: tuple[Line, ...]


class ReturnRecorded(Event, name="return-recorded", version=1):
    """Something came back."""

    buyer: Buyer
    invoiced_at: str
    lines: tuple[Line, ...]
    total: Money
    """What is refunded."""


class Return(Aggregate, kind="return"):
    """One return."""

    recorded: bool = False
    total: Money = 0

    @handles
    def record(self, command: RecordReturn) -> ReturnRecorded:
        """Take a return with sound lines, once."""
        if not command.lines:
            raise Rejected("return-empty", f"return {self.id} has no lines")
        refuse_moment(command.invoiced_at)
        refuse_unsound(command.lines)
        if self.recorded:
            raise Rejected("return-exists", f"return {self.id} is recorded already")
        return ReturnRecorded(
            command.buyer, command.invoiced_at, command.lines, total_of(command.lines)
        )

    @applies
    def be_recorded(self, event: ReturnRecorded) -> None:
        """Be recorded."""
        self.recorded = True
        self.total = event.total
