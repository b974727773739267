"""What a store of views knows of its builds: as they were found, which are declared, which serve.

Rules: pure, and one for each store that is open. Nothing is read or written here: a store gives
what it found, and asks what follows. Queries in other threads may look at any moment: what they
look at is replaced whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ...errors import StoreRefused, UsageError
from ...model.projection import ProjectionDefinition
from .builds import definition_hash, serving
from .log import LogSource
from .outside import Found
from .planning import Plan, Planner
from .views import Build, Rebuild

__all__ = ["KnownBuilds"]


class _OfTable(Protocol):
    """The SQL of one table."""

    @property
    def definition(self) -> Any:
        """The table as it is declared."""
        ...


Sql = TypeVar("Sql", bound=_OfTable)


class KnownBuilds(Generic[Sql]):
    """The builds of one log, for the projections of one program."""

    def __init__(self, name: str, log_id: str, definitions: Sequence[ProjectionDefinition]) -> None:
        """Take whose they are, and what people call the views."""
        self._name = name
        self.log_id = log_id
        self.declared = {d.name: d for d in definitions}
        self.hashes = {d.name: definition_hash(d) for d in definitions}
        self.others: frozenset[str] = frozenset()
        """What the same program declares besides, and other engines of it run."""
        self.swapping: dict[str, int] = {}
        """By projection, the build that was to be swapped in and is not known to serve."""
        self._builds: Mapping[str, Sequence[Found]] = {}
        """As they were found last, by projection."""
        self._sql: dict[tuple[str, int], Mapping[str, Sql]] = {}
        """By projection and build, for those with the tables that are declared; by attribute."""
        self._serving: Mapping[str, int] = {}
        """The build that queries read, where it has the tables that are declared."""
        self.shown: Mapping[str, Sql] = {}
        """The tables that queries read, by the name that is declared."""

    def serves(self, projection: str) -> bool:
        """Tell whether the tables that serve can be read as they are declared."""
        return projection in self._serving

    def is_shown(self, projection: str, build: int) -> bool:
        """Tell whether queries read a build."""
        return self._serving.get(projection) == build

    def tables(self, projection: str, build: int) -> Mapping[str, Sql]:
        """Give the tables of a build, by attribute."""
        return self._sql[projection, build]

    def made_as(self, projection: str, build: int) -> str:
        """Give the hash with which a build was made: a former release wrote less of it."""
        now = self.hashes[projection]
        found = (b.definition for b in self._builds.get(projection, ()) if b.number == build)
        then = next(found, now)
        return then if then == now.partition(".")[0] else now

    def _undeclared(self, *, with_tables: bool) -> Sequence[str]:
        """Name what this program does not declare: with tables here, or without any."""
        return sorted(
            name
            for name, builds in self._builds.items()
            if name not in self.declared and any(b.tables for b in builds) is with_tables
        )

    def _refuse_drop(self, build: Found) -> None:
        """Raise UsageError for tables that this program's queries read."""
        if build.state == "serving" and build.projection in self.declared:
            raise UsageError(
                f"build {build.number} of projection {build.projection!r} serves queries: swap "
                f"another in first, or reset it"
            )

    def _take(self, found: Iterable[Found]) -> None:
        """Remember what was found."""
        builds: dict[str, list[Found]] = {}
        for build in found:
            builds.setdefault(build.projection, []).append(build)
        self._builds = builds

    def _serve(
        self,
        definitions: Sequence[ProjectionDefinition],
        tables_of: Callable[[ProjectionDefinition, Found], Mapping[str, Sql]],
    ) -> None:
        """Let queries read what serves now of these projections, if it is what is declared."""
        serving_now = dict(self._serving)
        for definition in definitions:
            name = definition.name
            builds = self._builds.get(name, ())
            for build in builds:
                if build.has(self.hashes[name]):
                    self._sql[name, build.number] = tables_of(definition, build)
            now = serving(builds)
            serving_now.pop(name, None)
            if now is not None and (name, now.number) in self._sql:
                serving_now[name] = now.number
        self._serving = serving_now
        self.shown = {
            sql.definition.name: sql
            for build in serving_now.items()
            for sql in self._sql[build].values()
        }

    async def _planned(
        self,
        store: LogSource,
        lacks_a_table: Callable[[Found], bool],
        rebuild: Rebuild,
        logger: logging.Logger,
        *,
        beside: bool,
    ) -> Sequence[Plan]:
        """Decide what becomes of each projection; raise StoreRefused where nobody knows."""
        planner = Planner(await store.head(), store, lacks_a_table, rebuild, logger)
        return await planner.plan_all(
            self.hashes,
            self.declared,
            self._builds,
            self.others,
            place=self._name,
            beside=beside,
        )

    def _refuse_change(self, found: Sequence[Found], plans: Sequence[Plan]) -> None:
        """Raise StoreRefused where somebody made or dropped a build since it was planned."""
        for plan in plans:
            now = {(b.number, b.state) for b in found if b.projection == plan.definition.name}
            if now != {(build.number, build.state) for build in plan.builds}:
                raise StoreRefused(
                    f"the builds of projection {plan.definition.name!r} in {self._name} were "
                    f"changed by another process just now: nothing was changed here; start again"
                )

    def _told(self, projection: str) -> Sequence[Build]:
        """Give the builds of a projection as they were found, by number."""
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
