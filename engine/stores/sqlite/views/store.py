"""Views in SQLite: the tables of all projections and their checkpoints, in one file or in memory.

Rules: one worker writes, all projections in turn, one transaction each with its checkpoint in it;
another reads, on connections that cannot write, one state of the views for each answer. (In memory
there is one connection, and one worker does both.) Each table belongs to a history: if the log is
another one than that of its checkpoint, the table is made anew. Views can be rebuilt, so they are
not synced at each commit: after a power loss they may stand at an earlier checkpoint, never at a
wrong one. What people decide cannot, so its commit is synced, with all commits before it. This file
never writes to the log and never folds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import apsw

from ....errors import StoreFailed
from ....limits import Limits
from ....model.projection import Projection, ProjectionDefinition
from ....model.rows import Flat, Scalar
from ....runtime.ports import Ports, Worker
from ....runtime.safely import safe_logger
from ....statistics import ProjectionFailure
from ...contract.gathering import Gathered, tried
from ...contract.log import LogSource
from ...contract.planning import Plan
from ...contract.requests import Outcome, Request
from ...contract.views import (
    Build,
    Changes,
    Checkpoint,
    Parked,
    Part,
    ProjectionDecision,
    Rebuild,
    SqlCall,
    Standstill,
    ViewsState,
)
from ..connection import (
    close,
    failures,
    make_wal_durable,
    open_writer,
    run,
    set_pragma,
    transaction,
)
from ..files import Lock, files_of
from ..place import Place
from ..wal import WalInTurn
from .catalog import MEMORY, Builder, Catalog
from .checkpoints import checkpoint_of, move_checkpoint
from .driven import Driven, driven
from .group_commit import GroupCommit
from .opening import hold_views, scrub, set_up
from .parked import is_paused, move_parked, parked_keys, read_decisions, skipped
from .queries import TableReads
from .requests import read_standstills
from .shown import Shown
from .sql_tables import GivesNothing, Statements, check_dialect
from .writes import fetch_rows, write_rows

__all__ = ["SqliteViews"]

T = TypeVar("T")
_CHECKPOINT: Final = """
    SELECT position, checksum FROM checkpoints WHERE projection = ? AND build = ? AND slice = ?"""


class SqliteViews(TableReads):
    """Views on a path, or in memory for ":memory:", where `bytes_max` may bound them."""

    def __init__(
        self,
        path: str,
        *,
        logger: logging.Logger | None = None,
        bytes_max: int | None = None,
        builder: Builder | None = None,
    ) -> None:
        """Take where they are, and what builds here if that is no engine."""
        self._path, self.is_kept = path, path != MEMORY
        self._bytes_max = bytes_max
        self._builder = builder
        self._logger = safe_logger(logger)
        self._ports = Ports()
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._connection: apsw.Connection | None = None
        self._wal: WalInTurn | None = None
        self._place: Place | None = None
        self._hold: Lock | None = None
        self._gathering = GroupCommit(self._write, self._wrote, lambda: self._stopped)
        self._stopped = False
        """Whether a sync has failed: what it was to write is in the kernel alone, which calls it
        written, and whatever builds on it may end up wrong."""
        self._keeper = Catalog(path, "", ())
        self._shown = Shown(path, self._ports, Limits(), self._keeper, self)
        """What queries read."""
        self._rows_max = 0
        self._running: Part | None = None
        """Whose own statements run in the writer's thread."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Transactions by projection that readers see, and may see: changed in the writer's thread,
        the second number just before a commit and the first just after it."""

    def check(self, definition: ProjectionDefinition) -> None:
        """Raise DefinitionError for SQL that is not SQLite's."""
        check_dialect(definition)

    def on_fallen(self, call: Callable[[str], None]) -> None:
        """Do nothing: what loses commits of a file loses the engine beside it, too."""

    # -- life ---------------------------------------------------------------------------------

    async def open(
        self,
        ports: Ports,
        limits: Limits,
        store: LogSource,
        projections: Sequence[type[Projection]],
        *,
        rebuild: Rebuild = "refuse",
    ) -> None:
        """Open or make the tables of these projections."""
        definitions = [projection.__definition__ for projection in projections]
        self._ports, self._rows_max = ports, limits.query_rows
        self._keeper = Catalog(self._path, store.log_id, definitions, self._builder)
        self._shown = Shown(self._path, ports, limits, self._keeper, self)
        self._writer = ports.workers.start("foldline-views")
        try:
            await self._open(store, rebuild)
        except BaseException as error:
            if not isinstance(error, GeneratorExit):  # who is collected waits for nothing
                await self.close()
            raise

    async def _open(self, store: LogSource, rebuild: Rebuild) -> None:
        assert self._writer is not None
        names = await self._writer.run(self._open_writer)
        plans = await self._keeper.plan(store, names, rebuild, self._logger)
        await self._writer.run(self._prepare, plans)
        if self._path == MEMORY:
            assert self._connection is not None
            self._reader = self._writer
            self._shown.share(self._writer, self._connection)
        else:
            self._reader = self._ports.workers.start("foldline-queries")
            await self._shown.open(self._reader, self._place)

    def _open_writer(self) -> frozenset[str]:
        with failures(self._path, "opened", refused=True):
            connection = self._connection = open_writer(files_of(self._ports), self._path)
            memory = self._path == MEMORY
            set_up(connection, self._path, in_memory=memory, bytes_max=self._bytes_max)
            if not memory and self._builder is None:
                self._hold = hold_views(files_of(self._ports), self._path, connection)
            if not memory:
                make_wal_durable(connection, files_of(self._ports), self._path)
                self._wal = WalInTurn(connection, self._ports.clock)
            names = self._keeper.open(connection)
            self._place = None if memory else Place(self._path, files_of(self._ports), written=True)
            return names

    def _prepare(self, plans: Sequence[Plan]) -> None:
        assert self._connection is not None
        with failures(self._path, "prepared"), self._noting_failed_syncs():
            self._keeper.prepare(self._connection, plans)

    async def freeze(self) -> None:
        """Take no more writes: what reads in memory can then be interrupted, like any reader."""
        assert self._path == MEMORY
        await self._on_writer(set_pragma, "query_only", 1)
        assert self._writer is not None
        assert self._connection is not None
        self._shown.share(self._writer, self._connection, only_read=True)

    async def close(self) -> None:
        """Close; a second call does nothing. Queries that still run are interrupted."""
        await self._shown.end()
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        if reader is not None and reader is not writer:
            try:
                await self._shown.close(reader)
            finally:
                await reader.close()
        if writer is not None:
            try:
                await writer.run(self._close_writer)
            finally:
                await writer.close()

    def _close_writer(self) -> None:
        connection, self._connection = self._connection, None
        hold, self._hold = self._hold, None
        self._wal = self._place = None
        try:
            if connection is not None:
                stopped, self._stopped = self._stopped, False
                with failures(self._path, "closed"):
                    close(connection, merging=not stopped)
        finally:
            if hold is not None:
                hold.release()

    # -- the projectors' side -----------------------------------------------------------------

    async def checkpoint(self, part: Part) -> Checkpoint:
        """Give how far a part has come."""
        return await self._on_writer(checkpoint_of, part, self._path)

    async def fetch(
        self, part: Part, keys: Mapping[str, Sequence[Scalar]]
    ) -> Mapping[str, Sequence[Flat]]:
        """Give the rows of these keys, by table attribute."""
        return await self._on_writer(fetch_rows, self._keeper, part, keys)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write rows, parked events and checkpoint in one transaction, with other writes that wait.

        Tells whether it is the first of its part in that transaction.
        """
        return self._write_in_turn(self._gathering.add(changes))

    async def _write_in_turn(self, write: Gathered) -> bool:
        async with self._shown.holds.write():
            await tried(
                self._gathering.waiting, write, self._on_writer(self._write_gathered, write)
            )
        self._shown.fold_in_a_pause(self._wal, self._on_writer)
        return write.first

    def _write_gathered(self, _connection: apsw.Connection, write: Gathered) -> None:
        self._gathering.run(write)

    def _write(self, together: Sequence[Changes]) -> None:
        assert self._connection is not None
        connection = self._connection
        with self._noting_failed_syncs(), transaction(connection):
            for changes in together:
                write_rows(connection, self._keeper, changes)
                self._settle(connection, changes)

    def _wrote(self, together: Sequence[Changes]) -> None:
        for changes in together:
            self._committed(changes.part)
        if self._wal is not None:
            # Noted before the next write of the same turn: it would fold what the disk has not.
            with self._noting_failed_syncs():
                self._wal.merge_if_large()

    async def write_by(self, part: Part, call: SqlCall) -> Changes | None:
        """Run a call that writes a part's tables by SQL, and what it gives, in one transaction."""
        async with self._shown.holds.write():
            changes = await self._on_writer(self._write_by, part, call)
        self._shown.fold_in_a_pause(self._wal, self._on_writer)
        return changes

    def end_statement(self, part: Part) -> None:
        """End the statement that runs for a part."""
        connection = self._connection
        if self._running is part and connection is not None:
            connection.interrupt()

    def _write_by(self, connection: apsw.Connection, part: Part, call: SqlCall) -> Changes | None:
        own = self._keeper.own(connection, part.definition, part.build)

        def by_sql(statements: Statements) -> Changes | None:
            return driven(call(Driven(statements)))

        try:
            with transaction(connection):
                self._running = part
                changes = own.written_by(connection, self._rows_max, by_sql)
                self._running = None
                self._settle(connection, changes)
        except GivesNothing:
            return None
        finally:
            self._running = None
        self._wrote([changes])
        return changes

    def _settle(self, connection: apsw.Connection, changes: Changes) -> None:
        """Write, behind its rows, what a transaction parks and how far it has come."""
        if changes.parked or changes.released:
            move_parked(connection, changes)
        self._reach("views.inserted")
        move_checkpoint(connection, changes, self._keeper)
        self._reach("views.checkpointed")
        part = changes.part
        before, most = self.transactions(part.definition.name)
        shown = self._keeper.is_shown(part.definition.name, part.build)
        self._seen[part.definition.name] = before, max(most, before + shown)

    def _committed(self, part: Part) -> None:
        """Go on behind a commit: readers see it now for certain."""
        self._shown.committed()
        after = self.transactions(part.definition.name)[1]
        self._seen[part.definition.name] = after, after
        self._reach("views.committed")

    async def parked_keys(self, part: Part) -> Mapping[str, int]:
        """Give the keys of a part whose events are parked, and how many of each."""
        return await self._on_writer(parked_keys, part)

    async def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the serving build, in order of position."""
        return await self._on_writer(self._keeper.parked, projection, key, after, limit)

    async def skipped(self, definition: ProjectionDefinition) -> Mapping[int, int]:
        """Give what somebody decided to skip, for this version: checksums by position."""
        return await self._on_writer(skipped, definition.name, definition.version)

    # -- builds and decisions -----------------------------------------------------------------

    async def builds(self, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        return await self._on_writer(self._keeper.builds, projection)

    async def undeclared(self, *, with_tables: bool = True) -> Sequence[str]:
        """Name projections that have tables here, and are not this program's."""
        return await self._on_writer(self._keeper.undeclared, with_tables)

    async def is_paused(self, projection: str) -> bool:
        """Tell whether the last word on a projection was to pause it."""
        return await self._on_writer(is_paused, projection)

    async def begin_build(
        self, definition: ProjectionDefinition, decision: ProjectionDecision | None = None
    ) -> Build:
        """Make empty tables beside those that serve; give the build where there is one already."""
        await self._on_writer(self._keeper.begin, definition, decision)
        return next(b for b in await self.builds(definition.name) if b.state == "building")

    async def swap(
        self, definition: ProjectionDefinition, build: int, decision: ProjectionDecision
    ) -> None:
        """Let a build serve from now on; the one that served becomes former."""
        swap = partial(self._keeper.swap, reach=self._reach)
        await self._change(definition.name, swap, definition, build, decision)

    async def _change(self, *args: Any) -> None:
        async with self._shown.holds.write():
            await self._on_writer(self._exchange, *args)

    def _exchange(
        self, connection: apsw.Connection, name: str, call: Callable[..., None], *args: Any
    ) -> None:
        """Exchange or empty what queries see of a projection: a transaction of it as well."""
        before = self.transactions(name)[0]
        self._seen[name] = before, before + 1
        try:
            call(connection, *args)
        finally:  # else who watches asks without end, for what is never seen
            self._shown.committed()
            self._seen[name] = before + 1, before + 1

    async def drop(
        self, projection: str, build: int, decision: ProjectionDecision | None = None
    ) -> None:
        """Take a build's tables away, when the queries that came before have read them."""
        if self._reader is not None:
            await self._shown.let_begin(self._reader)
        await self._on_writer(self._keeper.drop, projection, build, decision)

    async def reset(self, definition: ProjectionDefinition, decision: ProjectionDecision) -> None:
        """Empty the tables that serve, and put their checkpoints back to 0."""
        await self._change(definition.name, self._keeper.reset, definition, decision)

    async def decide(self, decision: ProjectionDecision) -> None:
        """Keep a decision; with that to skip an event, it is parked no more."""
        await self._on_writer(self._keeper.decide, decision)

    async def decisions(self, projection: str | None = None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        return await self._on_writer(read_decisions, projection)

    async def standstills(self, projection: str) -> Sequence[Standstill]:
        """Give which parts of a projection's builds are stopped, and why."""
        return [s for s in await self._on_writer(read_standstills) if s.projection == projection]

    async def note_failure(self, part: Part, failure: ProjectionFailure | None) -> None:
        """Note for other processes why a part is stopped, or that it goes on."""
        await self._on_writer(self._keeper.note_failure, part, failure, self._ports.clock.now())

    # -- requests of other processes ----------------------------------------------------------

    async def change_count(self) -> int | None:
        """Give a number that changes when another process has committed; None where none can."""
        in_file = self._path != MEMORY
        return int((await self._on_writer(run, "PRAGMA data_version"))[0][0]) if in_file else None

    async def take_request(self) -> Request | None:
        """Give the first request without an answer; one that waited is now begun, synced."""
        return await self._on_writer(self._keeper.take_request)

    async def put_back_request(self, number: int) -> None:
        """Let a request that was taken wait again: nothing of it was done."""
        await self._on_writer(self._keeper.put_back_request, number)

    async def answer_request(self, number: int, outcome: Outcome) -> None:
        """Say what became of a request, synced."""
        await self._on_writer(self._keeper.answer_request, number, outcome, self._ports.clock.now())

    # -- the writer ---------------------------------------------------------------------------

    async def scrub(self) -> None:
        """Write the file anew, without what was deleted from it."""
        await self._on_writer(scrub, files_of(self._ports), self._path)

    async def _on_writer(self, call: Callable[..., T], *args: Any) -> T:
        if self._writer is None:
            raise StoreFailed(f"the views {self._path} are closed", written=False)
        return await self._writer.run(self._written, call, args)

    def _written(self, call: Callable[..., T], args: Sequence[Any]) -> T:
        assert self._connection is not None
        if self._stopped:
            raise StoreFailed(
                f"the views {self._path} take nothing more since a sync of their file has failed: "
                f"see to the disk, then start the engine again, which reads what is there",
                written=False,
            )
        if self._place is not None:
            self._place.check()
        with failures(self._path, "written or read"), self._noting_failed_syncs():
            try:
                return call(self._connection, *args)
            except apsw.FullError as error:
                if self._bytes_max is None:
                    raise
                raise StoreFailed(
                    f"these views take more than the {self._bytes_max} bytes that they may "
                    f"(Limits.past_bytes): fold fewer projections, or raise the limit",
                    written=False,
                ) from error
            finally:
                self._shown.committed()

    @contextmanager
    def _noting_failed_syncs(self) -> Generator[None]:
        try:
            yield
        except apsw.IOError as error:
            self._stopped = getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC
            if self._stopped:
                raise StoreFailed(
                    f"the views {self._path} could not be written: a sync has failed, and whether "
                    f"this was kept shows when they are opened again: {error}",
                    written=None,
                ) from error
            raise

    def _reach(self, name: str) -> None:
        if self._ports.failpoint is not None:
            self._ports.failpoint(name)

    # -- the queries' side --------------------------------------------------------------------

    def serves(self, projection: str) -> bool:
        """Tell whether the tables that serve can be read as they are declared."""
        return self._keeper.serves(projection)

    def transactions(self, projection: str) -> tuple[int, int]:
        """Give how many of a projection's transactions queries see for certain, and may see."""
        return self._seen.get(projection, (0, 0))

    def state(self, *, holding: float = 0) -> ViewsState:
        """Give the views as they are at its first read; see `ViewsStates.state`."""
        return self._shown.state(holding=holding)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await self._shown.run(call, *args)
