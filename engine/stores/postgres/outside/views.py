"""Views in PostgreSQL read from outside: beside the engine that writes them, or without one.

Rules: no lock is taken that anybody waits for, and nothing is made where no views are. Each answer
reads one snapshot, and looks in it whether the tables are still those that are declared here: those
of another version, or declared otherwise, are refused and not believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Final, TypeVar
from zlib import crc32

from ....errors import StoreFailed, StoreRefused
from ....limits import Limits
from ....model.projection import ProjectionDefinition
from ...contract.builds import definition_hash, served_position, serving
from ...contract.outside import Found, Look, NoViewsYet
from ...contract.views import ViewsState
from ..failures import sqlstate_of
from ..views.builds import Builds
from ..views.catalog import tables_of
from ..views.lane import Lane
from ..views.link import Link, Place
from ..views.queries import TableReads
from ..views.schema import check_schema, has_views
from ..views.stands import Key
from ..views.states import Served, States
from ..views.tables import TableSql

__all__ = ["PostgresViewsReader"]

T = TypeVar("T")

_LOOK: Final = (
    "SELECT concat_ws('|', "
    "(SELECT string_agg(concat_ws(',', projection, build, slice, position, xmin), ';' "
    "ORDER BY projection, build, slice) FROM {s}.checkpoints), "
    "(SELECT string_agg(concat_ws(',', projection, number, xmin), ';' "
    "ORDER BY projection, number) FROM {s}.builds), "
    "(SELECT max(number) FROM {s}.decisions), "
    "(SELECT string_agg(xmin::text, ';' ORDER BY projection, build, slice) FROM {s}.failures))"
)
"""Which transaction wrote each of the few rows that every commit of an engine writes one of."""
_NOT_THERE: Final = ("42P01", "3F000")
"""The SQLSTATEs of a table and of a schema that have been dropped."""


class PostgresViewsReader(TableReads):
    """The views of some projections at a place, read-only, from `open` to `close`."""

    def __init__(
        self, place: Place, projections: Sequence[ProjectionDefinition], limits: Limits
    ) -> None:
        self._place = place
        self._definitions = projections
        self._declared = {d.name: (d.version, definition_hash(d)) for d in projections}
        self._limits = limits
        self._builds = Builds(place)
        self._lane: Lane | None = None
        self._states: States | None = None
        self._left_out: Set[str] = frozenset()
        self._leaves_misfits = False
        self._was_there = False
        """Whether there were views at the last look."""
        self._sql: dict[tuple[str, int], Mapping[str, TableSql]] = {}

    async def open(self) -> None:
        """Take calls; the views need not be there yet."""
        self._lane = Lane(self._place, reads=True)
        self._lane.begin()
        self._states = States(self._place, self, self._limits, self._definitions)

    async def close(self) -> None:
        """Close the connections; a second call does nothing. Calls that still run are ended."""
        lane, self._lane = self._lane, None
        states, self._states = self._states, None
        if states is not None:
            await states.close()
        if lane is not None:
            await lane.close()

    # -- what is asked ------------------------------------------------------------------------

    async def look(self) -> Look:
        """Look whether anything was committed. Raises NoViewsYet."""
        return await self._on_lane(self._look)

    async def _look(self, link: Link) -> Look:
        await self._check_there(link)
        text = str((await self._builds.books.run(link, _LOOK))[0][0]).encode()
        return crc32(text), crc32(text[::-1])

    async def positions(self) -> Mapping[str, int]:
        """Give how far the views of each projection are."""
        return await self._on_lane(self._positions)

    async def _positions(self, link: Link) -> Mapping[str, int]:
        return self._served(await self._read_builds(link))

    async def _on_lane(self, call: Callable[[Link], Awaitable[T]]) -> T:
        if self._lane is None:
            raise self._closed()
        return await self._lane.run(call)

    def serves(self, projection: str) -> bool:
        """Say yes, but for what is left out: each call finds out by itself, and says more."""
        return projection not in self._left_out

    def leave_out(self, projections: Set[str], *, misfits: bool) -> None:
        """Serve nothing of these from now on, and with `misfits` of no others' tables."""
        self._left_out, self._leaves_misfits = projections, misfits

    def state(self, *, holding: float = 0) -> ViewsState:  # noqa: ARG002 - the contract's
        """Give the views as they are at its first read; see `ViewsSource.state`."""
        if self._states is None:
            raise self._closed()
        return self._states.state()

    async def _run(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._states is None:
            raise self._closed()
        return await self._states.run(call, *args)

    def _closed(self) -> StoreFailed:
        return StoreFailed(f"the views in {self._place.name} are closed", written=False)

    # -- what serves --------------------------------------------------------------------------

    def stands(self) -> Mapping[Key, int]:
        """Give nothing: each snapshot says where the views stand."""
        return {}

    async def served(
        self,
        link: Link,
        known: Mapping[Key, int],  # noqa: ARG002 - the contract's
    ) -> Served:
        """Give the tables that serve in the snapshot of an answer, known to be those declared."""
        builds = await self._read_builds(link)
        positions = self._served(builds)
        tables = {
            sql.definition.name: sql
            for definition in self._definitions
            if definition.name in positions
            for now in [serving([b for b in builds if b.projection == definition.name])]
            if now is not None
            for sql in self._tables_of(definition, now).values()
        }
        reals = {
            self._builds.real(table, build): table
            for build in builds
            if build.state == "serving"
            for table in build.tables
        }
        return Served(tables, reals, positions)

    def _tables_of(self, definition: ProjectionDefinition, build: Found) -> Mapping[str, TableSql]:
        known = self._sql.get((definition.name, build.number))
        if known is None:
            known = tables_of(self._place, definition, build.number, build.definition, build.slices)
            self._sql[definition.name, build.number] = known
        return known

    async def _check_there(self, link: Link) -> None:
        if not await has_views(link, self._place):
            raise self._nothing_yet()

    async def _read_builds(self, link: Link) -> Sequence[Found]:
        """Read the builds, in one statement once they were seen."""
        builds = await self._read_known(link) if self._was_there else None
        if builds is None:
            await self._check_there(link)
            await check_schema(link, self._place)
            builds = await self._builds.read(link)
        if not builds:
            raise self._nothing_yet()
        self._was_there = True
        return builds

    async def _read_known(self, link: Link) -> Sequence[Found] | None:
        try:
            return await self._builds.read_known(link)
        except Exception as error:
            if sqlstate_of(error) not in _NOT_THERE:
                raise
            self._was_there = False
            raise self._nothing_yet() from error

    def _served(self, builds: Sequence[Found]) -> Mapping[str, int]:
        """Give the positions of the views; raise StoreRefused for those of another definition."""
        found: dict[str, int] = {}
        for name, declared in self._declared.items():
            if name in self._left_out:
                continue
            try:
                found[name] = served_position(name, declared, builds, self._place.name)
            except StoreRefused:
                if not self._leaves_misfits:
                    raise
        return found

    def _nothing_yet(self) -> NoViewsYet:
        return NoViewsYet(
            f"there are no views in {self._place.name} yet: start the engine that writes them, and "
            f"ask again"
        )
