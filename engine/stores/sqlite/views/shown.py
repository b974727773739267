"""What queries see of an engine's views: each answer one state of them, beside what writes.

Rules: in a file each answer reads in a transaction that never writes (`States`), and no write waits
for it. Each commit is counted before anybody is told of it: who comes then reads anew. In memory
one connection reads and writes: there an answer tells whether it has seen two states, and is asked
again; the last time writes wait for it, for a moment at most. Where answers that overlap without a
gap keep the write-ahead log from being begun anew, new ones wait for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

import apsw

from ....errors import StoreFailed, StoreRefused
from ....limits import Limits
from ....model.projection import TableDefinition
from ....runtime.ports import Ports, Worker
from ...contract.views import ViewsState
from ..connection import BUSY_MS, OnlyReads, failures, set_pragma
from ..files import files_of
from ..place import Place
from ..wal import WalInTurn
from .catalog import Catalog
from .holds import Holds
from .queries import QueryCalls, Readable, TableReads
from .states import State, States
from .tables import TableSql

__all__ = ["Shown"]

T = TypeVar("T")


class Counted(Protocol):
    """Who counts the transactions."""

    def transactions(self, projection: str) -> tuple[int, int]:
        """See `ViewsStore.transactions`."""
        ...


class Shown:
    """The queries' side of the views on one path, or in memory."""

    def __init__(
        self, path: str, ports: Ports, limits: Limits, keeper: Catalog, counted: Counted
    ) -> None:
        self.transactions = counted.transactions
        self.serves = keeper.serves
        self._path = path
        self._ports = ports
        self._limits = limits
        self._keeper = keeper
        self._calls = QueryCalls(path, ports.stopwatch)
        self._states: States | None = None
        self._workers: list[Worker] = []
        """Threads that read beside the first, where something takes long."""
        self._place: Place | None = None
        self._shared: apsw.Connection | None = None
        """In memory: the connection that writes too."""
        self._known: dict[str, frozenset[str]] = {}
        self._commits = 0
        self.holds = Holds()
        """In memory: which answer lets writes wait."""
        self._folding: asyncio.Task[None] | None = None

    async def open(self, reader: Worker, place: Place | None) -> None:
        """Let the file be read on this worker, as long as it is at its place."""
        self._place = place
        self._calls.begin(reader)
        self._states = States(self._calls, self, self._limits, more=self._start_another)
        await self._states.open()

    def _start_another(self) -> QueryCalls:
        worker = self._ports.workers.start(f"foldline-queries-{len(self._workers) + 2}")
        self._workers.append(worker)
        calls = QueryCalls(self._path, self._ports.stopwatch)
        calls.begin(worker)
        return calls

    def share(
        self, worker: Worker, connection: apsw.Connection, *, only_read: bool = False
    ) -> None:
        """Let the connection be read that writes, on its worker, or did so up to now."""
        self._shared = connection
        seconds = None if only_read else self._limits.state_seconds
        self._calls.begin(worker, interrupting=only_read, seconds=seconds)

    async def end(self) -> None:
        """Take no more calls; interrupt what still runs."""
        self._calls.end()
        if self._states is not None:
            self._states.end()
        if self._folding is not None:
            await asyncio.wait({self._folding})

    async def close(self, reader: Worker) -> None:
        """Close the connections, each in its thread, and end the threads but the first."""
        workers, self._workers = [reader, *self._workers], []
        lanes = [] if self._states is None else self._states.lanes
        failed: BaseException | None = None
        for worker, lane in zip_longest(workers, lanes):
            try:
                if self._states is not None and lane is not None:
                    await worker.run(self._states.close, lane)
            except BaseException as error:
                failed = error
            finally:
                if worker is not reader:
                    await worker.close()
        if failed is not None:
            raise failed

    async def let_begin(self, reader: Worker) -> None:
        """Return when all reads that were asked for have begun, or are begun after this."""
        for worker in (reader, *self._workers):
            await worker.run(_nothing_to_do)

    def state(self, *, holding: float) -> ViewsState:
        """Give the views as they are at its first read; see `ViewsStates.state`."""
        return _SharedState(self, holding) if self._states is None else State(self._states)

    async def run(self, call: Callable[..., T], *args: Any) -> T:
        """Run one read by itself."""
        if self._states is None:
            return await self._calls.run(self._share, call, *args)
        state = State(self._states)
        try:
            return await state.run(call, *args)
        finally:
            state.end()

    # -- in a file ----------------------------------------------------------------------------

    def connect(self) -> apsw.Connection:
        """Open a connection that can only read."""
        with failures(self._path, "opened"):
            connection = files_of(self._ports).connect(self._path, readonly=True)
            if self._place is not None:
                self._place.check()
            set_pragma(connection, "busy_timeout", BUSY_MS)
            set_pragma(connection, "query_only", 1)
            set_pragma(connection, "trusted_schema", 0)
            connection.authorizer = OnlyReads()
            return connection

    def is_usable(self, connection: apsw.Connection) -> bool:  # noqa: ARG002 - the contract's
        """Say yes: nobody puts another file into the place of an engine's."""
        return True

    def tables(
        self,
        connection: apsw.Connection,  # noqa: ARG002 - the contract's
        begin: Callable[[], None],
    ) -> tuple[Mapping[str, TableSql], None]:
        """Begin a read transaction, and give the tables that serve in it."""
        # Those of a moment before are there still, and whole: a build that no longer serves is
        # dropped only when the queries that came before have begun.
        tables = self._keeper.shown
        begin()
        return tables, None

    def commits(self) -> int:
        """Give how often `committed` was called."""
        return self._commits

    def committed(self) -> None:
        """Let no answer that comes from now on join those before; in the writer's thread."""
        self._commits += 1

    def fold_in_a_pause(
        self, wal: WalInTurn | None, on_writer: Callable[..., Awaitable[object]]
    ) -> None:
        """Fold where queries that overlap without a gap kept the last fold from its end."""
        if wal is not None and wal.is_put_off and self._folding is None:
            self._folding = asyncio.ensure_future(self._fold(wal, on_writer))

    async def _fold(self, wal: WalInTurn, on_writer: Callable[..., Awaitable[object]]) -> None:
        assert self._states is not None
        wal.is_put_off = False
        try:
            # What fails here the next write meets too, and says so; or the views are closed.
            with contextlib.suppress(StoreFailed, StoreRefused):
                async with self._states.pause() as nobody_reads:
                    if nobody_reads:
                        await on_writer(wal.merge_on)
        finally:
            self._folding = None

    # -- in memory ----------------------------------------------------------------------------

    @property
    def projections(self) -> Iterable[str]:
        """The names of those that are written."""
        return self._keeper.declared

    def _share(self) -> tuple[apsw.Connection, Readable]:
        connection = self._shared
        assert connection is not None
        bytes_max = self._limits.query_bytes
        return connection, Readable(connection, self._keeper.shown, bytes_max, True, self._known)


class _SharedState(TableReads):
    """Views in memory for one answer: it can tell whether it has seen two states."""

    positions = None

    def __init__(self, shown: Shown, holding: float) -> None:
        self.serves = shown.serves
        self._shown = shown
        self._holding = holding
        """For how many seconds at most writes are to wait for it."""
        self._begins = asyncio.Lock()
        self._release: Callable[[], None] | None = None
        self._calls = 0
        self._saw: dict[str, int] = {}
        """Transactions of the projections that it reads, as they were before it did."""

    @property
    def is_torn(self) -> bool:
        """Whether two reads may have seen two states of one projection."""
        return self._calls > 1 and any(
            self._shown.transactions(name)[1] != seen for name, seen in self._saw.items()
        )

    def end(self) -> None:
        """Let what waits write on."""
        self._holding = 0
        if self._release is not None:
            self._release()

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        async with self._begins:
            if self._holding and self._release is None:
                self._release = await self._shown.holds.begin(self._holding)
                if not self._holding:  # its answer has ended meanwhile
                    self._release()
        self._calls += 1
        read = args[0]
        # A statement may read all tables.
        one = isinstance(read, TableDefinition)
        for name in (read.projection,) if one else self._shown.projections:
            self._saw.setdefault(name, self._shown.transactions(name)[0])
        return await self._shown.run(call, *args)


def _nothing_to_do() -> None:
    """Come when the worker does."""
