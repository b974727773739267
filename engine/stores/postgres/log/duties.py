"""A log in PostgreSQL where each projection is run by one of the members that share it.

Rules: the store of a duty reads the log, follows it, and appends nothing: it has no session. Its
views are fenced by the members of the log and their number. The process that owns the log keeps its
session for what is no duty. Whoever runs projections stands among the members with their names, and
is no owner of a part of the log. Timers, tags and snapshots are the owner's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ....errors import StoreFailed
from ....runtime.ports import Ports
from ...contract.log import Batch, Committed
from ...contract.membership import Right, View
from ...contract.timers import BEGINNING, DuePlace, TimerKey, WaitingTimer
from ..address import Address
from ..fence import DutyFence, Fence, SessionFence
from ..line import Line, Lines
from ..views.link import Link, Place
from .followed import FollowedStore
from .members import Attendance, read_view
from .store import PostgresStore

__all__ = ["DutyAttendance", "DutyStore", "SharingStore", "runners_of"]

# Of those that decide nothing.
_VIEW: Final = Attendance.view_query.replace("ON true", "ON NOT m.decides")


class DutyAttendance(Attendance):
    """The part of one that runs projections."""

    view_query = _VIEW


async def runners_of(link: Link, place: Place) -> View:
    """Give the members that run projections; none of a log that an earlier release has left."""
    there = await link.run("SELECT to_regclass($1::text)::text", f"{place.log_schema}.members")
    if there[0][0] is None:
        return View()
    return await read_view(link.line, place.address, _VIEW)


class SharingStore(PostgresStore):
    """The log for its owner, which leaves some projections to the members."""

    def __init__(
        self, address: Address, but: frozenset[str], *, logger: logging.Logger | None = None
    ) -> None:
        """Take the names of those projections."""
        super().__init__(address, logger=logger)
        self._but = but

    @property
    def fence(self) -> Fence:
        """By its session, whoever else runs projections."""
        return SessionFence(self._session, self._but)


class DutyStore(FollowedStore):
    """The log for one member that runs the projections that a right names."""

    def __init__(
        self,
        address: Address,
        right: Right,
        others: frozenset[str] = frozenset(),
        *,
        logger: logging.Logger | None = None,
    ) -> None:
        """Take also what the same program declares besides."""
        super().__init__(address, logger=logger)
        self._fence = DutyFence(right, others)

    @property
    def fence(self) -> Fence:
        """By the members of the log."""
        return self._fence

    async def _take(self, line: Line, ports: Ports) -> None:
        """Take nothing: the log is another one's."""

    async def _keep(self, lines: Lines) -> None:  # noqa: ARG002 - there is no lease of its own
        await asyncio.Event().wait()

    async def _leave(self, line: Line) -> None:
        await line.close()

    def is_held(self) -> bool:
        """Tell that another one has the log."""
        return False

    async def append(self, batch: Batch) -> Committed:  # noqa: ARG002 - the contract's
        """Raise: a projection appends nothing."""
        raise StoreFailed(
            f"{self.address.name}: nothing is appended by who only runs projections", written=False
        )

    async def count_timers(self) -> tuple[int, int, int]:
        """Give none: they are the owner's."""
        return 0, 0, 0

    async def read_timers(
        self,
        after: TimerKey = ("", ""),  # noqa: ARG002
        *,
        timers_max: int,  # noqa: ARG002
    ) -> list[WaitingTimer]:
        """Give none: they are the owner's."""
        return []

    async def read_due(
        self,
        after: DuePlace = BEGINNING,  # noqa: ARG002
        *,
        until: int,  # noqa: ARG002
        timers_max: int,  # noqa: ARG002
    ) -> list[WaitingTimer]:
        """Give none: they are the owner's."""
        return []
