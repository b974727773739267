"""A log in PostgreSQL with several owners: the store of one of them, and of the one that leads.

Rules: each owner decides and appends for the slots that are its own by the view of the members; the
one that leads has the shared session besides, folds the projections, settles the timers, and
appends nothing by it. An owner tells by `is_held` whether it may decide: while its lease runs, and
it acts by the view that the database has, as far as it was told. An owner makes the index of tags
anew only while no other one lives whose events have other tags.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from ....errors import EngineError, StoreFailed, StoreLocked, StoreRefused
from ....runtime.machine import process_name
from ....runtime.ports import Ports
from ....runtime.safely import described
from ....statistics import ServerStatistics
from ...contract.log import Batch, Committed, Head
from ...contract.membership import Heed, LeaderChanged, View, ViewChanged
from ...contract.tags import TagForm
from ...contract.timers import BEGINNING, DuePlace, WaitingTimer
from ..address import Address
from ..driver import Driver
from ..line import Answering, Line, Lines
from .followed import FollowedStore
from .limits import LIMITS, LOCK_SECONDS
from .members import Attendance
from .reading import read_head
from .schema import lock_key
from .session import fetch_numbered, holder_text, mend_leases, read_holder, read_shares
from .spread_writer import SpreadWriter
from .store import PostgresStore
from .tags import index_within, indexing, is_index_of
from .writer import Writer

__all__ = ["LeadingStore", "SpreadStore"]

_BUSY_EVENTS: Final = 8
"""Of a batch, from which on its owner is one that appends all the time."""
_TURN_SECONDS: Final = 0.02
"""The longest time for which it gathers while others append."""
_MOVED_MAX: Final = 2_000
"""Events of others between two appends, up to which it is looked what they have moved."""
_LOOK_SECONDS: Final = 0.1
"""The longest time for which answers wait for that look, which saves work and nothing else."""
_MOVED: Final = (
    "SELECT stream, max(version) FROM {s}.events "
    "WHERE position > $1 AND (position < $2 OR position > $3) GROUP BY stream"
)
_REST_SECONDS: Final = 0.005
"""Between two looks whether the lease was renewed."""
_OTHERS: Final = "SELECT m.holder FROM {s}.members m WHERE m.decides AND m.member <> $1"
# That of who leads, or a new one whose lease is over.
_SESSION: Final = "SELECT session FROM {s}.begin_session_2('nobody', 0, true)"
_LEADS: Final = "SELECT session FROM {s}.sessions WHERE live AND shared"
_JOIN: Final = "SELECT joined, number, other FROM {s}.join_members_2($1, $2)"
# As for all members, and of those that decide.
_VIEW: Final = Attendance.view_query.replace("ON true", "ON m.decides")


class _Deciding(Attendance):
    """The part of one that decides."""

    view_query = _VIEW

    async def _join(self, line: Line) -> None:
        asked, lease = self._now(), self._address.lease_seconds
        query = self._address.sql(_JOIN)
        ((member, _, other),) = await fetch_numbered(line, query, self._holder, lease)
        if other is not None:
            await mend_leases(line, self._address)  # it may be of one that is dead
            raise StoreLocked(
                f"{self._address.name} is open in an engine that has it alone: "
                f"{read_holder(other)[0]}. Stop that one first, or give all of them "
                f'join="spread"'
            )
        self.member, self._renewed_at = member, asked


class LeadingStore(FollowedStore):
    """The log for the one that leads: it reads, and appends nothing."""

    async def append(self, batch: Batch) -> Committed:  # noqa: ARG002 - the contract's
        """Raise: commands are decided by the owners of their slots."""
        raise StoreFailed(
            f"{self.address.name} has several owners: nothing is appended by the one that leads",
            written=False,
        )


class SpreadStore(PostgresStore):
    """The log for one of its owners; `heed` is told of each view, see `Heed`."""

    def __init__(
        self, address: Address, heed: Heed, *, logger: logging.Logger | None = None
    ) -> None:
        super().__init__(address, logger=logger)
        self._heed = heed
        self._changed_at = 0
        """The view that was found to be none any more."""
        self._ended_at = 0
        """The position of the last event that this one appended."""
        self._turn_seconds = 0.0
        """How long to gather before the next append."""
        self.attendance: Attendance | None = None
        self.overtaken: Callable[[Mapping[str, int]], None] | None = None
        """Is told which streams others have brought to which versions, where that is of use."""
        self.shares = ""
        """Of which kinds its joint decisions are, and its tags, as other members are told."""

    @property
    def view(self) -> View:
        """The members, as this one acts by them."""
        return View() if self.attendance is None else self.attendance.view

    async def _take(self, line: Line, ports: Ports) -> None:  # noqa: ARG002 - of another one
        holder = holder_text(process_name(), self._meets, self.shares)
        self.attendance = _Deciding(self.address, ports, holder, self._told, self._logger)
        await self.attendance.join()
        self._session = self.attendance.member

    async def read_due(
        self,
        after: DuePlace = BEGINNING,  # noqa: ARG002 - the contract's
        *,
        until: int,  # noqa: ARG002
        timers_max: int,  # noqa: ARG002
    ) -> list[WaitingTimer]:
        """Give none: the one that leads fires all timers."""
        return []

    def _told(self, view: View) -> None:
        assert self.attendance is not None
        self._session = self.attendance.member
        self._heed(view)

    def _writer_over(self, driver: Driver, line: Line) -> Writer:
        return SpreadWriter(driver, self.address, line, self._session, self._logger)

    async def _keep(self, lines: Lines) -> None:  # noqa: ARG002 - the attendance has its own
        """Stay a member until this one was declared dead."""
        assert self.attendance is not None
        try:
            await self.attendance.run()
        except Exception as error:
            self._logger.error("the members cannot be heeded: %s", described(error))
        self._open_writer().fence()
        self._ended.set()

    async def _leave(self, line: Line) -> None:
        if self.attendance is not None:
            await self.attendance.close()
        await line.close()

    def is_held(self) -> bool:
        """Tell whether the lease runs, and the view is not known to be an old one."""
        attendance = self.attendance
        if attendance is None or self.stopped is not None:
            return False
        if attendance.view.number <= self._changed_at:
            return False
        return attendance.is_held()

    async def _look_what_moved(self, committed: Committed, before: int) -> None:
        """Tell what others have appended since the last append of this one.

        Commands that come now would be decided on what is in memory, and again when that is found
        to be old. A look that fails costs that and nothing more: each append looks by itself.
        """
        events, tell = committed.events, self.overtaken
        if tell is None or not events or not before:
            return
        first, last = events[0].position, events[-1].position
        if not 1 < first - before < _MOVED_MAX:
            return
        query = self.address.sql(_MOVED)
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                rows = await self._open_lines().run(
                    lambda line: line.fetch(query, before, first, last)
                )
                tell({row[0]: row[1] for row in rows})

    def _note_turn(self, committed: Committed, seconds: float) -> None:
        """Find out whether others append between the appends of this one, and gather longer then.

        Half of what an append took is about what it waited for them. Who has little to append waits
        for nothing: his commands would only be answered later.
        """
        events, before = committed.events, self._ended_at
        if not events:
            return
        self._ended_at = events[-1].position
        is_between = events[0].position > before + 1 and before > 0
        busy = is_between and len(events) >= _BUSY_EVENTS
        self._turn_seconds = min(seconds / 2, _TURN_SECONDS) if busy else 0.0

    async def turn(self) -> None:
        """Wait for the turn of others, if any of them appends all the time as this one does."""
        seconds, self._turn_seconds = self._turn_seconds, 0.0
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def head(self) -> Head:
        """Ask where the log ends, since others append to it."""
        return await self._open_lines().run(lambda line: read_head(line, self.address.schema))

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Make the index anew where its forms are others, while nobody appends.

        Raises StoreRefused where a member lives that would not keep such an index.
        """
        schema = self.address.schema
        if await self._open_lines().run(lambda line: is_index_of(line, schema, forms)):
            return 0
        assert self._driver is not None
        async with indexing(self._driver, self.address) as line:
            with line.answering(self.address.answer_seconds) as again:
                await fetch_numbered(line, self.address.sql(_SESSION))
                again()
                async with line.connection.transaction():
                    return await self._index(Line(line.connection, pooled=True), again, forms)

    async def _index(self, line: Line, again: Answering, forms: Sequence[TagForm]) -> int:
        schema, writer = self.address.schema, self._open_writer()
        key = lock_key(schema)
        await line.connection.execute(LIMITS)
        again(self.address.answer_seconds + LOCK_SECONDS)
        await line.connection.execute("SELECT pg_catalog.pg_advisory_xact_lock($1, $2)", *key)
        again()
        if await is_index_of(line, schema, forms):
            return 0  # another one of the same release was first
        holders = await line.fetch(self.address.sql(_OTHERS), self._session)
        others = [read_holder(text)[0] for (text,) in holders if read_shares(text) != self.shares]
        if others:
            raise StoreRefused(
                f"{self.address.name} has an index of other tags than the events of this process "
                f"have, and {' and '.join(others)} may append meanwhile. Stop the processes of the "
                f"other release first; then this one makes the index anew as it starts"
            )
        await writer.learn_types(line)

        async def leading() -> int:
            # Not locked, so that leases are renewed meanwhile; who leads may leave instead.
            rows = await line.fetch(self.address.sql(_LEADS))
            ((session,),) = rows or await line.fetch(self.address.sql(_SESSION))
            return int(session)

        return await index_within(line, self.address, leading, again, writer.types, forms)

    def server_statistics(self) -> ServerStatistics | None:
        """Give what is known of the server, with what is left of this member's lease."""
        found, attendance = super().server_statistics(), self.attendance
        if found is None or attendance is None:
            return found
        return msgspec.structs.replace(found, lease_seconds_left=attendance.seconds_left())

    async def held(self) -> None:
        """Wait until it is held again; raise StoreFailed where that takes too long."""
        end = self._now() + self.address.patience_seconds
        while not self.is_held():
            if self.stopped is not None:
                raise StoreFailed(str(self.stopped), written=False, stopped=True)
            if self._now() >= end:
                raise StoreFailed(
                    f"{self.address.name}: the lease of this owner has ended and could not be "
                    f"renewed for {self.address.patience_seconds:g} s, so others may own its part.",
                    written=False,
                    passes=True,
                )
            await asyncio.sleep(_REST_SECONDS)

    async def append(self, batch: Batch) -> Committed:
        """Append under the view of this moment, by which all in the batch was decided."""
        writer = self._open_writer()
        assert isinstance(writer, SpreadWriter)
        assert self.attendance is not None
        writer.view = self.attendance.view.number
        begun = self._now()
        try:
            committed = await PostgresStore.append(self, batch)
            before, seconds = self._ended_at, self._now() - begun
            self._note_turn(committed, seconds)
            await self._look_what_moved(committed, before)
            return committed
        except LeaderChanged:
            raise
        except ViewChanged:
            self._changed_at = max(self._changed_at, writer.view)
            self.attendance.look()
            raise
