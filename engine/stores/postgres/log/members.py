"""The members of a log in PostgreSQL: their table, its number, and one process's part in it.

Rules: all times are by the clock of the database. The number, the *view*, changes under the lock
that an append takes, whenever a row comes or goes; a row whose lease is over goes when another
member sees that. A member renews its lease by a task of its own, and counts it from before it asked
for it, by its own monotonic clock. It tells which view it acts by only after it has heeded it.
Nobody is declared dead for one lease after the server started: nobody could renew anything before.
A member that was declared dead joins anew, as another one. So does each where the number went back,
as by a failover that lost something: the same number may stand for others then. So does one whose
own number has another process: a database that forgot it gives it again. Nothing here writes
an event.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import msgspec

from ....errors import EngineError
from ....runtime.ports import Ports
from ...contract.membership import Heed, Present, View
from ..address import Address
from ..driver import driver_of
from ..line import Line, Lines
from .leases_sql import seconds_left
from .session import fetch_numbered, is_too_long, mend_leases, read_holder, read_shares

__all__ = ["Attendance", "read_view"]

_JOIN: Final = "SELECT joined, number FROM {s}.join_members_1($1, $2)"
_RENEW: Final = "SELECT {s}.renew_member_1($1, $2, $3)"
_LEAVE: Final = "SELECT {s}.leave_members_1($1, $2)"
# In one statement, so that number and rows are of one moment.
_VIEW: Final = (
    "SELECT v.view, m.member, m.holder, m.view_seen, "  # noqa: S608 - texts of ours
    + seconds_left("m")
    + " FROM {s}.membership AS v LEFT JOIN {s}.members AS m ON true ORDER BY m.member"
)
_RENEWALS: Final = 3
"""In the time of one lease."""
_RENEWAL_SECONDS: Final = 1.0
"""How long one of them may take at least."""
_LOOK_SECONDS: Final = 0.1
"""Between two looks at the members."""
_SOON_SECONDS: Final = 0.01
"""The same, while a view is not seen by all."""
_PATIENCE_SECONDS: Final = 0.1
_LEAVE_SECONDS: Final = 2.0


class Attendance:
    """One process's part in the membership of a log; see `Attending`."""

    view_query = _VIEW

    def __init__(
        self, address: Address, ports: Ports, holder: str, heed: Heed, logger: logging.Logger
    ) -> None:
        """Take what the process is called, with its address as `holder_text` gives it."""
        self._address = address
        self._now = ports.clock.monotonic
        self._failpoint = ports.failpoint
        self._holder = holder
        self._heed = heed
        self._logger = logger
        seconds = max(address.lease_seconds / _RENEWALS, _RENEWAL_SECONDS)
        # Whoever looks does so again, and an answer that comes late is of no use.
        brief = msgspec.structs.replace(address, patience_seconds=_PATIENCE_SECONDS)
        self._lines = Lines(driver_of(ports), brief, answer_seconds=seconds)
        self._wake = asyncio.Event()
        self._renewed_at = 0.0
        """Before the last renewal was asked for."""
        self._seen = 0
        """The view that was heeded last."""
        self._is_dead = False
        self.member = 0
        self.view = View()

    def is_held(self) -> bool:
        """Tell whether the lease runs, counted from before it was asked for."""
        return self.seconds_left() > 0

    def seconds_left(self) -> float:
        """Give what is left of it."""
        if self.member == 0 or self._is_dead:
            return 0.0
        return max(0.0, self._renewed_at + self._address.lease_seconds - self._now())

    def look(self) -> None:
        """Look at once."""
        self._wake.set()

    async def join(self) -> None:
        """Become a member, and be told of the first view."""
        await self._lines.run(self._join)
        await self._see()

    async def _join(self, line: Line) -> None:
        asked, lease = self._now(), self._address.lease_seconds
        # Where the answer is lost it joins twice: the other row goes when its lease is over.
        query = self._address.sql(_JOIN)
        ((self.member, _),) = await fetch_numbered(line, query, self._holder, lease)
        self._renewed_at = asked

    async def run(self) -> None:
        """Look and renew, until this member was declared dead."""
        while not self._is_dead:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.turn()
            except EngineError as error:
                self._logger.warning("the members of the log cannot be seen: %s", error)
                await asyncio.sleep(_LOOK_SECONDS)

    def _rest(self) -> float:
        known = self.view
        return _LOOK_SECONDS if known.is_seen_by_all(known.number) else _SOON_SECONDS

    async def turn(self) -> None:
        """Look once, renew what is due, and let those go whose leases are over."""
        await self._see()
        if self._now() >= self._renewed_at + self._address.lease_seconds / _RENEWALS:
            await self._lines.run(self._renew)
            if any(is_too_long(self._address, one.seconds_left) for one in self.view.members):
                await self._lines.run(self._mend)
        for one in self.view.members:
            if one.seconds_left <= 0 and one.member != self.member:
                await self._let_go(one.member, at_once=False)

    async def _see(self) -> None:
        """See who is there; heed that, then tell that it was."""
        before, found = self.view, await self._lines.run(self._read)
        if _went_back(before, found) or self._is_of_another(found):
            there = tuple(one for one in found.members if one.member != self.member)
            found = View(found.number, there)
        self.view = found
        self._is_dead = found.find(self.member) is None
        if _facts(before) != _facts(found):
            self._reach("view.seen")
            try:
                self._heed(found)
            except BaseException:
                self._is_dead = True  # it may keep what is another one's
                raise
        if self._seen != self.view.number:
            self._reach("view.heeded")
            self._seen = self.view.number
            await self._lines.run(self._renew)

    def _is_of_another(self, found: View) -> bool:
        own = found.find(self.member)
        return own is not None and (own.holder, own.address) != read_holder(self._holder)

    async def _read(self, line: Line) -> View:
        return await read_view(line, self._address, self.view_query)

    async def _renew(self, line: Line) -> None:
        asked = self._now()
        query, lease = self._address.sql(_RENEW), self._address.lease_seconds
        self._reach("lease.renewing")
        ((renewed,),) = await line.fetch(query, self.member, self._seen, lease)
        if renewed:
            self._reach("lease.renewed")
            self._renewed_at = asked
        else:
            self._wake.set()  # the next look tells why

    async def _mend(self, line: Line) -> None:
        await mend_leases(line, self._address)

    def _reach(self, name: str) -> None:
        if self._failpoint is not None:
            self._failpoint(name)

    async def _let_go(self, member: int, *, at_once: bool) -> None:
        """Let another member go, if it is there and its lease is over."""
        query = self._address.sql(_LEAVE)
        ((gone,),) = await self._lines.run(lambda line: line.fetch(query, member, at_once))
        if gone:
            self._logger.warning("member %d of the log was declared dead", member)
            self._wake.set()

    async def strike(self, member: int) -> None:
        """Note that a member is dead for certain, and wait for no lease."""
        await self._let_go(member, at_once=True)

    async def close(self) -> None:
        """Leave, as far as the server can be reached; a second call does nothing."""
        member, self.member = self.member, 0
        if member and not self._is_dead:
            try:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    query = self._address.sql(_LEAVE)
                    await self._lines.run(lambda line: line.fetch(query, member, True))
            except (EngineError, TimeoutError) as error:
                # Its lease ends by itself.
                self._logger.info("member %d has not left: %s", member, type(error).__name__)
        await self._lines.close()


async def read_view(line: Line, address: Address, query: str) -> View:
    """Give the members that a query selects."""
    rows = await line.fetch(address.sql(query), address.lease_seconds)
    there = [
        Present(member, *read_holder(holder), seen, left, read_shares(holder))
        for _, member, holder, seen, left in rows
        if member is not None
    ]
    return View(rows[0][0], tuple(there))


def _went_back(before: View, now: View) -> bool:
    """Tell whether the database has forgotten a view, whose number may come again for others."""
    if now.number != before.number:
        return now.number < before.number
    return [one.member for one in now.members] != [one.member for one in before.members]


def _facts(view: View) -> object:
    """Give what is heeded of a view: all but the seconds that are left."""
    return view.number, [(one.member, one.view_seen) for one in view.members]
