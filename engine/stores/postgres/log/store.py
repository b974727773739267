"""The log in a PostgreSQL server: one function call for each batch, in the event loop.

Rules: one connection appends, two read, and one renews the lease, so that it waits for none of
them; none is used by two calls at a time. An append is never given up: a cancel of its caller is
heard when it has its answer. The lease is renewed by a task of the store's own, whose end is told
by `ended`. Nothing of a statement or a value is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from ....errors import EngineError, StoreFailed, StoreLocked, StoreRefused
from ....model.stored import EventType, Snapshot, StoredEvent
from ....runtime.machine import SystemClock, process_name
from ....runtime.ports import Ports
from ....runtime.uncancelled import uncancelled
from ....statistics import ServerStatistics
from ...contract.archiving import ArchiveRun
from ...contract.claims import ClaimKey, HeldClaim
from ...contract.log import Batch, Committed, Head, StreamPage, StreamRead
from ...contract.tags import TagForm, TagPage, TagRead
from ...contract.timers import BEGINNING, DuePlace, SettledTimer, TimerKey, WaitingTimer
from ..address import Address
from ..driver import Driver, Record, driver_of
from ..failures import cannot_connect
from ..fence import AloneFence, Fence
from ..line import Line, Lines
from ..notices import Notice, Of, tell_listeners
from ..settings import check_settings
from .claims import read_claims
from .cold import read_archives
from .reading import (
    events_of_feed,
    pages_of_streams,
    read_feed,
    read_head,
    read_kinds,
    read_snapshots,
    read_streams,
)
from .schema import migrate
from .session import begin_session, end_session, holder_text, renew_session
from .tags import index_tags, indexing, is_index_of, pages_of_tagged, read_tagged
from .timers import count_timers, read_due, read_timers, settle_timers
from .writer import Writer

__all__ = ["PostgresStore"]

_ABOUT: Final = "SELECT log_id, EXISTS (SELECT 1 FROM {s}.tag_forms) FROM {s}.about"
_LEAVE_SECONDS: Final = 2.0
_RENEWALS: Final = 3
"""In the time of one lease."""
_RENEWAL_SECONDS: Final = 1.0
"""How long one of them may take at least."""


class PostgresStore:
    """A log in the schema that `address` names."""

    durable = True
    shared = False
    """Whether others append beside whoever has the session."""

    def __init__(self, address: Address, *, logger: logging.Logger | None = None) -> None:
        self.address = address
        self._logger = logger or logging.getLogger("foldline")
        self._turn = asyncio.Lock()
        self._driver: Driver | None = None
        self._has_forms = False
        """Whether its index of tags was made by any forms, as it was opened."""
        self._writer: Writer | None = None
        self._lines: Lines | None = None
        self._leases: Lines | None = None
        self._session = 0
        self._log_id = ""
        self._keeper: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._now = SystemClock().monotonic
        self._renewed_at = 0.0
        """Before the last renewal was asked for, in seconds of that clock."""
        self._renewals_failed = 0
        self._renewed = asyncio.Event()
        """Set at the next renewal."""
        self._meets = ""
        self._is_succeeded = False
        self._appended = Notice()
        self._failpoint: Callable[[str], None] | None = None

    @property
    def session(self) -> int:
        """The session by which this engine has the log."""
        return self._session

    @property
    def fence(self) -> Fence:
        """By what right this engine writes views."""
        return AloneFence(self._session)

    @property
    def log_id(self) -> str:
        """The log's random id."""
        return self._log_id

    # -- life -------------------------------------------------------------------------------

    async def open(self, ports: Ports) -> None:
        """Make the schema or bring it up to date, and take the log; raise as the contract says."""
        if self._writer is not None:
            raise StoreLocked(f"{self.address.name} is open already, by this object: close it")
        driver = self._driver = driver_of(ports)
        line = await Line.connected(driver, self.address)
        try:
            with line.answering(2 * self.address.answer_seconds):  # a migration may have to wait
                await check_settings(line.connection, self.address)
                await migrate(line.connection, self.address)
            self._now, self._failpoint = ports.clock.monotonic, ports.failpoint
            await self._take(line, ports)
            writer = await self._begin(driver, line)
        except EngineError:
            line.drop()
            raise
        except Exception as error:
            line.drop()
            raise cannot_connect(self.address, error) from error
        except BaseException:
            line.drop()
            raise
        self._writer = writer
        self._lines = Lines(driver, self.address)
        self._ended = asyncio.Event()
        # A server that does not answer is asked anew while the lease still runs.
        seconds = max(self.address.lease_seconds / _RENEWALS, _RENEWAL_SECONDS)
        lease = self.address.lease_seconds
        self._leases = Lines(driver, self.address, answer_seconds=seconds, longest_seconds=lease)
        keeping = self._keep(self._leases)
        self._keeper = asyncio.get_running_loop().create_task(keeping, name="foldline lease")
        self._appended.begin(partial(self.tell, "log"))
        await self._check_last_event()

    async def _take(self, line: Line, ports: Ports) -> None:  # noqa: ARG002 - for those beneath
        """Take the log; raise StoreLocked."""
        self._session, self._renewed_at = await begin_session(
            line,
            self.address,
            holder_text(process_name(), self._meets),
            self._now,
            waits=not self._meets,
            shared=self.shared,
        )

    def _writer_over(self, driver: Driver, line: Line) -> Writer:
        return Writer(driver, self.address, line, self._session, self._logger)

    async def _begin(self, driver: Driver, line: Line) -> Writer:
        """Read what the log has; give it back where that fails, so that nobody waits for it."""
        writer = self._writer_over(driver, line)
        writer.is_met = bool(self._meets)
        try:
            with line.answering(self.address.answer_seconds):
                await writer.begin()
                query = self.address.sql(_ABOUT)
                ((self._log_id, self._has_forms),) = await line.connection.fetch(query)
        except Exception:
            await self._leave(line)
            raise
        return writer

    async def _check_last_event(self) -> None:
        """Compare the last event, which every later one builds on, with its checksum."""
        position = (await self.head()).position
        if position:
            try:
                await self.read_feed(position - 1, events_max=1, bytes_max=1)
            except BaseException:
                await self.close()
                raise

    async def _keep(self, lines: Lines) -> None:
        """Renew the lease until it is lost; first when that is due, since a start may take long."""
        rest = self.address.lease_seconds / _RENEWALS
        due = self._renewed_at + rest
        while True:
            await asyncio.sleep(max(0.0, due - self._now()))
            due = self._now() + rest
            try:
                renewed = await lines.run(self._renew)
            except EngineError as error:
                # An append finds out what is the matter, and an engine at rest is not in a hurry.
                self._renewals_failed += 1
                self._logger.warning("the lease was not renewed: %s", error)
                continue
            if not renewed:
                self._ended.set()
                return

    async def _renew(self, line: Line) -> bool:
        """Let the lease begin anew; stop where the log is lost, or the server was set to lose it.

        A setting that is changed at a reload is in force at once, and breaks no connection.
        """
        writer = self._open_writer()
        try:
            await check_settings(line.connection, self.address)
        except StoreRefused as error:
            writer.refuse(error)
            return False
        begun = self._now()
        self._reach("lease.renewing")
        if not await renew_session(line, self.address, self._session):
            with suppress(StoreFailed):  # a server that lost events has lost the session too
                await writer.check_history(line)
            writer.fence()
            return False
        self._reach("lease.renewed")
        self._renewed_at = begun
        renewed, self._renewed = self._renewed, asyncio.Event()
        renewed.set()
        return True

    def _reach(self, name: str) -> None:
        if self._failpoint is not None:
            self._failpoint(name)

    # -- whose log it is ----------------------------------------------------------------------

    def announce(self, address: str) -> None:
        """Say, as the log is taken, where others meet its owner; who has it is not waited for."""
        self._meets = address

    @property
    def stopped(self) -> StoreFailed | None:
        """Why nothing is appended any more; the log may be another engine's then."""
        return None if self._writer is None else self._writer.stopped

    def is_held(self) -> bool:
        """Tell whether the lease runs, counted from before it was asked for.

        An engine that was told of another one holds nothing, whatever is left of its lease.
        """
        ends = self._renewed_at + self.address.lease_seconds
        return self.stopped is None and self._now() < ends

    async def held(self) -> None:
        """Wait for a renewal; raise StoreFailed where none comes within the patience."""
        seconds = self.address.patience_seconds
        while not self.is_held():
            if self.stopped is not None:
                raise StoreFailed(str(self.stopped), written=False, stopped=True)
            try:
                async with asyncio.timeout(seconds):
                    await self._renewed.wait()
            except TimeoutError:
                raise StoreFailed(
                    f"{self.address.name}: the lease has ended and could not be renewed for "
                    f"{seconds:g} s, so another engine may have the log.",
                    written=False,
                    passes=True,
                ) from None

    @property
    def is_succeeded(self) -> bool:
        """Whether another engine has the log, or may have taken it while the server was away."""
        return self._is_succeeded or (self._writer is not None and self._writer.is_succeeded)

    async def ended(self) -> StoreFailed:
        """Wait until another engine has the log, or the server may lose it; give which."""
        await self._ended.wait()
        assert self._writer is not None
        assert self._writer.stopped is not None
        return self._writer.stopped

    async def close(self) -> None:
        """Give the log back, as far as the server can be reached, and close the connections."""
        keeper, self._keeper = self._keeper, None
        writer, self._writer = self._writer, None
        lines, self._lines = self._lines, None
        leases, self._leases = self._leases, None
        await self._appended.end()
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        for asked in (lines, leases):
            if asked is not None:
                await asked.close()
        if writer is not None:
            self._is_succeeded = writer.is_succeeded
            async with self._turn:
                await self._leave(writer.line)

    async def _leave(self, line: Line) -> None:
        try:
            if not line.is_closed:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await end_session(line, self.address, self._session)
        except Exception as error:
            # The lease ends by itself.
            self._logger.info("%s was not given back: %s", self.address.name, type(error).__name__)
        finally:
            await line.close()

    # -- writing ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, by one call of a function of the database."""
        async with self._turn:
            if self._writer is None:
                raise self._closed()
            self._reach("append.sending")
            committed = await uncancelled(self._writer.append(batch))
            self._reach("append.answered")
        self._appended.note()
        return committed

    async def tell(self, of: Of) -> bool:
        """Tell who listens that something was committed; give whether anybody does."""
        if self._leases is None:
            return False
        # Its connections wait for nothing that takes long.
        return await self._leases.run(lambda line: tell_listeners(line, self.address.schema, of))

    async def write_snapshots(self, snapshots: Sequence[Snapshot]) -> None:
        """Keep these in place of what was kept of their streams."""
        query = self.address.sql("SELECT {s}.keep_snapshots_1($1, $2, $3, $4, $5, $6)")
        columns: list[list[Any]] = [
            [s.stream for s in snapshots],
            [s.version for s in snapshots],
            [s.position for s in snapshots],
            [s.checksum for s in snapshots],
            [s.snapshot_version for s in snapshots],
            [s.state for s in snapshots],
        ]
        await self._open_lines().run(lambda line: line.fetch(query, *columns))

    # -- reading ----------------------------------------------------------------------------

    async def head(self) -> Head:
        """Give the end of the log, as of the last append or the opening.

        Another engine may have appended where the lease has ended: then the server is asked.
        """
        known = self._open_writer().head
        if self.is_held():
            return known
        return await self._open_lines().run(lambda line: read_head(line, self.address.schema))

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        types = sorted(
            (known[0], *key, known[1]) for key, known in self._open_writer().types.items()
        )
        return [EventType(name, version, hash_) for _, name, version, hash_ in types]

    async def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams, by one look into the index for each."""
        return await self._open_lines().run(lambda line: read_kinds(line, self.address.schema))

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once."""
        writer = self._open_writer()

        async def read(line: Line) -> Sequence[Record]:
            schema = self.address.schema
            rows = await read_streams(line, schema, reads, events_max, bytes_max)
            await self._know_types(line, writer, {row[4] for row in rows})
            return rows

        rows = await self._open_lines().run(read)
        return pages_of_streams(rows, reads, writer.names.get)

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order."""
        writer = self._open_writer()

        async def read(line: Line) -> Sequence[Record]:
            rows = await read_feed(line, self.address.schema, after, events_max, bytes_max)
            await self._know_types(line, writer, {row[3] for row in rows})
            return rows

        return events_of_feed(await self._open_lines().run(read), after, writer.names.get)

    async def _know_types(self, line: Line, writer: Writer, numbers: set[int | None]) -> None:
        """Read the types again if a page has one that a batch has just brought."""
        if not numbers <= writer.names.keys() | {None}:
            await writer.learn_types(line)

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select."""
        writer = self._open_writer()

        async def read(line: Line) -> tuple[Sequence[Record], Sequence[int]]:
            schema = self.address.schema
            rows, counts = await read_tagged(line, schema, reads, events_max, bytes_max)
            await self._know_types(line, writer, {row[4] for row in rows})
            return rows, counts

        return pages_of_tagged(*await self._open_lines().run(read), writer.names.get)

    async def index_tags(self, forms: Sequence[TagForm]) -> int:
        """Make the index anew where its forms are others, in one transaction."""
        if not forms and not self._has_forms:
            return 0  # as most logs are, which are not asked once more
        schema, numbers = self.address.schema, self._open_writer().types
        if await self._open_lines().run(lambda line: is_index_of(line, schema, forms)):
            return 0
        assert self._driver is not None
        async with indexing(self._driver, self.address) as line:
            return await index_tags(line, self.address, self._session, numbers, forms)

    async def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order."""
        return await self._open_lines().run(
            lambda line: read_claims(line, self.address.schema, after, claims_max)
        )

    async def read_archives(self) -> Sequence[ArchiveRun]:
        """Give the runs of the archive, in their order."""
        return await self._open_lines().run(lambda line: read_archives(line, self.address.schema))

    async def read_due(
        self, after: DuePlace = BEGINNING, *, until: int, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers that are to be tried up to `until`, at most `timers_max`, in order."""
        return await self._open_lines().run(
            lambda line: read_due(line, self.address.schema, after, until, timers_max)
        )

    async def read_timers(
        self, after: TimerKey = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Give the timers behind `after`, at most `timers_max`, in order."""
        return await self._open_lines().run(
            lambda line: read_timers(line, self.address.schema, after, timers_max)
        )

    async def count_timers(self) -> tuple[int, int, int]:
        """Give how many timers there are, and how many of them are parked."""
        return await self._open_lines().run(lambda line: count_timers(line, self.address.schema))

    async def settle_timers(self, settled: Sequence[SettledTimer]) -> int:
        """Take timers away, or let them wait; it may be done twice, which changes nothing more."""
        return await self._open_lines().run(
            lambda line: settle_timers(line, self.address.schema, self._session, settled)
        )

    async def read_snapshots(self, streams: Sequence[str]) -> Sequence[Snapshot]:
        """Give the snapshots that there are."""
        return await self._open_lines().run(
            lambda line: read_snapshots(line, self.address.schema, streams)
        )

    def server_statistics(self) -> ServerStatistics | None:
        """Give what is known of the server; None before the log is open and after it was closed."""
        writer = self._writer
        if writer is None:
            return None
        return ServerStatistics(
            reconnects=writer.reconnects,
            batches_found=writer.found_written,
            batches_sent_again=writer.written_again,
            renewals_failed=self._renewals_failed,
            lease_seconds_left=self._renewed_at + self.address.lease_seconds - self._now(),
        )

    def writing(self) -> tuple[Line, int]:
        """Give the connection that appends, and the session, to whoever measures the statement."""
        return self._open_writer().line, self._session

    # -- what is open -----------------------------------------------------------------------

    def _open_lines(self) -> Lines:
        if self._lines is None:
            raise self._closed()
        return self._lines

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise self._closed()
        return self._writer

    def _closed(self) -> StoreFailed:
        return StoreFailed(f"{self.address.name} is closed", written=False)
