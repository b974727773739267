"""What opening does with a projection's builds: which history they belong to, and whether they fit.

Rules: a checkpoint names its log and the checksum of the event at its position. Builds are used
only where all of that is found in the log as it is now; otherwise they are dropped and made anew,
said aloud, and filled again from position 0. A projection whose version or slices were changed is
refused or built beside the old one, as its host says; the same version with other tables is
refused, since nobody said what the old rows mean. This file changes nothing: it plans.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set

import msgspec

from ...errors import Damaged, StoreRefused
from ...model.projection import ProjectionDefinition
from ...runtime.package import COMMAND
from .builds import serving
from .log import Head, LogSource
from .outside import Found
from .views import BuildState, Checkpoint, Rebuild

__all__ = ["Plan", "Planner"]


class Plan(msgspec.Struct, frozen=True):
    """What opening does with one projection."""

    definition: ProjectionDefinition
    hash: str
    builds: Sequence[Found]
    """As they were found."""
    drop: Sequence[Found] = ()
    make: BuildState | None = None
    """Whether a build is begun, and in which state."""
    revive: Found | None = None
    """A former build that is to catch up and serve again."""
    reslice: Found | None = None
    """A build that goes on in as many slices as are declared now."""

    @property
    def number(self) -> int:
        """What a new build is numbered."""
        kept = [build.number for build in self.builds if build not in self.drop]
        return 1 + max(kept, default=0)


class Planner:
    """Plans what opening does with each projection."""

    def __init__(
        self,
        head: Head,
        store: LogSource,
        lacks_a_table: Callable[[Found], bool],
        rebuild: Rebuild,
        logger: logging.Logger,
    ) -> None:
        self._head = head
        self._store = store
        self._lacks_a_table = lacks_a_table
        self._rebuild = rebuild
        self._logger = logger

    async def plan_all(
        self,
        hashes: Mapping[str, str],
        declared: Mapping[str, ProjectionDefinition],
        builds: Mapping[str, Sequence[Found]],
        others: Set[str],
        *,
        place: str,
        beside: bool,
    ) -> Sequence[Plan]:
        """Decide what becomes of each projection; raise StoreRefused where nobody knows.

        `others` are run by other engines of the same program, and `place` is what people call the
        views. With `beside` somebody builds beside an engine.
        """
        if not beside:
            self._log_renamed(declared, builds, others, place)
        plan = self.plan_beside if beside else self.plan
        return [
            await plan(definition, hashes[name], builds.get(name, ()))
            for name, definition in declared.items()
        ]

    def _log_renamed(
        self,
        declared: Mapping[str, ProjectionDefinition],
        builds: Mapping[str, Sequence[Found]],
        others: Set[str],
        place: str,
    ) -> None:
        """Log which projections begin from nothing beside tables that nobody declares any more."""
        left = sorted(builds.keys() - declared.keys() - others)
        new = sorted(name for name in declared if not builds.get(name))
        if left and new:
            self._logger.warning(
                "projections %s have no tables in %s yet and begin at the first event of the log, "
                "and those of %s are there and declared by nobody. If one was renamed, its tables, "
                "checkpoint and decisions do not go along (a sink delivers everything again under "
                "its new name): give it its former name back where that is not meant",
                ", ".join(new),
                place,
                ", ".join(left),
            )

    async def plan(
        self, definition: ProjectionDefinition, hash_now: str, builds: Sequence[Found]
    ) -> Plan:
        """Decide what becomes of a projection; raise StoreRefused where nobody knows."""
        plan = Plan(definition, hash_now, builds)
        now = serving(builds)
        if now is None:
            if definition.sink is not None and self._head.position:
                self._logger.warning(
                    "sink %s has no checkpoint in these views: it delivers all %d events of the "
                    "log, FROM THE BEGINNING",
                    definition.name,
                    self._head.position,
                )
            return msgspec.structs.replace(plan, make="serving")
        why = await self._unusable(now)
        if why is not None:
            self._logger.warning(
                "the views of projection %s do not belong to this log: %s. They are dropped and "
                "rebuilt from the log%s",
                definition.name,
                why,
                ", WHICH DELIVERS EVERYTHING FROM THE BEGINNING" if definition.sink else "",
            )
            return msgspec.structs.replace(plan, drop=builds, make="serving")
        strangers = [b for b in builds if b is not now and await self._unusable(b) is not None]
        plan = msgspec.structs.replace(plan, drop=strangers)
        _refuse_same_version(plan, now)
        if now.fits(definition, hash_now):
            return plan
        if definition.sink is not None:
            return self._changed_sink(plan, now)
        return self._changed(plan, now, [b for b in builds if b not in strangers])

    def _changed(self, plan: Plan, now: Found, builds: Sequence[Found]) -> Plan:
        """Plan for a projection that is declared anew."""
        definition, name = plan.definition, plan.definition.name
        was = f"version {now.version} in {now.slices} slices"
        declared = f"version {definition.version} in {definition.slices} slices"
        fitting = [build for build in builds if build.fits(definition, plan.hash)]
        if any(build.state == "building" for build in fitting):
            self._logger.info("projection %s goes on being built as %s", name, declared)
            return plan
        if self._rebuild != "auto":
            raise StoreRefused(
                f"projection {name!r} is declared as {declared}, and its views are {was}: build "
                f'them anew beside the old ones with `Engine(..., rebuild="auto")`, or, while '
                f"the former release still runs, with `{COMMAND} projections build`. "
                f"Nothing was changed"
            )
        self._logger.info("projection %s is built as %s, beside %s", name, declared, was)
        others = [build for build in builds if build.state == "building"]
        plan = msgspec.structs.replace(plan, drop=(*plan.drop, *others))
        if fitting:
            return msgspec.structs.replace(plan, revive=fitting[-1])
        return msgspec.structs.replace(plan, make="building")

    async def plan_beside(
        self, definition: ProjectionDefinition, hash_now: str, builds: Sequence[Found]
    ) -> Plan:
        """Decide how a build is made beside those of an engine, which may be at work on them.

        Nothing of theirs is changed: what stands in the way is refused.
        """
        plan, name = Plan(definition, hash_now, builds), definition.name
        now = serving(builds)
        if now is None:
            raise StoreRefused(
                f"projection {name!r} has no tables yet that a build could be made beside: start "
                f"the engine, which makes them"
            )
        _refuse_same_version(plan, now)
        if now.fits(definition, hash_now):
            raise StoreRefused(
                f"projection {name!r} is served as it is declared, version {now.version} in "
                f"{now.slices} slices: raise its version first, or have the same one folded again "
                f"with `{COMMAND} projections rebuild`"
            )
        if why := await self._unusable(now):
            raise StoreRefused(
                f"the views of projection {name!r} do not belong to this log: {why}. Start the "
                f"engine, which makes them anew"
            )
        for build in builds:
            if build.state == "building" and not build.fits(definition, hash_now):
                raise StoreRefused(
                    f"version {build.version} of projection {name!r} is being built (build "
                    f"{build.number}): let it be finished, or cancel it first with `{COMMAND} "
                    f"projections cancel`"
                )
        fitting = [build for build in builds if build.fits(definition, hash_now)]
        unusable = [build for build in fitting if await self._unusable(build) is not None]
        plan = msgspec.structs.replace(plan, drop=unusable)
        usable = [build for build in fitting if build not in unusable]
        if any(build.state == "building" for build in usable):
            return plan
        if usable:
            return msgspec.structs.replace(plan, revive=usable[-1])
        return msgspec.structs.replace(plan, make="building")

    def _changed_sink(self, plan: Plan, now: Found) -> Plan:
        """Plan for a sink that is declared anew: nothing of it can be built beside."""
        definition, name = plan.definition, plan.definition.name
        if now.version == definition.version:
            self._logger.info(
                "sink %s goes on in %d slices instead of %d", name, definition.slices, now.slices
            )
            return msgspec.structs.replace(plan, reslice=now)
        if self._rebuild != "auto":
            raise StoreRefused(
                f"sink {name!r} is declared as version {definition.version}, and has delivered as "
                f"version {now.version}: another version delivers everything again, from the "
                f'beginning. Where that is meant, start with `Engine(..., rebuild="auto")`; '
                f"otherwise declare version {now.version}. Nothing was changed"
            )
        self._logger.warning(
            "sink %s is version %d now, and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING; as "
            "version %d it had come to position %d",
            name,
            definition.version,
            now.version,
            now.position,
        )
        return msgspec.structs.replace(plan, drop=plan.builds, make="serving")

    async def _unusable(self, build: Found) -> str | None:
        """Say why a build cannot be used with this log, or None."""
        if build.log_id != self._store.log_id:
            return f"they are of log {build.log_id}, and this is {self._store.log_id}"
        for checkpoint in build.checkpoints.values():
            why = await self._foreign(checkpoint)
            if why is not None:
                return why
        return "a table of theirs is missing" if self._lacks_a_table(build) else None

    async def _foreign(self, checkpoint: Checkpoint) -> str | None:
        """Say why a checkpoint belongs to another history than the log's, or None."""
        position, head = checkpoint.position, self._head
        if position > head.position:
            return f"they are at position {position}, and the log ends at {head.position}"
        if position == 0:
            return None
        if position == head.position:
            checksum = head.checksum
        else:
            try:
                events = await self._store.read_feed(position - 1, events_max=1, bytes_max=1)
            except Damaged:
                # The event is damaged, not the views, which contain it already and do not need it.
                return None
            if not events or events[0].position != position:
                return f"the log has no event at their position {position}"
            checksum = events[0].checksum
        if checksum != checkpoint.checksum:
            return f"the log has another event at their position {position}"
        return None


def _refuse_same_version(plan: Plan, now: Found) -> None:
    """Raise StoreRefused where tables are declared otherwise, and the version is the same."""
    if now.version == plan.definition.version and not now.has(plan.hash):
        raise StoreRefused(
            f"the tables of projection {now.projection!r} are declared otherwise than they were "
            f"stored as version {now.version}: declare it as `version={now.version + 1}`, and they "
            f"are rebuilt from the log, or undo the change"
        )
