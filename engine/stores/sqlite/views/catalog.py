"""Which builds a file of views has, and what people decided: kept, looked up, and synced.

Rules: everything here runs in the worker that writes, on its connection, each call whole or not at
all. A decision's commit is synced, and all commits before it with it: tables can be folded again
from the log, and what somebody decided cannot. What queries read is one mapping that is replaced
and never changed, since they run in another thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import apsw
import msgspec

from ....errors import StoreRefused
from ....model.projection import ProjectionDefinition
from ....statistics import ProjectionFailure
from ...contract.builds import numbered, serving
from ...contract.known_builds import KnownBuilds
from ...contract.log import LogSource
from ...contract.outside import Found
from ...contract.planning import Plan
from ...contract.requests import Outcome, Request
from ...contract.views import Build, Parked, Part, ProjectionDecision, Rebuild
from ..connection import floats_are_exact, set_pragma, transaction
from .builds import (
    claim,
    drop_build,
    empty_build,
    make_build,
    open_file,
    own_names,
    read_builds,
    real_name,
    refuse_taken_names,
    swap_builds,
    table_names,
)
from .parked import add_decision, read_parked, release
from .planner import prepare
from .requests import answer, begin, forget_failures, note_failure, oldest_open, put_back
from .sql_tables import SqlTables
from .tables import TableSql

__all__ = ["MEMORY", "Builder", "Catalog"]

MEMORY = ":memory:"


class Builder(msgspec.Struct, frozen=True):
    """A process that only builds, beside an engine."""

    token: str
    """Names it in the builds that are its own."""
    engine_runs: Callable[[], bool]
    """Tells whether an engine has the log open."""


class Catalog(KnownBuilds[TableSql]):
    """The builds and decisions of one file, for one log and the projections of one program."""

    def __init__(
        self,
        path: str,
        log_id: str,
        definitions: Sequence[ProjectionDefinition],
        builder: Builder | None = None,
    ) -> None:
        """Take whose they are, and what builds here if that is no engine."""
        super().__init__(path, log_id, definitions)
        self._path = path
        self.builder = None if builder is None else builder.token
        self._beside = builder
        self._floats_exact = False
        self._own: dict[tuple[str, int], SqlTables] = {}
        """By projection and build, for those that are written by SQL of their own."""

    # -- what there is ------------------------------------------------------------------------

    def own(
        self, connection: apsw.Connection, definition: ProjectionDefinition, number: int
    ) -> SqlTables:
        """Give the tables of a build that its projection makes by SQL."""
        known = self._own.get((definition.name, number))
        if known is None:
            names = own_names(definition, number)
            known = SqlTables(definition.name, names, table_names(connection))
            self._own[definition.name, number] = known
        return known

    def _tables_of(self, definition: ProjectionDefinition, number: int) -> Mapping[str, TableSql]:
        return {
            attribute: TableSql(
                table,
                floats_exact=self._floats_exact,
                name=real_name(table.name, number),
                sliced=definition.slices > 1,
            )
            for attribute, table in definition.tables.items()
        }

    def _read(self, connection: apsw.Connection) -> None:
        self._take(read_builds(connection))

    def _know(self, connection: apsw.Connection, definition: ProjectionDefinition) -> None:
        """Read again which builds there are of a projection, and what they are called."""
        self._read(connection)
        self._serve([definition], lambda declared, build: self._tables_of(declared, build.number))

    # -- opening ------------------------------------------------------------------------------

    def open(self, connection: apsw.Connection) -> frozenset[str]:
        """Read what the file has, or make it; give the names of its tables."""
        open_file(connection, self._path, self.log_id)
        self._floats_exact = floats_are_exact(connection)
        self._read(connection)
        return table_names(connection)

    async def plan(
        self, store: LogSource, names: frozenset[str], rebuild: Rebuild, logger: logging.Logger
    ) -> Sequence[Plan]:
        """Decide what becomes of each projection; raise StoreRefused where nobody knows."""

        def lacks_a_table(build: Found) -> bool:
            reals = (real_name(table, build.number).lower() for table in build.tables)
            return any(real not in names for real in reals)

        beside = self.builder is not None
        return await self._planned(store, lacks_a_table, rebuild, logger, beside=beside)

    def prepare(self, connection: apsw.Connection, plans: Sequence[Plan]) -> None:
        """Do what was planned."""
        new = {
            plan.definition.name: list(self._tables_of(plan.definition, plan.number).values())
            for plan in plans
            if plan.make is not None
        }
        with self._deciding(connection):
            self._refuse_change(read_builds(connection), plans)
            prepare(connection, plans, new, self.log_id, self._path)
            for plan in plans:
                if not self._is_an_engines(plan):
                    self._take_over(connection, plan.definition)
        for plan in plans:
            self._know(connection, plan.definition)

    def _is_an_engines(self, plan: Plan) -> bool:
        """Tell whether an engine at work has the build that a process beside it came for.

        Asked inside the transaction: an engine locks the log before it takes its builds here, so
        one that comes later takes them back.
        """
        found = next((b for b in plan.builds if b.state == "building" and b not in plan.drop), None)
        if self._beside is None or found is None or found.builder is not None:
            return False
        return self._beside.engine_runs()

    def _take_over(self, connection: apsw.Connection, definition: ProjectionDefinition) -> None:
        """Note that what fits is built by whoever opened this, and that nothing has failed yet."""
        name = definition.name
        for build in read_builds(connection):
            mine = build.projection == name and build.fits(definition, self.hashes[name])
            # A build that serves is an engine's, whatever a former release has left there.
            serves = build.state == "serving" and self.builder is None and build.builder is not None
            if mine and (build.state == "building" or serves):
                claim(connection, build, self.builder)
            if mine and (build.state == "building" or self.builder is None):
                forget_failures(connection, name, build.number)

    @contextmanager
    def _deciding(self, connection: apsw.Connection) -> Generator[None]:
        """Commit what is done inside, synced, and all commits before it with it."""
        if self._path == MEMORY:
            with transaction(connection):
                yield
            return
        set_pragma(connection, "synchronous", 2)
        try:
            with transaction(connection):
                yield
        finally:
            set_pragma(connection, "synchronous", 1)

    # -- builds -------------------------------------------------------------------------------

    def builds(self, connection: apsw.Connection, projection: str) -> Sequence[Build]:
        """Give the builds of a projection, by number."""
        self._read(connection)
        return self._told(projection)

    def undeclared(self, connection: apsw.Connection, with_tables: bool) -> Sequence[str]:
        """Name projections that have tables here, or none, and are not this program's."""
        self._read(connection)
        return self._undeclared(with_tables=with_tables)

    def begin(
        self,
        connection: apsw.Connection,
        definition: ProjectionDefinition,
        decision: ProjectionDecision | None,
    ) -> None:
        """Make a build beside the one that serves, unless there is one."""
        name, hash_now = definition.name, self.hashes[definition.name]
        self._read(connection)
        builds = self._builds.get(name, ())
        if any(b.state == "building" and b.fits(definition, hash_now) for b in builds):
            self._know(connection, definition)  # somebody else has made it, or this very call did
            return
        number = 1 + max((build.number for build in builds), default=0)
        tables = list(self._tables_of(definition, number).values())
        with self._deciding(connection):
            for build in builds:
                if build.state == "building":
                    drop_build(connection, build)
            refuse_taken_names(connection, self._path, definition, builds)
            make_build(connection, definition, hash_now, number, "building", self.log_id, tables)
            if decision is not None:
                add_decision(connection, decision)
        self._know(connection, definition)

    def swap(
        self,
        connection: apsw.Connection,
        definition: ProjectionDefinition,
        number: int,
        decision: ProjectionDecision,
        reach: Callable[[str], None],
    ) -> None:
        """Let a build serve; the one that served becomes former."""
        self._read(connection)
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
            with self._deciding(connection):
                swap_builds(connection, serving(builds), new)
                add_decision(connection, decision)
                reach("views.swapping")
        reach("views.swapped")
        self._know(connection, definition)
        self.swapping.pop(definition.name, None)

    def drop(
        self,
        connection: apsw.Connection,
        projection: str,
        number: int,
        decision: ProjectionDecision | None,
    ) -> None:
        """Take a build's tables away."""
        self._read(connection)
        found = numbered(self._builds.get(projection, ()), number, projection)
        self._refuse_drop(found)
        with self._deciding(connection):
            drop_build(connection, found)
            if decision is not None:
                add_decision(connection, decision)
        self._sql.pop((projection, number), None)
        self._own.pop((projection, number), None)
        self._read(connection)

    def reset(
        self,
        connection: apsw.Connection,
        definition: ProjectionDefinition,
        decision: ProjectionDecision,
    ) -> None:
        """Empty the tables that serve."""
        self._read(connection)
        now = serving(self._builds.get(definition.name, ()))
        assert now is not None, "opening made a build that serves for every projection"
        with self._deciding(connection):
            empty_build(connection, now, definition)
            add_decision(connection, decision)

    # -- decisions ----------------------------------------------------------------------------

    def decide(self, connection: apsw.Connection, decision: ProjectionDecision) -> None:
        """Keep a decision; with that to skip an event, it is parked no more."""
        with self._deciding(connection):
            add_decision(connection, decision)
            if decision.kind == "skip":
                release(connection, decision)

    # -- for other processes

    def note_failure(
        self, connection: apsw.Connection, part: Part, failure: ProjectionFailure | None, now: int
    ) -> None:
        """Note why a part is stopped, or that it goes on; not synced, since it is found again.

        A build that was dropped, or that another process has taken over, is left alone.
        """
        with transaction(connection):
            builds = read_builds(connection)
            name = part.definition.name
            mine = (name, part.build, self.builder)
            if any((b.projection, b.number, b.builder) == mine for b in builds):
                note_failure(connection, part, failure, now)

    def take_request(self, connection: apsw.Connection) -> Request | None:
        """Give the first request without an answer, as it was found; it is begun now."""
        found = oldest_open(connection)
        if found is not None and found.state == "waiting":
            with self._deciding(connection):
                begin(connection, found.number)
        return found

    def put_back_request(self, connection: apsw.Connection, number: int) -> None:
        """Let a request wait again."""
        with self._deciding(connection):
            put_back(connection, number)

    def answer_request(
        self, connection: apsw.Connection, number: int, outcome: Outcome, now: int
    ) -> None:
        """Say what became of a request."""
        with self._deciding(connection):
            answer(connection, number, outcome, now)

    # -- what is parked

    def parked(
        self, connection: apsw.Connection, projection: str, key: str | None, after: int, limit: int
    ) -> Sequence[Parked]:
        """Give parked events of the build that serves."""
        now = serving(self._builds.get(projection, ()))
        if now is None:
            return ()
        return read_parked(connection, projection, now.number, key, after, limit)
