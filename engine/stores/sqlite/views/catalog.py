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

from ....errors import StoreRefused, UsageError
from ....model.projection import ProjectionDefinition
from ....statistics import ProjectionFailure
from ...contract.builds import definition_hash, numbered, serving
from ...contract.log import LogSource
from ...contract.outside import Found
from ...contract.planning import Plan, Planner
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


class Catalog:
    """The builds and decisions of one file, for one log and the projections of one program."""

    def __init__(
        self,
        path: str,
        log_id: str,
        definitions: Sequence[ProjectionDefinition],
        builder: Builder | None = None,
    ) -> None:
        """Take whose they are, and what builds here if that is no engine."""
        self._path = path
        self.log_id = log_id
        self.builder = None if builder is None else builder.token
        self._beside = builder
        self.declared = {d.name: d for d in definitions}
        self.hashes = {d.name: definition_hash(d) for d in definitions}
        self._floats_exact = False
        self._builds: Mapping[str, Sequence[Found]] = {}
        """As they are in the file, by projection."""
        self._sql: dict[tuple[str, int], Mapping[str, TableSql]] = {}
        """By projection and build, for those with the tables that are declared; by attribute."""
        self._own: dict[tuple[str, int], SqlTables] = {}
        """By projection and build, for those that are written by SQL of their own."""
        self._serving: Mapping[str, int] = {}
        """The build that queries read, where it has the tables that are declared."""
        self.shown: Mapping[str, TableSql] = {}
        """The tables that queries read, by the name that is declared."""

    # -- what there is ------------------------------------------------------------------------

    def serves(self, projection: str) -> bool:
        """Tell whether the tables that serve can be read as they are declared."""
        return projection in self._serving

    def is_shown(self, projection: str, build: int) -> bool:
        """Tell whether queries read a build."""
        return self._serving.get(projection) == build

    def tables(self, projection: str, build: int) -> Mapping[str, TableSql]:
        """Give the tables of a build, by attribute."""
        return self._sql[projection, build]

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
        found: dict[str, list[Found]] = {}
        for build in read_builds(connection):
            found.setdefault(build.projection, []).append(build)
        self._builds = found

    def _know(self, connection: apsw.Connection, definition: ProjectionDefinition) -> None:
        """Read again which builds there are of a projection, and what they are called."""
        name = definition.name
        self._read(connection)
        builds = self._builds.get(name, ())
        for build in builds:
            if build.definition == self.hashes[name] and (name, build.number) not in self._sql:
                self._sql[name, build.number] = self._tables_of(definition, build.number)
        now = serving(builds)
        readable = now is not None and (name, now.number) in self._sql
        rest = {other: number for other, number in self._serving.items() if other != name}
        # One assignment, which a query in another thread sees whole.
        self._serving = {**rest, name: now.number} if now and readable else rest
        self.shown = {
            sql.definition.name: sql
            for build in self._serving.items()
            for sql in self._sql[build].values()
        }

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

        planner = Planner(await store.head(), store, lacks_a_table, rebuild, logger)
        return await planner.plan_all(
            self.hashes,
            self.declared,
            self._builds,
            place=self._path,
            beside=self.builder is not None,
        )

    def prepare(self, connection: apsw.Connection, plans: Sequence[Plan]) -> None:
        """Do what was planned."""
        new = {
            plan.definition.name: list(self._tables_of(plan.definition, plan.number).values())
            for plan in plans
            if plan.make is not None
        }
        with self._deciding(connection):
            self._refuse_change(connection, plans)
            prepare(connection, plans, new, self.log_id, self._path)
            for plan in plans:
                if not self._is_an_engines(plan):
                    self._take_over(connection, plan.definition)
        for plan in plans:
            self._know(connection, plan.definition)

    def _refuse_change(self, connection: apsw.Connection, plans: Sequence[Plan]) -> None:
        """Raise StoreRefused where somebody made or dropped a build since it was planned."""
        found = read_builds(connection)
        for plan in plans:
            now = {(b.number, b.state) for b in found if b.projection == plan.definition.name}
            if now != {(build.number, build.state) for build in plan.builds}:
                raise StoreRefused(
                    f"the builds of projection {plan.definition.name!r} in {self._path} were "
                    f"changed by another process just now: nothing was changed here; start again"
                )

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
        declared, hash_now = self.declared.get(projection), self.hashes.get(projection, "")
        return [
            Build(
                projection,
                found.number,
                found.version,
                found.state,
                found.position,
                declared is not None and found.fits(declared, hash_now),
                found.builder,
            )
            for found in self._builds.get(projection, ())
        ]

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
        with self._deciding(connection):
            swap_builds(connection, serving(builds), new)
            add_decision(connection, decision)
            reach("views.swapping")
        reach("views.swapped")
        self._know(connection, definition)

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
        if found.state == "serving":
            raise UsageError(
                f"build {number} of projection {projection!r} serves queries: swap another in "
                f"first, or reset it"
            )
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
