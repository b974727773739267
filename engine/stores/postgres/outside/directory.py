"""Who has a log in PostgreSQL, asked by processes that would share it.

Rules: each look is one statement. Nothing is waited for longer than an owner would have to renew
its lease: whoever asks does so again. Nothing is made where there is no log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ....runtime.ports import Ports
from ...contract.meeting import Listed, Owned
from ..address import Address
from ..driver import driver_of
from ..failures import sqlstate_of
from ..line import Line, Lines
from ..log.leases_sql import seconds_left
from ..log.session import end_session, is_too_long, mend_leases, read_holder

__all__ = ["OWNER", "PostgresOwnerDirectory"]

_PATIENCE_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 1.0
_NOT_THERE: Final = ("42P01", "3F000", "42703")
"""No table, no schema, and no such column of a table that an older release made."""
_LEFT: Final = seconds_left("s")
OWNER: Final = (
    "SELECT s.session, a.log_id, s.holder, " + _LEFT + " "
    "FROM {s}.sessions AS s, {s}.about AS a WHERE s.live"
)

_MEMBERS: Final = (
    "SELECT s.member, s.holder, s.decides, v.view - s.view_seen, "  # noqa: S608 - texts of this file
    "extract(epoch FROM clock_timestamp() - s.joined)::double precision, " + _LEFT + ", "
    "coalesce((SELECT max(e.position) FROM {s}.events AS e), 0) "
    "FROM {s}.membership AS v, {s}.members AS s ORDER BY s.member"
)


class PostgresOwnerDirectory:
    """The sessions of the log at an address."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self.patience_seconds = address.patience_seconds
        self._address = msgspec.structs.replace(address, patience_seconds=_PATIENCE_SECONDS)
        seconds = max(address.lease_seconds / 3, _ANSWER_SECONDS)
        self._lines = Lines(driver_of(ports), self._address, answer_seconds=seconds)
        self._query = address.sql(OWNER)

    @property
    def name(self) -> str:
        """The URL of the log without user and password."""
        return self._address.name

    @property
    def lease_seconds(self) -> float:
        """How long a lease is."""
        return self._address.lease_seconds

    async def owner(self) -> Owned | None:
        """Give who has the log; None where nobody has, or there is no log yet."""
        return await self._lines.run(self._owner)

    async def _owner(self, line: Line) -> Owned | None:
        try:
            rows = await line.fetch(self._query, self.lease_seconds)
        except Exception as error:
            if sqlstate_of(error) in _NOT_THERE:
                return None
            raise
        if not rows:
            return None
        session, log_id, text, left = rows[0]
        if is_too_long(self._address, left):
            await mend_leases(line, self._address)  # the next look tells
        holder, address = read_holder(text)
        return Owned(session, log_id, holder, address, left)

    async def members(self) -> Sequence[Listed]:
        """Give who is among the members; empty where the log has no table of them yet."""
        return await self._lines.run(self._members)

    async def _members(self, line: Line) -> Sequence[Listed]:
        try:
            rows = await line.fetch(self._address.sql(_MEMBERS), self.lease_seconds)
        except Exception as error:
            if sqlstate_of(error) in _NOT_THERE:
                return ()
            raise
        return [
            Listed(member, *read_holder(text), decides, max(0, behind), since, left, end)
            for member, text, decides, behind, since, left, end in rows
        ]

    async def strike(self, session: int) -> None:
        """Let the log of a session be free, whose process is dead for certain."""
        await self._lines.run(lambda line: end_session(line, self._address, session))

    async def close(self) -> None:
        """Close the connections."""
        await self._lines.close()
