"""The connection of one of several owners, that appends under the view it decided by.

Rules: as for `Writer`, but the log goes on between two batches of this one, since others append.
What was planned is planned and written under the lock that an append takes. Whoever looks what
became of a batch takes a new line first: then what may still be on its way is refused, and the
outcome is certain. A view that has changed is no failure of the store: nothing was written, and
ViewChanged is raised. Since the log may end anywhere, each append asks whether the last event of
this one is there: a log that has lost it, as by a failover, gets nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from ...contract.log import (
    Batch,
    Committed,
    Head,
    claim_keys,
    conditions_of,
    fired_keys,
    plan,
)
from ...contract.membership import LeaderChanged, LedBy, ViewChanged
from ..driver import Record
from ..failures import sqlstate_of
from ..line import Line
from .appending import KnownTypes, Sending, nothing_of, planned_out
from .claims import ChangedClaims, read_holders
from .reading import read_head, read_versions
from .schema import lock_key
from .tags import read_came
from .timers import ChangedTimers, read_standing
from .writer import (
    _FOUND,  # pyright: ignore[reportPrivateUsage]
    _WAIT_FOR_STANDBYS,  # pyright: ignore[reportPrivateUsage]
    Writer,
    _BatchProgress,  # pyright: ignore[reportPrivateUsage]
    _Misfit,  # pyright: ignore[reportPrivateUsage]
    _Moved,  # pyright: ignore[reportPrivateUsage]
)

__all__ = ["SpreadWriter"]

_LIMITS: Final = (
    "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '2s'"
)
"""All owners wait for one that has the lock, and stands still between two of its statements."""
# No member has the number NULL: nothing is appended to a log that has lost what this one wrote.
_APPEND: Final = (
    "SELECT state, last, at, bad, actual FROM {s}.append_5("
    "CASE WHEN $25::bigint = 0 OR EXISTS (SELECT FROM {s}.events WHERE position = $25::bigint "
    "AND checksum = $26::bigint) THEN $1::integer END, "
    "$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, "
    "$20, $21, $22, $23, $24)"
)
_APPEND_BESIDE: Final = (
    "SELECT state, last, at, bad, actual, more FROM {s}.append_6("
    "CASE WHEN $39::bigint = 0 OR EXISTS (SELECT FROM {s}.events WHERE position = $39::bigint "
    "AND checksum = $40::bigint) THEN $1::integer END, "
    "$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, "
    "$20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, "
    "$37, $38)"
)
_NO_TIMERS: Final = ChangedTimers((), {}, 0)
_ABORTED: Final = "25P02"
"""The SQLSTATE of a transaction in which a statement has failed before."""
_RENEW: Final = "SELECT {s}.renew_member_1($1, $2, $3)"
_INDEX: Final = (
    "SELECT {s}.add_tags_1((SELECT s.session FROM {s}.sessions s WHERE s.live), $1, $2, $3)"
)
_TAKE_LINE: Final = "SELECT {s}.take_line_1($1)"
_Done: TypeAlias = tuple[Committed, Mapping[str, int]]
"""What was done, and the versions of the streams that did not fit."""


class SpreadWriter(Writer):
    """Appends for one member, whose number is the session's here."""

    view = 0
    """The view that the batch in hand was decided by."""
    _number = 0
    """Of its line."""
    meets_others = False
    """Whether streams of the last batch were elsewhere: likely those of the next one are too."""

    async def begin(self) -> None:
        """Read the end of the log and its types; get ready to append."""
        self._append = self._address.sql(_APPEND)
        self._append_beside = self._address.sql(_APPEND_BESIDE)
        await super().begin()

    async def append(self, batch: Batch) -> Committed:
        """Append what fits of a batch; plan it at once where most likely not all of it does.

        Who tries first waits for the lock twice.
        """
        if self.meets_others and self.stopped is None:
            return await self._again(_BatchProgress(batch, None), None)
        return await super().append(batch)

    async def _send(self, sending: Sending, seconds: float) -> Committed:
        """Have it written; raise _Misfit for a new plan, _Moved where its outcome is to be sought.

        Raises ViewChanged where it was decided by another view.
        """
        self._warned = False
        done: _Done | None = None
        with self._line.answering(seconds):
            if not sending.streams:
                done = await self._proved(sending)
            while done is None:
                if sending.tags is None:
                    done = await self._append_once(self._line, sending)
                else:
                    done = await self._append_tagged(sending)
        if self._warned:
            raise _Moved
        return self._done(sending, *done)

    async def _proved(self, sending: Sending) -> _Done:
        """Look whether streams are where they were read, with nothing to append; raise _Misfit.

        The lease is renewed behind that: a server that another one has replaced reads on, and
        commits nothing. No append of others waits for this one.
        """
        connection, line = self._line.connection, self._line.inside
        async with connection.transaction():
            await connection.execute(self._limits())
            await self.check_history(line)
            asked = sending.asked
            there = await read_versions(line, self._address.schema, sorted(asked))
            if any(there.get(stream, 0) != version for stream, version in asked.items()):
                raise _Misfit
            await self._look_for_tags(line, sending)
            await self._commit_something(line)
        return sending.committed(Head(), 0, {}), {}

    async def _commit_something(self, line: Line) -> None:
        """Renew the lease, so that the commit waits for the standbys: what was read is told."""
        query, lease = self._address.sql(_RENEW), self._address.lease_seconds
        ((renewed,),) = await line.fetch(query, self._session, 0, lease)
        if not renewed:
            raise self._fenced()

    async def _append_tagged(self, sending: Sending) -> _Done | None:
        """Do as `_append_once`, where nobody may append between a look for tags and the events."""
        connection, line = self._line.connection, self._line.inside
        async with connection.transaction():
            await self._lock(line)
            await self._look_for_tags(line, sending)
            return await self._append_indexed(line, sending)

    async def _look_for_tags(self, line: Line, sending: Sending) -> None:
        """Raise _Misfit where an event came that a condition says did not."""
        tags = sending.tags
        if tags is not None and await read_came(line, self._address.schema, tags.conditions):
            raise _Misfit

    async def _append_indexed(self, line: Line, sending: Sending) -> _Done | None:
        """Append, and let the events be found by their tags; the lock is held until the commit."""
        tags = sending.tags
        done = await self._append_once(line, msgspec.structs.replace(sending, tags=None))
        if done is not None and tags is not None and tags.rows:
            before = done[0].events[0].position - 1 - tags.after
            columns: list[list[Any]] = [
                [tag for tag, _, _, _ in tags.rows],
                [before + position for _, position, _, _ in tags.rows],
                [sending.numbers[name, version] for _, _, name, version in tags.rows],
            ]
            ((indexed,),) = await line.fetch(self._address.sql(_INDEX), *columns)
            if not indexed:
                raise _Misfit  # who led has left behind the append: it is done again, by the next
        return done

    async def _append_once(self, line: Line, sending: Sending) -> _Done | None:
        """Append; give None where that is to be done again, behind a commit."""
        row = await self._call(line, sending)
        if row is None:
            return None
        last, at, bad, actual, *more = row
        misfits = dict(zip(bad, actual, strict=True)) if bad else {}
        return sending.committed(Head(last), at, misfits, *more), misfits

    async def _call(self, line: Line, sending: Sending) -> Record | None:
        led, append = _led_by(sending.batch), self._append
        if len(led) > 1:
            raise LeaderChanged(self._address.name)
        _, _, _, *rest = sending.values(0, Head(), synced=self._synced)
        if sending.claims is None and sending.timers is None:
            rest += ChangedClaims.none().arrays()
        if led or sending.timers is not None:
            append = self._append_beside
            rest += [] if sending.timers is not None else _NO_TIMERS.arrays()
            rest.append(next(iter(led), 0))
        known = self.head.position, self.head.checksum
        values = (self._session, self._number, self.view, *rest, *known)
        ((state, *row),) = await line.fetch(append, *values)
        if state == "done":
            return row
        if state == "again":
            return None
        if state == "misfit":
            raise _Misfit
        if state == "led":
            raise LeaderChanged(self._address.name)
        if state == "moved":
            raise ViewChanged(self._address.name, self.view)
        if state == "fenced":
            await self.check_history(line)
            raise self._fenced()
        raise _Moved

    async def _try(self, progress: _BatchProgress) -> Committed:
        if self._line.is_closed:
            await self._connect()
        if progress.unsure is not None:
            found = await self._look(progress.unsure)
            if found is not None:
                return found
            # It is certain that nothing of it comes any more.
            progress.sending = None if progress.unsure.plan is not None else progress.unsure
            progress.unsure = None
            self.written_again += 1
        if progress.sending is not None:
            progress.sent = True
            return await self._send(progress.sending, self._address.attempt_seconds)
        return await self._plan_and_send(progress)

    async def _plan_and_send(self, progress: _BatchProgress) -> Committed:
        """Plan a batch on what is there, and write it before anybody else writes."""
        batch, connection, line = progress.batch, self._line.connection, self._line.inside
        self._warned = False
        done: _Done | None = None
        while done is None:
            with self._line.answering(self._address.answer_seconds):
                async with connection.transaction():
                    await self._lock(line)
                    sending = await self._planned(line, batch)
                    planned = None if isinstance(sending, Committed) else sending.plan
                    self.meets_others = planned is None or planned.refused > 0
                    if isinstance(sending, Committed):
                        # What is refused was decided by this view as well.
                        if await self._call(line, nothing_of(batch)) is not None:
                            await self._commit_something(line)
                            return sending
                        continue
                    progress.sending, progress.sent = sending, True
                    done = await self._append_indexed(line, sending)
        if self._warned:
            raise _Moved
        assert progress.sending is not None
        return self._done(progress.sending, *done)

    def _limits(self) -> str:
        """Give what begins each transaction, as one statement: others wait for each round trip."""
        return f"{_LIMITS}; {_WAIT_FOR_STANDBYS}" if self._synced else _LIMITS

    async def _lock(self, line: Line) -> None:
        first, second = lock_key(self._address.schema)
        lock = f"SELECT pg_catalog.pg_advisory_xact_lock({first}, {second})"
        await line.connection.execute(f"{self._limits()}; {lock}")

    async def _planned(self, line: Line, batch: Batch) -> Sending | Committed:
        """Plan on what is there. The append behind it looks whether the log has lost anything."""
        schema = self._address.schema
        streams = {write.stream for request in batch.requests for write in request.writes}
        if not _knows_types(self.types, batch):
            await self.learn_types(line)
        head = await read_head(line, schema)
        versions = await read_versions(line, schema, sorted(streams))
        holders = await read_holders(line, schema, claim_keys(batch))
        standing = await read_standing(line, schema, fired_keys(batch))
        came = await read_came(line, schema, conditions_of(batch))
        planned = plan(batch, versions, head, holders, standing, came)
        if not planned.events:
            return Committed(planned.outcomes, [])
        return planned_out(batch, planned, self.types, head.position)

    async def _look(self, sending: Sending) -> Committed | None:
        """Find out whether a batch is in the log; None where it is not, and never will be."""
        first, connection, line = sending.first, self._line.connection, self._line.inside
        self._warned = False
        with self._line.answering(self._address.attempt_seconds):
            async with connection.transaction():
                await self._lock(line)
                await self.check_history(line)
                wanted = [version + 1 for version, _ in first.values()]
                query = self._address.sql(_FOUND)
                rows = await connection.fetch(query, list(first), wanted)
                ((number,),) = await line.fetch(self._address.sql(_TAKE_LINE), self._session)
        if self._warned:
            raise _Moved
        misfits: dict[str, int] = {}
        at, before = 0, 0
        for stream, position, checksum, recorded, version in rows:
            if position is None or checksum != sending.checksums[first[stream][1]]:
                misfits[stream] = version
            else:
                at, before = recorded, min(before or position, position)
        if number is None:
            self._fenced()  # what was found is in the log all the same
        else:
            self._number = number
        if len(misfits) == len(first):
            if number is None:
                raise self._fenced()
            return None
        self.found_written += 1
        return self._done(sending, sending.committed(Head(before - 1), at, misfits), misfits)

    async def _show_presence(self, line: Line) -> None:
        """Show nothing: the lease alone tells that a member lives."""

    def _judged(self, progress: _BatchProgress, error: Exception) -> Exception | None:
        if isinstance(error, ViewChanged):
            return error
        if sqlstate_of(error) == _ABORTED:
            return None  # a pooler had what was prepared: `Line` knows by now, and prepares nothing
        return super()._judged(progress, error)


def _knows_types(known: KnownTypes, batch: Batch) -> bool:
    """Tell whether the types of a batch are those that the log has, by what was read of it."""
    kinds = {
        id(data.type): data.type
        for request in batch.requests
        for write in request.writes
        for data in write.events
    }
    return all(
        known.get((kind.name, kind.version), (0, ""))[1] == kind.schema_hash
        for kind in kinds.values()
    )


def _led_by(batch: Batch) -> set[int]:
    """Give the sessions of who must lead; most often none."""
    return {
        extra.session
        for request in batch.requests
        if request.extras
        for extra in request.extras
        if type(extra) is LedBy
    }
