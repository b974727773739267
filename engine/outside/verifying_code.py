"""What follows from a log by the application's own code: types, snapshots, the rows of projections.

Rules: snapshots are compared with a fold of their stream, and the tables that serve with tables
that are folded anew in memory, up to the same position. It only reads, beside an engine or not. A
projection that cannot be folded so (what is parked or skipped, too large, SQL of its own) is said
to be not looked at. Which rows differ is told by their number alone: keys and values are private.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from ..errors import EngineError
from ..limits import Limits
from ..log.history import Histories
from ..model.aggregate import AggregateDefinition
from ..model.codec import EventRegistry
from ..model.projection import Projection, ProjectionDefinition, TableDefinition
from ..model.sameness import first_difference
from ..model.schema import refuse_misfits
from ..model.stored import Snapshot
from ..personal.vault import reading
from ..queries.past import Pasts, PastViews
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside
from ..stores.contract.builds import definition_hash
from ..stores.contract.outside import NoViewsYet
from ..stores.contract.verifying import Finding, Report
from ..stores.contract.views import Selection, ViewsSource
from ..write.snapshot import Distrusted, Freezer, is_sound
from .log_file import LogFile

__all__ = ["Code", "verify_code"]

_PAGE: Final = 5_000
_DAY_SECONDS: Final = 86_400


class Code(msgspec.Struct, frozen=True):
    """What an application declares."""

    definitions: Sequence[AggregateDefinition]
    projections: Sequence[type[Projection]]
    registry: EventRegistry


async def verify_code(
    outside: Outside,
    code: Code,
    report: Report,
    unlooked: Callable[[str], None],
    rest: Callable[[], None],
    *,
    snapshots_max: int = 1_000,
    ports: Ports | None = None,
) -> None:
    """Compare snapshots, and the tables of projections, with what the code makes of the events.

    Of more than `snapshots_max` snapshots, so many are looked at, from everywhere in their order.
    """
    ports = ports or Ports()
    log = LogFile(outside.log_reader(), ports)
    await log.open()
    try:
        async with reading(code.registry, ports, log.log_id):
            await _Comparing(outside, code, report, unlooked, rest, log, ports).run(snapshots_max)
    finally:
        await log.close()


class _Comparing:
    """One run."""

    def __init__(
        self,
        outside: Outside,
        code: Code,
        report: Report,
        unlooked: Callable[[str], None],
        rest: Callable[[], None],
        log: LogFile,
        ports: Ports,
    ) -> None:
        self._outside = outside
        self._code = code
        self._report = report
        self._unlooked = unlooked
        self._rest = rest
        self._log = log
        self._ports = ports
        # Nobody waits for an answer of these views, and nothing is served by them.
        self._limits = Limits(state_seconds=_DAY_SECONDS)
        self._logger = logging.getLogger("foldline.verify")
        self._logger.addHandler(logging.NullHandler())
        self._logger.propagate = False
        self._histories = Histories(
            log,
            code.definitions,
            code.registry,
            self._limits,
            workers=ports.workers,
            check_usable=log.worker,
        )

    async def run(self, snapshots_max: int) -> None:
        """Compare everything."""
        try:
            refuse_misfits(
                self._code.registry, await self._log.event_types(), "nothing was changed"
            )
        except EngineError as error:
            self._report(Finding("type", str(error)))
        await self._compare_snapshots(snapshots_max)
        for projection in self._code.projections:
            await self._compare_projection(projection)

    # -- snapshots ----------------------------------------------------------------------------

    async def _compare_snapshots(self, most: int) -> None:
        kinds = {d.kind: d for d in self._code.definitions if d.snapshot_every is not None}
        sound = [s for s in self._snapshots() if is_sound(s)]
        step = max(1, -(-len(sound) // max(1, most)))
        if step > 1:
            self._unlooked(f"{len(sound) - len(sound[::step]):,} snapshots by a fold")
        for snapshot in sound[::step]:
            definition = kinds.get(snapshot.stream.partition(":")[0])
            if definition is not None:
                await self._compare_snapshot(definition, snapshot)
                self._rest()

    def _snapshots(self) -> Sequence[Snapshot]:
        found: list[Snapshot] = []
        with self._outside.copy_source() as source:
            try:
                while page := source.snapshots(found[-1].stream if found else "", _PAGE):
                    found += page
            except (EngineError, ValueError, TypeError):
                pass  # it is told by who reads them one by one
        return found

    async def _compare_snapshot(self, definition: AggregateDefinition, snapshot: Snapshot) -> None:
        stream, _, id_ = snapshot.stream.partition(":")
        registry = self._code.registry
        sealer = registry.sealer if registry.is_personal(definition.appliers) else None
        freezer = Freezer(definition, self._logger, lambda _: None, sealer)
        try:
            kept, _ = freezer.open(snapshot)
            folded = await self._histories.state(definition.cls, id_, snapshot.version, None, None)
        except Distrusted:
            return  # an engine does not use it either
        except EngineError as error:
            text = f"{snapshot.stream} cannot be folded up to its snapshot: {error}"
            self._report(Finding("event", text, snapshot.position, snapshot.stream))
            return
        if (where := first_difference(kept, folded)) is not None:
            text = (
                f"the snapshot of {snapshot.stream} at version {snapshot.version} is another "
                f"state than its events give, first at {where}: the code of {stream} has changed "
                f"without its snapshot_version, or an applier does not give the same twice"
            )
            self._report(Finding("snapshot", text, snapshot.position, snapshot.stream))

    # -- projections --------------------------------------------------------------------------

    async def _compare_projection(self, projection: type[Projection]) -> None:
        definition = projection.__definition__
        name = definition.name
        if not self._is_declared(definition):
            text = f"projection {name!r} serves tables of another definition than it has here"
            self._report(Finding("views", text, name=name))
            return
        if not definition.has_tables:
            return  # a sink, or a reactor: it has no rows
        why = "it has SQL of its own" if definition.sql_tables else self._aside(name)
        if why:
            self._unlooked(f"the rows of projection {name!r}: {why}")
            return
        try:
            async with self._served(projection) as (state, position):
                past = self._past(projection, position)
                async with past:
                    for table in definition.tables.values():
                        await self._compare_table(name, table, state, past.tables, position)
        except NoViewsYet:
            self._unlooked(f"the rows of projection {name!r}: there are none yet")
        except EngineError as error:
            self._report(Finding("views", f"projection {name!r}: {error}", name=name))

    def _is_declared(self, definition: ProjectionDefinition) -> bool:
        with self._outside.operations(readonly=True) as operations:
            builds = [b for b in operations.look().builds if b.projection == definition.name]
        hash_now = definition_hash(definition)
        fitting = [build for build in builds if build.fits(definition, hash_now)]
        if any(build.own != bool(definition.sql_tables) for build in fitting):
            return False
        return not builds or any(build.state == "serving" for build in fitting)

    def _aside(self, name: str) -> str:
        """Say why what is served need not be what a fold gives."""
        with self._outside.operations(readonly=True) as operations:
            if any(decision.kind == "skip" for decision in operations.decisions(name)):
                return "events of it are skipped"
            served = [b for b in operations.look().builds if b.projection == name]
            parked = operations.look().parked
            if any(parked.get((name, build.number)) for build in served):
                return "events of it are parked"
        return ""

    @asynccontextmanager
    async def _served(
        self, projection: type[Projection]
    ) -> AsyncGenerator[tuple[ViewsSource, int]]:
        """Give the tables that serve, as of one moment, and how far they are."""
        name = projection.__definition__.name
        reader = self._outside.views_reader([projection.__definition__], self._limits)
        await reader.open()
        try:
            state = reader.state()
            try:
                table = next(iter(projection.__definition__.tables.values()))
                await state.find(table, Selection(limit=1))  # from here on it is one moment
                positions = state.positions or await reader.positions()
                yield state, positions[name]
            finally:
                state.end()
        finally:
            await reader.close()

    def _past(self, projection: type[Projection], position: int) -> PastViews:
        pasts = Pasts(self._histories, self._log, [projection], {}, self._ports, self._logger)
        return pasts.past(position, None, [projection], None)

    async def _compare_table(
        self, name: str, table: TableDefinition, served: ViewsSource, folded: ViewsSource, at: int
    ) -> None:
        key = table.shape.key
        ours = {getattr(row, key): row async for row in self._rows(table, served)}
        differ = 0
        async for row in self._rows(table, folded):
            differ += ours.pop(getattr(row, key), None) != row
        differ += len(ours)
        if differ:
            text = (
                f"{differ:,} rows of {table.name} differ from what the events give at position "
                f"{at:,}: reset projection {name!r}, which folds them again"
            )
            self._report(Finding("views", text, name=name))

    async def _rows(self, table: TableDefinition, views: ViewsSource) -> AsyncGenerator[Any]:
        """Give all rows by their keys."""
        read = 0
        while True:
            selection = Selection(order_by=table.shape.key, limit=_PAGE, offset=read)
            page = await views.find(table, selection)
            for row in page:
                yield row
            read += len(page)
            self._rest()
            if len(page) < _PAGE:
                return
