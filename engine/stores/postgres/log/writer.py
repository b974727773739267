"""The one connection that appends, and what is done when it breaks.

Rules: one batch at a time. A batch whose answer was lost is looked for, under the lock that an
append takes and over a new connection: it is in the log whole, and then has its answer, or it is
not, and then is sent again. Each append names the end of the log that it goes on from, so that one
which comes late, over a connection that broke, finds another end and writes nothing. The outcome is
unknown only where the server stays away for longer than the patience. A commit that the server has
stopped waiting for its standbys for is such an answer too: whoever looks commits something himself,
which waits for the standbys behind it. Who refuses all of a batch, and so appends nothing, looks
first whether the log is still his: otherwise another engine has moved it. A log that ends earlier
than what was acknowledged, or otherwise, has lost events: nothing more is appended to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ....errors import EngineError, StoreFailed, StoreRefused
from ...contract.log import Batch, Committed, Head, claim_keys, conditions_of, fired_keys, plan
from ..address import Address
from ..driver import Connection, Driver, LogMessage, Record
from ..failures import (
    described_failure,
    is_lost,
    is_passing,
    passes_by_itself,
    sqlstate_of,
)
from ..line import BackOff, Line
from ..settings import check_settings
from .appending import Sending, laid_out, planned_out
from .claims import APPEND_CLAIMS, read_holders
from .limits import IDLE_SECONDS
from .reading import read_head, read_types, read_versions
from .schema import lock_key
from .session import renew_session, show_presence
from .tags import APPEND_TAGS, read_came
from .timers import APPEND_TIMERS, read_standing

__all__ = ["APPEND", "Writer"]

CACHED_STREAMS_MAX: Final = 200_000
"""Streams whose version the writer remembers."""
_BEGUN_ALREADY: Final = "23505"
"""The SQLSTATE of two events for one place of a stream."""
_PLANS_MAX: Final = 5
"""How often a batch is planned anew, where streams move while it is planned."""
_ALONE: Final = " Run one engine, or give each of them join=True."
_LIMITS: Final = (
    "SET LOCAL lock_timeout = '5s'; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
)
_WAIT_FOR_STANDBYS: Final = "SET LOCAL synchronous_commit = on"
APPEND: Final = (
    "SELECT state, at, bad, actual FROM {s}.append_1("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
)
_FOUND: Final = """
SELECT q.stream, e.position, e.checksum, e.recorded, coalesce((
    SELECT t.version FROM {s}.events t
    WHERE t.stream = q.stream ORDER BY t.version DESC LIMIT 1), 0)
FROM unnest($1::text[], $2::integer[]) AS q(stream, version)
LEFT JOIN {s}.events e ON e.stream = q.stream AND e.version = q.version
"""


class Writer:
    """Appends for one session, over one connection after the other."""

    def __init__(
        self, driver: Driver, address: Address, line: Line, session: int, logger: logging.Logger
    ) -> None:
        self._driver = driver
        self._address = address
        self._warned = False
        """Whether the server has warned of what it did last: of a commit that no standby has."""
        self._line = self._heard(line)
        self._session = session
        self._logger = logger
        self._synced = "synchronous_commit" not in address.allowed
        self._append = address.sql(APPEND)
        self._append_claims = address.sql(APPEND_CLAIMS)
        self._append_timers = address.sql(APPEND_TIMERS)
        self._append_tags = address.sql(APPEND_TAGS)
        self._versions: dict[str, int] = {}
        """Of streams that this writer appended to; emptied by whatever may have made it stale."""
        self.head = Head()
        """The end of the log, as of the last append."""
        self.types: dict[tuple[str, int], tuple[int, str]] = {}
        """Number and schema hash by name and version."""
        self.names: dict[int, tuple[str, int]] = {}
        """Name and version by number."""
        self.stopped: StoreFailed | None = None
        """Why nothing more is appended."""
        self.is_met = False
        """Whether the engine has members, or other owners beside it."""
        self.is_succeeded = False
        """Whether that is only since another engine has the log, or may have it."""
        self.reconnects = 0
        self.found_written = 0
        """Batches whose answer was lost, and that were in the log."""
        self.written_again = 0

    async def begin(self) -> None:
        """Read the end of the log and its types; get ready to append."""
        await self._line.prepare(self._append)
        self.head = await read_head(self._line, self._address.schema)
        await self.learn_types(self._line)

    async def learn_types(self, line: Line) -> None:
        """Read the types, and add those that are not known yet."""
        for number, name, version, hash_ in await read_types(line, self._address.schema):
            # Not all anew: this answer may be older than what an append has brought meanwhile, and
            # the number of a type that is forgotten would be given to the next one.
            self.types.setdefault((name, version), (number, hash_))
            self.names.setdefault(number, (name, version))

    @property
    def line(self) -> Line:
        """The connection as it is now."""
        return self._line

    def fence(self) -> None:
        """Append nothing more: the log is another engine's."""
        self._fenced()

    def refuse(self, error: StoreRefused) -> None:
        """Append nothing more: the server was set to lose what it acknowledges."""
        self._fail(f"{error}. Nothing more was written.")

    async def append(self, batch: Batch) -> Committed:
        """Append what fits of a batch; raise StoreFailed, as the contract says."""
        if self.stopped is not None:
            raise StoreFailed(
                f"{self._address.name} takes nothing more: {self.stopped} Nothing was written.",
                written=False,
                stopped=True,
            )
        sending: Sending | None = None
        try:
            sending = laid_out(batch, self.types, self._versions)
            if sending is not None and not self._line.is_closed:
                return await self._send(sending, self._address.answer_seconds)
        except Exception as error:
            return await self._again(
                _BatchProgress(batch, sending, sent=sending is not None), error
            )
        return await self._again(_BatchProgress(batch, sending), None)

    async def _again(self, progress: _BatchProgress, error: Exception | None) -> Committed:
        """Take the way round, in a task of its own, whose timeouts may cancel it."""
        return await asyncio.get_running_loop().create_task(self._persist(progress, error))

    def _heard(self, line: Line) -> Line:
        """Listen to what the server says of a line's statements besides their answers."""
        line.connection.add_log_listener(self._hear)
        return line

    def _hear(self, _: Connection, message: LogMessage) -> None:
        if message.severity_en == "WARNING":
            self._warned = True

    # -- one attempt ------------------------------------------------------------------------

    async def _send(self, sending: Sending, seconds: float) -> Committed:
        """Have it written; raise _Moved where the log ends elsewhere, _Misfit for a new plan.

        What answers neither yes nor no in so many seconds is taken for gone.
        """
        head = self.head
        values = sending.values(self._session, head, synced=self._synced)
        line = self._line
        self._warned = False
        append = self._append if sending.claims is None else self._append_claims
        if sending.timers is not None:
            append = self._append_timers
        if sending.tags is not None:
            append = self._append_tags
        with line.answering(seconds):
            ((state, at, bad, actual, *more),) = await line.fetch(append, *values)
        if state == "done" and self._warned:
            raise _Moved
        if state == "done":
            misfits = dict(zip(bad, actual, strict=True)) if bad else {}
            return self._done(sending, sending.committed(head, at, misfits, *more), misfits)
        if state == "misfit":
            raise _Misfit
        if state == "fenced":
            with line.answering(self._address.attempt_seconds):
                await self.check_history(line)
            raise self._fenced()
        raise _Moved

    def _done(
        self, sending: Sending, committed: Committed, misfits: Mapping[str, int]
    ) -> Committed:
        for number, kind in sending.new_types:
            self.types[kind.name, kind.version] = (number, kind.schema_hash)
            self.names[number] = (kind.name, kind.version)
        if committed.events:
            last = committed.events[-1]
            self.head = Head(last.position, last.checksum, last.recorded)
        if len(self._versions) > CACHED_STREAMS_MAX:
            self._versions.clear()
        self._versions |= sending.reached
        for stream in misfits:
            del self._versions[stream]
        return committed

    async def _plan(self, progress: _BatchProgress) -> Sending | Committed:
        """Plan a batch on what its streams and its claims are now."""
        batch = progress.batch
        streams = {write.stream for request in batch.requests for write in request.writes}
        line, schema = self._line, self._address.schema
        with line.answering(self._address.attempt_seconds):
            await self.check_history(line)
            if progress.misfits:
                await self.learn_types(line)
            versions = await read_versions(line, schema, sorted(streams))
            holders = await read_holders(line, schema, claim_keys(batch))
            standing = await read_standing(line, schema, fired_keys(batch))
            came = await read_came(line, schema, conditions_of(batch))
        planned = plan(batch, versions, self.head, holders, standing, came)
        sending = planned_out(batch, planned, self.types, self.head.position)
        if not planned.events:
            with line.answering(self._address.attempt_seconds):
                await self._check_session(line)
            return Committed(planned.outcomes, [])
        return sending

    async def _check_session(self, line: Line) -> None:
        """Stop for good where another engine has the log: what was planned is not this one's.

        No append looks where nothing is appended. It is a commit, which waits for the standbys.
        """
        self._warned = False
        if not await renew_session(line, self._address, self._session):
            raise self._fenced()
        if self._warned:
            raise _Moved

    # -- until it is known ------------------------------------------------------------------

    async def _persist(self, progress: _BatchProgress, error: Exception | None) -> Committed:
        """Try until the batch is written, or it is certain that it is not; `error` was the first.

        Raises StoreFailed, with `written=None` only behind the patience.
        """
        back_off = BackOff(self._address.patience_seconds)
        while True:
            if error is not None:
                self._note(progress, error)
                final = self._judged(progress, error)
                if final is not None:
                    raise final from error
                if not isinstance(error, _Misfit) and not await back_off.pause():
                    raise self._given_up(progress, error) from error
            try:
                return await self._try(progress)
            except Exception as next_error:
                error = next_error

    async def _try(self, progress: _BatchProgress) -> Committed:
        if self._line.is_closed:
            await self._connect()
        if progress.unsure is not None:
            found = await self._look(progress.unsure)
            if found is not None:
                return found
            progress.sending = progress.unsure
            self.written_again += 1
        if progress.sending is None:
            if progress.misfits > _PLANS_MAX:
                raise self._moving()
            planned = await self._plan(progress)
            if isinstance(planned, Committed):
                return planned
            progress.sending = planned
        progress.sent = True
        return await self._send(progress.sending, self._address.attempt_seconds)

    def _note(self, progress: _BatchProgress, error: Exception) -> None:
        """Take down what an error says of what was sent."""
        self._versions.clear()
        if isinstance(error, _Misfit) or sqlstate_of(error) == _BEGUN_ALREADY:
            progress.sending = progress.unsure = None
            progress.misfits += 1
        elif isinstance(error, _Moved) or (is_lost(error) and progress.sent):
            progress.unsure = progress.unsure or progress.sending
        if is_lost(error):
            self._line.drop()
        progress.sent = False

    async def _connect(self) -> None:
        """Take a new connection in place of the one that broke."""
        try:
            line = await Line.connected(self._driver, self._address)
        except StoreFailed as error:
            raise _Away(str(error)) from error
        try:
            with line.answering(self._address.attempt_seconds):
                await check_settings(line.connection, self._address)
                await self._show_presence(line)
        except StoreFailed as error:
            line.drop()
            raise _Away(str(error)) from error
        except BaseException:
            line.drop()
            raise
        self._line = self._heard(line)
        self.reconnects += 1
        self._logger.info("%s: connected again", self._address.name)

    async def _show_presence(self, line: Line) -> None:
        """Let others see at once that this engine lives."""
        await show_presence(line, self._address, self._session)

    async def _look(self, sending: Sending) -> Committed | None:
        """Find out whether a batch is in the log; None where it is not, and must be sent again.

        The lock waits for the transaction of a connection that broke, if it is still at work.
        """
        first = sending.first
        self._warned = False
        with self._line.answering(self._address.attempt_seconds):
            head, rows, is_ours = await self._read_found(first)
        if self._warned:
            raise _Moved
        misfits: dict[str, int] = {}
        at = 0
        for stream, position, checksum, recorded, version in rows:
            if position is None or checksum != sending.checksums[first[stream][1]]:
                misfits[stream] = version
            else:
                at = recorded
        if len(misfits) == len(first):
            if not is_ours:
                raise self._fenced()
            if head != self.head:
                raise self._fail(
                    f"{self._address.name} ends at position {head.position}, and this engine has "
                    f"written up to {self.head.position}: somebody else has appended. Nothing of "
                    f"the batch was written. Look who uses the function append_1."
                )
            return None
        committed = sending.committed(self.head, at, misfits)
        if not is_ours:
            self._fenced()  # what was found is in the log all the same, and others may follow it
        self.found_written += 1
        return self._done(sending, committed, misfits)

    async def _read_found(
        self, first: Mapping[str, tuple[int, int]]
    ) -> tuple[Head, Sequence[Record], bool]:
        """Read the end of the log and what stands where a batch would; tell if the log is ours.

        The renewal is a commit behind the batch's: its answer comes when the standbys have both.
        """
        schema, connection = self._address.schema, self._line.connection
        line = Line(connection, pooled=True)
        async with connection.transaction():
            key = lock_key(schema)
            await connection.execute(_LIMITS)
            if self._synced:
                await connection.execute(_WAIT_FOR_STANDBYS)
            await connection.execute("SELECT pg_catalog.pg_advisory_xact_lock($1, $2)", *key)
            head = await read_head(line, schema)
            await self.check_history(line)
            rows = await connection.fetch(
                self._address.sql(_FOUND),
                list(first),
                [version + 1 for version, _ in first.values()],
            )
            is_ours = await renew_session(line, self._address, self._session)
        return head, rows, is_ours

    async def check_history(self, line: Line) -> None:
        """Stop for good where an event that was acknowledged is not in the log any more.

        Raises StoreFailed then. What is told about such a log otherwise would be wrong: that
        streams have moved, or that another engine has it.
        """
        known = self.head
        if not known.position:
            return
        query = self._address.sql("SELECT checksum FROM {s}.events WHERE position = $1")
        found = await line.fetch(query, known.position)
        if not found or found[0][0] != known.checksum:
            head = await read_head(line, self._address.schema)
            raise self._fail(
                f"{self._address.name}: the log went back. It ends at position {head.position}, "
                f"and events up to {known.position} were acknowledged: a failover or a restored "
                f"backup has lost them. Nothing was written. Bring the lost events back, or start "
                f"the engine again, which goes on from what is there."
            )

    # -- what went wrong --------------------------------------------------------------------

    def _judged(self, progress: _BatchProgress, error: Exception) -> Exception | None:
        """Say what is to be raised for an error; None where it is to be tried again."""
        if sqlstate_of(error) == _BEGUN_ALREADY:
            return None
        if isinstance(error, _Misfit | _Moved | _Away) or is_lost(error) or is_passing(error):
            return None
        if isinstance(error, StoreRefused):
            # A server that is set otherwise now, or that does not take this user any more.
            if progress.unsure is not None:
                return self._unknown(str(error))
            return self._fail(f"{error}. Nothing was written.")
        if isinstance(error, EngineError):
            return error
        if not sqlstate_of(error) and not isinstance(error, ValueError):
            return error
        if progress.unsure is not None:
            return None  # the first attempt may still arrive
        return StoreFailed(
            f"{self._address.name}: {described_failure(error)}. Nothing was written.",
            written=False,
            passes=passes_by_itself(error),
        )

    def _given_up(self, progress: _BatchProgress, error: Exception) -> StoreFailed:
        why = str(error) if isinstance(error, _Away) else described_failure(error)
        if progress.unsure is not None:
            return self._unknown(f"it has not come back in time: {why}")
        return StoreFailed(
            f"{self._address.name} could not be written to for "
            f"{self._address.patience_seconds:g} s: {why}. Nothing was written.",
            written=False,
            passes=True,
        )

    def _unknown(self, why: str) -> StoreFailed:
        failure = StoreFailed(
            f"{self._address.name}: nobody knows whether the last batch is in the log: {why}. "
            f"Start the engine again when the server is well.",
            written=None,
        )
        self.is_succeeded = self.stopped is None or self.is_succeeded
        self.stopped = self.stopped or failure
        return failure

    def _fenced(self) -> StoreFailed:
        self.is_succeeded = self.stopped is None or self.is_succeeded
        return self._fail(
            f"{self._address.name}: another engine has taken this log over, since this one did not "
            f"renew its lease in time. Nothing was written.{'' if self.is_met else _ALONE}"
        )

    def _moving(self) -> StoreFailed:
        return StoreFailed(
            f"{self._address.name}: its streams moved {_PLANS_MAX} times while a batch was "
            f"planned. Nothing was written.",
            written=False,
        )

    def _fail(self, message: str) -> StoreFailed:
        """Stop for good; nothing of the batch was written."""
        failure = StoreFailed(message, written=False, stopped=True)
        self.stopped = self.stopped or failure
        return failure


class _BatchProgress(msgspec.Struct):
    """How far one batch has come."""

    batch: Batch
    sending: Sending | None
    """What goes out next; None where the batch must be planned."""
    sent: bool = False
    """Whether it went out, and nothing has come back yet."""
    unsure: Sending | None = None
    """What went out, and may be in the log or come there."""
    misfits: int = 0
    """How often its streams were found elsewhere than they were planned or believed to be."""


class _Away(Exception):
    """The server cannot be connected to, or takes no writes, at this moment."""


class _Moved(Exception):
    """The log does not end where it was believed to."""


class _Misfit(Exception):
    """Streams, claims, timers or tags are not as they were believed to be; nothing was written."""
