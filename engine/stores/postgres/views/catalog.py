"""What is known of the builds in a schema of views, and what opening, swaps and resets do to them.

Rules: everything here runs on the link that writes, each call whole or not at all. A decision's
commit is synced, and all commits before it with it: tables can be folded again from the log, and
what somebody decided cannot. What queries read is one mapping that is replaced and never changed.
An engine decides while it has the log: whose lease has ended changes nothing under the next one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from ....errors import StoreRefused
from ....model.projection import ProjectionDefinition
from ....statistics import ProjectionFailure
from ...contract.builds import numbered, serving
from ...contract.known_builds import KnownBuilds
from ...contract.log import LogSource
from ...contract.membership import NotGathered
from ...contract.outside import Found
from ...contract.planning import Plan
from ...contract.requests import Outcome, Request
from ...contract.views import Build, Parked, Part, ProjectionDecision, Rebuild
from ..fence import Fence
from .builds import Builds
from .link import Link, Place, limited, transaction
from .names import check_names, real_name
from .schema import make_schema, views_lock
from .sql_tables import OwnTables
from .tables import TableSql

__all__ = ["SYNCED", "Catalog", "tables_of"]

SYNCED = "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '60s'"
BRIEFLY = "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '250ms'"
"""For what needs the locks that readers outside may hold: all writes of views wait behind it."""


def tables_of(
    place: Place, definition: ProjectionDefinition, number: int, definition_hash: str, slices: int
) -> Mapping[str, TableSql]:
    """Give the tables of a build, by attribute."""
    return {
        attribute: TableSql(
            table,
            place.schema,
            real_name(table.name, number, definition_hash),
            sliced=slices > 1,
        )
        for attribute, table in definition.tables.items()
    }


class Catalog(KnownBuilds[TableSql]):
    """The builds and decisions of one schema, for one log and the projections of one program."""

    def __init__(
        self,
        place: Place,
        log_id: str,
        definitions: Sequence[ProjectionDefinition],
        builder: str | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Take whose they are, what builds here if that is no engine, and the engine's fence."""
        super().__init__(place.name, log_id, definitions)
        self._place = place
        self.builder = builder
        self.fence = fence
        if fence is not None:
            self.others = fence.others
        self.books_of = Builds(place)
        self.books = self.books_of.books
        self._own: dict[tuple[str, int], OwnTables] = {}
        """By projection and build, for those that are written by SQL of their own."""
        self.reals: Mapping[str, str] = {}
        """What tables are declared as, of all builds that serve, by their real names."""

    # -- what there is ------------------------------------------------------------------------

    def own(self, definition: ProjectionDefinition, number: int) -> OwnTables:
        """Give the tables of a build that its projection makes by SQL."""
        known = self._own.get((definition.name, number))
        if known is None:
            hash_then = self.made_as(definition.name, number)
            names = {
                table.attribute: real_name(table.name, number, hash_then)
                for table in definition.sql_tables.values()
            }
            known = self._own[definition.name, number] = OwnTables(definition.name, names)
        return known

    async def _read(self, link: Link) -> None:
        self._take(await self.books_of.read(link))

    async def _know(self, link: Link, definitions: Sequence[ProjectionDefinition]) -> None:
        """Read again which builds there are of projections, and what they are called."""
        await self._read(link)
        self._serve(
            definitions,
            lambda definition, build: tables_of(
                self._place, definition, build.number, build.definition, build.slices
            ),
        )
        self.reals = {
            self.books_of.real(table, build): table
            for builds in self._builds.values()
            for build in builds
            if build.state == "serving"
            for table in build.tables
        }

    # -- opening ------------------------------------------------------------------------------

    async def open(
        self, link: Link, store: LogSource, rebuild: Rebuild, logger: logging.Logger
    ) -> None:
        """Make or read the schema, and do what opening does with each projection."""
        for definition in self.declared.values():
            check_names(definition)
        await make_schema(link, self._place, self.log_id)
        await self._read(link)
        plans = await self._plan(link, store, rebuild, logger)
        self._refuse_alone(plans)
        new = {
            plan.definition.name: list(
                tables_of(
                    self._place, plan.definition, plan.number, plan.hash, plan.definition.slices
                ).values()
            )
            for plan in plans
            if plan.make is not None
        }
        async with self._deciding(link):
            if self.builder is None:
                # The last write of an engine that had the log before may still be on its way; it is
                # waited for, and no other comes: `Writes` looks whose log it is.
                await self._wait_for_writes(link)
            self._refuse_change(await self.books_of.read(link), plans)
            await self.books_of.prepare(link, plans, new, self.log_id)
            for plan in plans:
                if not await self._is_an_engines(link, plan):
                    await self._take_over(link, plan.definition)
        await self._know(link, list(self.declared.values()))

    def _refuse_alone(self, plans: Sequence[Plan]) -> None:
        """Raise NotGathered where one that runs some slices would decide about all of them."""
        for plan in plans:
            name, hash_now = plan.definition.name, self.hashes[plan.definition.name]
            built = (
                b.state == "building" and b.fits(plan.definition, hash_now) for b in plan.builds
            )
            changes = plan.drop or plan.make or plan.revive or plan.reslice or any(built)
            fence = self.fence
            if changes and self._slices(plan.definition) is not None and fence is not None:
                fence.takes(name)  # so that the slices are gathered, if it is to do that
                raise NotGathered(name)

    def _slices(self, definition: ProjectionDefinition) -> Sequence[int] | None:
        """Give which slices are run here; None for all of them."""
        if self.fence is None:
            return None
        return self.fence.slices(definition.name, definition.slices)

    async def _wait_for_writes(self, link: Link) -> None:
        query = "SELECT 1 FROM {s}.checkpoints FOR UPDATE"
        if self.fence is None or not self.fence.locks:
            await self.books.run(link, query)
            return
        here = {name: self._slices(one) for name, one in self.declared.items()}
        whole = [name for name, slices in here.items() if slices is None]
        # Of others nothing is locked: they write on, and lock in another order.
        parts = [(name, n) for name, slices in here.items() for n in slices or ()]
        query = query.replace(
            " FOR",
            " WHERE projection = ANY($1::text[]) OR (projection, slice) IN "
            "(SELECT * FROM unnest($2::text[], $3::integer[])) FOR",
        )
        names, numbers = [name for name, _ in parts], [n for _, n in parts]
        await self.books.run(link, query, whole, names, numbers)

    async def _plan(
        self, link: Link, store: LogSource, rebuild: Rebuild, logger: logging.Logger
    ) -> Sequence[Plan]:
        there = await self.books_of.relations(link)

        def lacks_a_table(build: Found) -> bool:
            return self.books_of.lacks_a_table(there, build)

        beside = self.builder is not None
        return await self._planned(store, lacks_a_table, rebuild, logger, beside=beside)

    async def _is_an_engines(self, link: Link, plan: Plan) -> bool:
        """Tell whether an engine at work has the build that a process beside it came for."""
        found = next((b for b in plan.builds if b.state == "building" and b not in plan.drop), None)
        if self.builder is None or found is None or found.builder is not None:
            return False
        query = "SELECT 1 FROM {s}.sessions WHERE live AND lease_until > clock_timestamp()"
        return bool(await link.run(self._place.address.sql(query)))

    async def _take_over(self, link: Link, definition: ProjectionDefinition) -> None:
        """Note that what fits is built by whoever opened this, and that nothing has failed yet."""
        name = definition.name
        for build in await self.books_of.read(link):
            mine = build.projection == name and build.fits(definition, self.hashes[name])
            # A build that serves is an engine's, whatever somebody has left there.
            serves = build.state == "serving" and self.builder is None and build.builder is not None
            if mine and (build.state == "building" or serves):
                await self.books_of.claim(link, build, self.builder)
            if mine and (build.state == "building" or self.builder is None):
                slices = self._slices(definition)
                await self.books.forget_failures(link, name, build.number, slices)

    @asynccontextmanager
    async def _deciding(self, link: Link, begin: str = SYNCED) -> AsyncGenerator[None]:
        """Commit what is done inside, synced, and all commits before it with it.

        Raises StoreFailed, with nothing changed, where another engine has the log by now.
        """
        begin = limited(begin, self._place.address)
        if self.fence is not None and self.fence.locks:
            begin = f"{begin}; {views_lock(self._place)}"
        async with transaction(link, begin):
            await self.refuse_former(link)
            yield
            await self.refuse_former(link)  # it may have stood still meanwhile

    async def refuse_former(self, link: Link) -> None:
        """Raise StoreFailed where another one may write the views by now."""
        fence = self.fence
        if fence is None:
            return
        query = fence.query.replace("{log}", self._place.log_schema)
        if not await link.run(query, *fence.values):
            raise fence.fell(self._place.name)

    # -- builds -------------------------------------------------------------------------------

    async def builds(self, link: Link, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        await self._read(link)
        return self._told(projection)

    async def undeclared(self, link: Link, with_tables: bool) -> Sequence[str]:
        """Name projections that have tables here, or none, and are not this program's."""
        await self._read(link)
        return self._undeclared(with_tables=with_tables)

    async def begin(
        self, link: Link, definition: ProjectionDefinition, decision: ProjectionDecision | None
    ) -> Build:
        """Make a build beside the one that serves, unless there is one; give it."""
        name, hash_now = definition.name, self.hashes[definition.name]
        await self._read(link)
        builds = self._builds.get(name, ())
        if not any(b.state == "building" and b.fits(definition, hash_now) for b in builds):
            number = 1 + max((build.number for build in builds), default=0)
            made = tables_of(self._place, definition, number, hash_now, definition.slices)
            async with self._deciding(link, BRIEFLY):
                for build in builds:
                    if build.state == "building":
                        await self.books_of.drop(link, build)
                await self.books_of.refuse_taken_names(link, definition, builds)
                await self.books_of.make(
                    link, definition, hash_now, number, "building", self.log_id, [*made.values()]
                )
                if decision is not None:
                    await self.books.add_decision(link, decision)
        # Also of one that is there: the answer to a former call of this may have been lost.
        await self._know(link, [definition])
        found = await self.builds(link, name)
        return next(build for build in found if build.state == "building")

    async def swap(
        self,
        link: Link,
        definition: ProjectionDefinition,
        number: int,
        decision: ProjectionDecision,
        reach: Callable[[str], None],
    ) -> None:
        """Let a build serve; the one that served becomes former."""
        await self._read(link)
        builds = self._builds.get(definition.name, ())
        new = numbered(builds, number, definition.name)
        if new.builder != self.builder:
            raise StoreRefused(
                f"build {number} of projection {definition.name!r} is built by another process "
                f"now: it was not swapped in. Let that process end, and start the engine again"
            )
        # Else the answer to a former call of this was lost.
        if (new.state, self.swapping.get(definition.name)) != ("serving", number):
            self.swapping[definition.name] = number
            async with self._deciding(link, BRIEFLY):
                await self.books_of.swap(link, serving(builds), new)
                await self.books.add_decision(link, decision)
                reach("views.swapping")
        reach("views.swapped")
        await self._know(link, [definition])
        self.swapping.pop(definition.name, None)

    async def drop(
        self, link: Link, projection: str, number: int, decision: ProjectionDecision | None
    ) -> None:
        """Take a build's tables away."""
        await self._read(link)
        found = numbered(self._builds.get(projection, ()), number, projection)
        self._refuse_drop(found)
        async with self._deciding(link, BRIEFLY):
            await self.books_of.drop(link, found)
            if decision is not None:
                await self.books.add_decision(link, decision)
        self._sql.pop((projection, number), None)
        self._own.pop((projection, number), None)
        await self._read(link)

    async def reset(
        self, link: Link, definition: ProjectionDefinition, decision: ProjectionDecision
    ) -> None:
        """Empty the tables that serve."""
        await self._read(link)
        now = serving(self._builds.get(definition.name, ()))
        assert now is not None, "opening made a build that serves for every projection"
        async with self._deciding(link, BRIEFLY):
            await self.books_of.empty(link, now, definition)
            await self.books.add_decision(link, decision)

    # -- decisions and requests ---------------------------------------------------------------

    async def decide(self, link: Link, decision: ProjectionDecision) -> None:
        """Keep a decision; with that to skip an event, it is parked no more."""
        async with self._deciding(link):
            await self.books.add_decision(link, decision)

    async def note_failure(
        self, link: Link, part: Part, failure: ProjectionFailure | None, now: int
    ) -> None:
        """Note why a part is stopped, or that it goes on; not synced, since it is found again.

        A build that was dropped, or that another process has taken over, is left alone.
        """
        async with self._deciding(link, "BEGIN"):
            mine = (part.definition.name, part.build, self.builder)
            for build in await self.books_of.read(link):
                if (build.projection, build.number, build.builder) == mine:
                    await self.books.note_failure(link, part, failure, now)

    async def take_request(self, link: Link) -> Request | None:
        """Give the first request without an answer, as it was found; it is begun now."""
        found = await self.books.oldest_open(link)
        if found is not None and self.fence is not None and not self.fence.takes(found.projection):
            found = await self._oldest_own(link, self.fence)
        if found is not None and found.state == "waiting":
            async with self._deciding(link):
                await self.books.begin(link, found.number)
        return found

    async def _oldest_own(self, link: Link, fence: Fence) -> Request | None:
        waiting = await self.books.open_requests(link)
        return next((one for one in waiting if fence.takes(one.projection)), None)

    async def put_back_request(self, link: Link, number: int) -> None:
        """Let a request wait again."""
        async with self._deciding(link):
            await self.books.put_back(link, number)

    async def answer_request(self, link: Link, number: int, outcome: Outcome, now: int) -> None:
        """Say what became of a request."""
        async with self._deciding(link):
            await self.books.answer(link, number, outcome, now)

    async def parked(
        self, link: Link, projection: str, key: str | None, after: int, limit: int
    ) -> Sequence[Parked]:
        """Give parked events of the build that serves."""
        now = serving(self._builds.get(projection, ()))
        if now is None:
            return ()
        return await self.books.parked(link, projection, now.number, key, after, limit)
