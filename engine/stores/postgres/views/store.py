"""Views in PostgreSQL: the tables of all projections and their checkpoints, in one schema.

Rules: one link writes, all projections in turn, and writes that wait share a transaction, each with
its checkpoint in it; other links read, one snapshot for each answer. Rows for projectors have a
link of their own, so that they wait for no transaction. Each table belongs to a history: if the log
is another one than that of its checkpoint, the table is made anew. Views can be rebuilt, so their
commits are not synced: after a crash of the server they may stand at an earlier checkpoint, never
at a wrong one. What people decide cannot, so its commit is synced, with all commits before it. This
file never writes to the log and never folds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ....errors import StoreFailed, StoreRefused
from ....limits import Limits
from ....model.projection import Projection, ProjectionDefinition
from ....model.rows import Flat, Scalar
from ....runtime.ports import Ports
from ....runtime.safely import safe_logger
from ....statistics import ProjectionFailure
from ...contract.gathering import Gathered, joined, taken, tried
from ...contract.log import LogSource
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
from ..address import Address
from ..failures import LOCKED, sqlstate_of
from ..fence import Fence
from ..log.store import PostgresStore
from ..notices import Notice
from .catalog import Catalog
from .lane import Lane
from .link import Link, Place, limited, transaction
from .names import check_names
from .queries import TableReads
from .schema import has_views
from .sql_tables import Again, GivesNothing, Session, check_dialect
from .stands import Key, Stands
from .states import Served, States
from .writes import UNSYNCED, Writes

__all__ = ["PostgresViews"]

T = TypeVar("T")

HELD_SECONDS: Final = 60.0
"""How long somebody outside may hold what is to be dropped or emptied."""
HELD_AGAIN_SECONDS: Final = 0.5


class PostgresViews(TableReads):
    """Views in the schema beside that of the log."""

    def __init__(
        self,
        address: Address,
        *,
        logger: logging.Logger | None = None,
        builder: str | None = None,
    ) -> None:
        """Take where they are, and the name of what builds here if that is no engine."""
        self._address = address
        self._builder = builder
        self._logger = safe_logger(logger)
        self._told_fallen: Callable[[str], None] | None = None
        self._use(Ports(), Limits(), "", (), None)
        self._is_open = False
        self._waiting: deque[Gathered] = deque()
        self._changed = Notice()

    def _use(
        self,
        ports: Ports,
        limits: Limits,
        log_id: str,
        definitions: Sequence[ProjectionDefinition],
        fence: Fence | None,
    ) -> None:
        self._ports = ports
        self._begin = UNSYNCED
        if fence is not None:
            self._begin = limited(UNSYNCED, self._address)
        self._place = Place(self._address, ports)
        self._lane = Lane(self._place)
        self._fetching = Lane(self._place, reads=True)
        self._catalog = Catalog(self._place, log_id, definitions, self._builder, fence)
        self._stands = Stands(self._place.schema, self._has_fallen)
        self._writes = Writes(self._catalog, self._stands, self._place, self._reach)
        self._place.connected = self._look_back
        served = _Served(self._catalog, self._stands)
        self._states = States(self._place, served, limits, definitions)
        self._rows_max = limits.query_rows
        self._running: tuple[Part, Link] | None = None
        self._read_by: dict[tuple[str, int, int], Link] = {}
        """The link by which it was last read where a part stands: projection, build, slice."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Transactions by projection that readers see, and may see."""

    @property
    def is_kept(self) -> bool:
        """Whether the server keeps it, which it does."""
        return True

    def check(self, definition: ProjectionDefinition) -> None:
        """Raise DefinitionError for SQL that is not PostgreSQL's, or a name that it would cut."""
        check_dialect(definition)
        check_names(definition)

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
        fence = store.fence if isinstance(store, PostgresStore) else None
        self._use(ports, limits, store.log_id, definitions, fence)
        try:
            await self._lane.open()
            if self._builder is not None:
                await self._lane.run(self._refuse_none)
            await self._lane.run(self._catalog.open, store, rebuild, self._logger)
        except BaseException:
            await self.close()
            raise
        self._fetching.begin()
        self._is_open = True
        if isinstance(store, PostgresStore):
            self._changed.begin(partial(store.tell, "views"))

    async def _refuse_none(self, link: Link) -> None:
        if not await has_views(link, self._place):
            raise StoreRefused(
                f"there are no views in {self._place.name} to build beside: start the engine, "
                f"which makes them"
            )

    async def close(self) -> None:
        """Close; a second call does nothing. Queries that still run are ended."""
        self._is_open = False
        await self._changed.end()
        await self._states.close()
        await self._fetching.close()
        await self._lane.close()

    def on_fallen(self, call: Callable[[str], None]) -> None:
        """Tell of projections whose views stand earlier than was committed."""
        self._told_fallen = call

    async def _look_back(self, link: Link) -> None:
        await self._stands.compare(link, self._stands.now())

    def _has_fallen(self, projection: str) -> None:
        self._logger.warning(
            "the server %s has lost the last changes of projection %s, as a server that was killed "
            "may: they are folded again from the log",
            self._place.name,
            projection,
        )
        if self._told_fallen is not None:
            self._told_fallen(projection)

    # -- the projectors' side -----------------------------------------------------------------

    async def checkpoint(self, part: Part) -> Checkpoint:
        """Give how far a part has come."""
        checkpoint = await self._lane.run(self._read_checkpoint, part)
        self._stands.note(part, checkpoint.position)
        return checkpoint

    async def _read_checkpoint(self, link: Link, part: Part) -> Checkpoint:
        found = await self._writes.checkpoint(link, part)
        self._read_by[part.definition.name, part.build, part.slice] = link
        return found

    def _check_link(self, link: Link, part: Part) -> None:
        """Raise StoreFailed on another link than that by which it was read where a part stands.

        Behind it may be another server, which lacks events that are folded in memory.
        """
        read_by = self._read_by.get((part.definition.name, part.build, part.slice), link)
        if read_by is not link:
            raise StoreFailed(
                f"the connection to {self._place.name} was made anew: what stands there is looked "
                f"at first. Nothing was written",
                written=False,
                passes=True,
            )

    async def fetch(
        self, part: Part, keys: Mapping[str, Sequence[Scalar]]
    ) -> Mapping[str, Sequence[Flat]]:
        """Give the rows of these keys, by table attribute, as far as they are committed."""
        return await self._fetching.run(self._writes.fetch, part, keys)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write rows, parked events and checkpoint in one transaction, with others that wait.

        Tells whether it is the first of its part in that transaction.
        """
        write = Gathered(changes)
        if self._is_open:
            self._waiting.append(write)
        return self._write_in_turn(write)

    async def _write_in_turn(self, write: Gathered) -> bool:
        await tried(self._waiting, write, self._lane.run(self._write_gathered, write))
        return write.first

    async def _write_gathered(self, link: Link, write: Gathered) -> None:
        """Return when a write is done, with what waits before it; raise what prevented it."""
        while not write.is_done:
            await self._write_together(link, taken(self._waiting) or [write])
        if write.error is not None:
            raise write.error

    async def _write_together(self, link: Link, writes: Sequence[Gathered]) -> None:
        together = joined(writes)
        error: Exception | None = None
        try:
            await self._write(link, together)
        except Exception as why:
            if len(writes) > 1 and link.is_open:
                # Each by itself, so that no part pays for another's.
                for write in writes:
                    await self._write_together(link, [write])
                return
            error = why
        for write in writes:
            write.error, write.is_done = error, True

    async def _write(self, link: Link, together: Sequence[Changes]) -> None:
        for changes in together:
            self._check_link(link, changes.part)
        async with transaction(link, self._begin):
            for changes in together:
                await self._writes.rows(link, changes)
                await self._writes.settle(link, changes)
                self._may_be_seen(changes.part)
        for changes in together:
            self._committed(changes)

    def end_statement(self, part: Part) -> None:
        """End the connection on which a statement runs for a part; the server takes all back."""
        if self._running is not None and self._running[0] is part:
            self._running[1].end()

    async def write_by(self, part: Part, call: SqlCall) -> Changes | None:
        """Run a call that writes a part's tables by SQL, and what it gives, in one transaction."""
        return await self._lane.run(self._write_by, part, call)

    async def _write_by(self, link: Link, part: Part, call: SqlCall) -> Changes | None:
        careful = False
        while True:
            try:
                return await self._write_once(link, part, call, careful=careful)
            except GivesNothing:
                return None
            except Again:
                careful = True  # run again behind this, so that no error seems to come of it

    async def _write_once(self, link: Link, part: Part, call: SqlCall, *, careful: bool) -> Changes:
        self._check_link(link, part)
        own = self._catalog.own(part.definition, part.build)
        begin = f'{self._begin}; SET LOCAL search_path TO "{self._place.schema}"'
        async with transaction(link, begin):
            session = Session(own, link, self._rows_max, careful=careful)
            self._running = part, link
            try:
                changes = await call(session)
            finally:
                self._running = None
                session.end()
            if changes is None:
                raise GivesNothing
            await self._writes.settle(link, changes)
            self._may_be_seen(part)
        self._committed(changes)
        return changes

    def _may_be_seen(self, part: Part) -> None:
        name = part.definition.name
        before, most = self.transactions(name)
        shown = self._catalog.is_shown(name, part.build)
        self._seen[name] = before, max(most, before + shown)

    def _committed(self, changes: Changes) -> None:
        part = changes.part
        self._stands.note(part, changes.after.position)
        after = self.transactions(part.definition.name)[1]
        self._seen[part.definition.name] = after, after
        self._changed.note()
        self._reach("views.committed")

    async def parked_keys(self, part: Part) -> Mapping[str, int]:
        """Give the keys of a part whose events are parked, and how many of each."""
        return await self._lane.run(self._catalog.books.parked_keys, part)

    async def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the serving build, in order of position."""
        return await self._lane.run(self._catalog.parked, projection, key, after, limit)

    async def skipped(self, definition: ProjectionDefinition) -> Mapping[int, int]:
        """Give what somebody decided to skip, for this version: checksums by position."""
        books = self._catalog.books
        return await self._lane.run(books.skipped, definition.name, definition.version)

    # -- builds and decisions -----------------------------------------------------------------

    async def builds(self, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        return await self._lane.run(self._catalog.builds, projection)

    async def undeclared(self, *, with_tables: bool = True) -> Sequence[str]:
        """Name projections that have tables here, and are not this program's."""
        return await self._lane.run(self._catalog.undeclared, with_tables)

    async def is_paused(self, projection: str) -> bool:
        """Tell whether the last word on a projection was to pause it."""
        return await self._lane.run(self._catalog.books.is_paused, projection)

    async def begin_build(
        self, definition: ProjectionDefinition, decision: ProjectionDecision | None = None
    ) -> Build:
        """Make empty tables beside those that serve; give the build where there is one already."""
        return await self._patiently(self._catalog.begin, definition, decision)

    async def swap(
        self, definition: ProjectionDefinition, build: int, decision: ProjectionDecision
    ) -> None:
        """Let a build serve from now on; the one that served becomes former."""
        swap = partial(self._catalog.swap, reach=self._reach)
        await self._lane.run(self._exchange, definition, swap, definition, build, decision)

    async def _patiently(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run what needs locks that readers outside may hold, until they let go of them.

        Between two tries others write. A swap is tried again by who asked for it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + HELD_SECONDS
        while True:
            try:
                return await self._lane.run(call, *args)
            except StoreFailed as error:
                held = error.__cause__ is not None and sqlstate_of(error.__cause__) == LOCKED
                if not held or loop.time() >= end:
                    raise
            await asyncio.sleep(HELD_AGAIN_SECONDS)

    async def _exchange(
        self,
        link: Link,
        definition: ProjectionDefinition,
        call: Callable[..., Awaitable[None]],
        *args: Any,
    ) -> None:
        """Exchange or empty what queries see of a projection: a transaction of it as well."""
        before = self.transactions(definition.name)[0]
        self._seen[definition.name] = before, before + 1
        self._stands.forget(definition.name)
        try:
            await call(link, *args)
        finally:  # else who watches asks without end, for what is never seen
            self._seen[definition.name] = before + 1, before + 1
        self._changed.note()

    async def drop(
        self, projection: str, build: int, decision: ProjectionDecision | None = None
    ) -> None:
        """Take a build's tables away, when the answers that came before have ended."""
        await self._states.passed()
        self._stands.forget(projection, build)
        await self._patiently(self._catalog.drop, projection, build, decision)

    async def reset(self, definition: ProjectionDefinition, decision: ProjectionDecision) -> None:
        """Empty the tables that serve, and put their checkpoints back to 0."""
        reset = self._catalog.reset
        await self._patiently(self._exchange, definition, reset, definition, decision)

    async def decide(self, decision: ProjectionDecision) -> None:
        """Keep a decision; with that to skip an event, it is parked no more."""
        await self._lane.run(self._catalog.decide, decision)

    async def decisions(self, projection: str | None = None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        return await self._lane.run(self._catalog.books.decisions, projection)

    async def standstills(self, projection: str) -> Sequence[Standstill]:
        """Give which parts of a projection's builds are stopped, and why."""
        found = await self._lane.run(self._catalog.books.standstills)
        return [standstill for standstill in found if standstill.projection == projection]

    async def note_failure(self, part: Part, failure: ProjectionFailure | None) -> None:
        """Note for other processes why a part is stopped, or that it goes on."""
        now = self._ports.clock.now()
        await self._lane.run(self._catalog.note_failure, part, failure, now)

    # -- requests of other processes ----------------------------------------------------------

    async def change_count(self) -> int | None:
        """Give a number that changes when another process has asked for something."""
        return await self._lane.run(self._catalog.books.newest_request)

    async def take_request(self) -> Request | None:
        """Give the first request without an answer; one that waited is now begun, synced."""
        return await self._lane.run(self._catalog.take_request)

    async def put_back_request(self, number: int) -> None:
        """Let a request that was taken wait again: nothing of it was done."""
        await self._lane.run(self._catalog.put_back_request, number)

    async def answer_request(self, number: int, outcome: Outcome) -> None:
        """Say what became of a request, synced."""
        now = self._ports.clock.now()
        await self._lane.run(self._catalog.answer_request, number, outcome, now)

    def _reach(self, name: str) -> None:
        if self._ports.failpoint is not None:
            self._ports.failpoint(name)

    # -- the queries' side --------------------------------------------------------------------

    def serves(self, projection: str) -> bool:
        """Tell whether the tables that serve can be read as they are declared."""
        return self._catalog.serves(projection)

    def transactions(self, projection: str) -> tuple[int, int]:
        """Give how many of a projection's transactions queries see for certain, and may see."""
        return self._seen.get(projection, (0, 0))

    def state(self, *, holding: float = 0) -> ViewsState:  # noqa: ARG002 - the contract's
        """Give the views as they are at its first read; see `ViewsStates.state`."""
        return self._states.state()

    async def _run(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if not self._is_open:
            raise StoreFailed(f"the views in {self._place.name} are closed", written=False)
        return await self._states.run(call, *args)


class _Served:
    """The tables that serve, as the engine's own catalog knows them."""

    def __init__(self, catalog: Catalog, stands: Stands) -> None:
        self._catalog = catalog
        self._stands = stands

    def stands(self) -> Mapping[Key, int]:
        return self._stands.now()

    def serves(self, projection: str) -> bool:
        return self._catalog.serves(projection)

    async def served(self, link: Link, known: Mapping[Key, int]) -> Served:
        if link.line.pooled:
            await self._stands.compare(link, known)
        return Served(self._catalog.shown, self._catalog.reals)
