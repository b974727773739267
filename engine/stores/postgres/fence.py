"""The fence of views in PostgreSQL: what a transaction must find in the log's schema to count.

Rules: whoever writes views names in the transaction itself by what right it does so: the session
that has the log, or the members of the log as it knows them. Where that is not so any more, nothing
is written. A process that builds beside an engine has neither: its name stands at the build. Where
each projection is run by one member, the process that owns the log leaves them alone, and one that
would run them all by itself writes nothing while such a member is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ...errors import StoreFailed
from ..contract.membership import Right, ViewChanged

__all__ = ["AloneFence", "DutyFence", "Fence", "SessionFence"]

_SESSION: Final = "SELECT 1 FROM {log}.sessions WHERE session = $1 AND live"
_NO_DUTIES: Final = (
    " AND NOT EXISTS (SELECT 1 FROM {log}.members "
    "WHERE NOT decides AND lease_until > clock_timestamp())"
)
_DUTY: Final = (
    "SELECT 1 FROM {log}.membership AS v, {log}.members AS m WHERE v.view = $1 AND m.member = $2"
)


class Fence(Protocol):
    """By what right views are written."""

    query: str
    """Gives a row where the right stands; `{log}` is the schema of the log."""
    locks: bool
    """Whether who decides something, or opens the views, first waits for others who do."""
    others: frozenset[str]
    """What the same program declares, and other engines of it run."""

    @property
    def values(self) -> Sequence[int]:
        """What the query takes."""
        ...

    def takes(self, projection: str) -> bool:
        """Tell whether what others ask of a projection is done by this one."""
        ...

    def slices(self, projection: str, slices: int) -> Sequence[int] | None:
        """Give which slices of it this one runs; None for all of them, and what decides on them."""
        ...

    def fell(self, name: str) -> StoreFailed:
        """Note that the right was found not to stand; give what is raised, of the views' name."""
        ...


class SessionFence:
    """By the session that has the log; what others run of the views is named `but`."""

    query = _SESSION
    locks = False
    _lost = "another one has the log"

    def __init__(self, session: int, but: frozenset[str] = frozenset()) -> None:
        self.values: Sequence[int] = (session,)
        self.others = but

    def takes(self, projection: str) -> bool:
        """Tell whether nobody else runs it."""
        return projection not in self.others

    def slices(self, projection: str, slices: int) -> Sequence[int] | None:  # noqa: ARG002
        """Give that it runs all of them."""
        return None

    def fell(self, name: str) -> StoreFailed:
        """Give what is raised: the store hears of it by itself."""
        return StoreFailed(
            f"the views in {name} are not written by this engine any more: {self._lost}. Nothing "
            f"was written",
            written=False,
            passes=True,
        )


class AloneFence(SessionFence):
    """By the session that has the log, as long as no member runs projections of it."""

    query = _SESSION + _NO_DUTIES
    _lost = (
        "another one has the log, or members of it run its projections, which have "
        "share_projections=True: give all engines of the log the same"
    )


class DutyFence:
    """By the number of the members and one's own row among them."""

    query = _DUTY
    locks = True

    def __init__(self, right: Right, others: frozenset[str] = frozenset()) -> None:
        self._right = right
        self.others = others

    @property
    def values(self) -> Sequence[int]:
        """The number by which this member acts, and its own."""
        return self._right.number, self._right.member

    def takes(self, projection: str) -> bool:
        """Tell whether this member runs all of it; if it leads it, its slices are gathered."""
        return self._right.has_all(projection)

    def slices(self, projection: str, slices: int) -> Sequence[int] | None:
        """Give those that this member runs, where others run the rest."""
        if projection in self._right.names:
            return None
        return self._right.slices(projection, slices)

    def fell(self, name: str) -> StoreFailed:
        """Have the members looked at; give what is raised."""
        self._right.part.look()
        return ViewChanged(name, self._right.number)
