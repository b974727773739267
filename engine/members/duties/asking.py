"""`engine.projections` where members run the projections: the same calls, wherever one is run.

Rules: what is run in this process is asked directly. What another one runs is asked by a row of the
views, which the process that runs it answers; the gate is asked here and there. How such a
projection stands is read from the views. What the owner of the log keeps for itself, as reactors,
is asked of the owner.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from ...authorization import Gate
from ...errors import Closed, InvalidInput, StoreFailed, UsageError
from ...health.facts import ProjectionFacts
from ...model.given import as_text
from ...model.projection import ProjectionDefinition
from ...outside.standings import Standing, progress_of
from ...projections.operations import Projections, Status, check_page, check_texts
from ...projections.retry import Retried
from ...statistics import ProjectorState
from ...stores.contract.acts import build_to_cancel, builds_to_drop
from ...stores.contract.membership import ViewChanged
from ...stores.contract.requests import Arguments, refused_position
from ...stores.contract.views import Build, Parked, ProjectionDecision
from ..controlling import MemberProjections
from ..forwarding import Forwarding
from .life import Duties
from .rows import ViewsRows

__all__ = ["SharedProjections"]

T = TypeVar("T")


class SharedProjections(MemberProjections):
    """The projections of a log whose members run them; see `Projections`."""

    def __init__(
        self,
        forwarding: Forwarding,
        count: int,
        duties: Duties,
        rows: ViewsRows,
        gate: Gate | None,
        check_usable: Callable[[], object],
    ) -> None:
        """Take how many there are in all, those included that the owner keeps for itself."""
        super().__init__(forwarding, count)
        self._duties = duties
        self._rows = rows
        self._gate = gate
        self._check_usable = check_usable

    def _shared(self, name: object) -> ProjectionDefinition | None:
        # Compared, since what is no name may have no hash.
        return next((d for n, d in self._duties.definitions.items() if n == name), None)

    async def _asked(
        self,
        definition: ProjectionDefinition,
        principal: str | None,
        *texts: object,
    ) -> None:
        """Raise what `Projections` raises before anything is done."""
        self._check_usable()
        check_texts(principal, *texts)
        if self._gate is not None:
            await self._gate.check(principal, "control", as_text("projection", definition.name))

    async def _here(self, name: str, call: Callable[[Projections], Awaitable[T]]) -> list[T]:
        """Do it in this process, where it runs the projection; else give nothing."""
        wiring = self._duties.running(name)
        if wiring is not None:
            try:
                return [await call(wiring.projections)]
            except (Closed, ViewChanged):
                self._check_usable()  # it goes to another member: nothing was decided
        return []

    # -- how they stand -----------------------------------------------------------------------

    async def list(self, *, principal: str | None = None) -> Sequence[Status]:
        """Give how all of them stand."""
        kept: Sequence[Status] = ()
        if len(self) > len(self._duties.definitions):
            kept = await super().list(principal=principal)
        shared = [await self.status(n, principal=principal) for n in self._duties.definitions]
        return [*shared, *kept]

    async def status(self, name: str, *, principal: str | None = None) -> Status:
        """Give how one stands."""
        definition = self._shared(name)
        if definition is None:
            return await super().status(name, principal=principal)
        await self._asked(definition, principal)
        here = await self._here(name, lambda own: own.status(name, principal=principal))
        if here:
            return here[0]
        standing = (await self._rows.standings()).get(name)
        found = _status(definition, standing, await self._rows.builds(definition))
        state = self._duties.standing_still(definition.name)
        return found if state is None else msgspec.structs.replace(found, state=state)

    async def facts(self) -> Sequence[ProjectionFacts]:
        """Give how those stand that members run, for the health of this process."""
        standings: Mapping[str, Standing] = {}
        with contextlib.suppress(StoreFailed):  # whether the server is there the owner tells
            standings = await self._rows.standings()
        return [
            _facts(d, standings.get(name), self._duties.standing_still(name))
            for name, d in self._duties.definitions.items()
        ]

    async def parked(
        self,
        name: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """See `Projections.parked`."""
        definition = self._shared(name)
        if definition is None:
            return await super().parked(
                name, key=key, after=after, limit=limit, principal=principal
            )
        await self._asked(definition, principal, key)
        check_page(after, limit)
        return await self._rows.parked(name, key, after, limit)

    async def decisions(
        self, name: str, *, principal: str | None = None
    ) -> Sequence[ProjectionDecision]:
        """See `Projections.decisions`."""
        definition = self._shared(name)
        if definition is None:
            return await super().decisions(name, principal=principal)
        await self._asked(definition, principal)
        return await self._rows.look(lambda opened: opened.decisions(name))

    # -- what is done -------------------------------------------------------------------------

    async def _do(self, method: str, name: str, reason: str, principal: str | None) -> None:
        definition = self._shared(name)
        if definition is None:
            await super()._do(method, name, reason, principal)
            return
        await self._asked(definition, principal, reason)

        async def call(own: Projections) -> None:
            await getattr(own, method)(name, reason=reason, principal=principal)

        if not await self._here(name, call):
            await self._rows.ask(method, name, Arguments(reason=reason), principal)

    async def cancel(self, name: str, *, reason: str = "", principal: str | None = None) -> Build:
        """See `Projections.cancel`."""
        definition = self._shared(name)
        if definition is None:
            return await super().cancel(name, reason=reason, principal=principal)
        await self._asked(definition, principal, reason)
        here = await self._here(
            name, lambda own: own.cancel(name, reason=reason, principal=principal)
        )
        if here:
            return here[0]
        build = build_to_cancel(name, await self._rows.builds(definition))
        await self._rows.ask("cancel", name, Arguments(reason=reason), principal)
        return build

    async def drop(
        self, name: str, *, reason: str = "", principal: str | None = None
    ) -> Sequence[Build]:
        """See `Projections.drop`."""
        definition = self._shared(name)
        if definition is None:
            return await super().drop(name, reason=reason, principal=principal)
        await self._asked(definition, principal, reason)
        here = await self._here(
            name, lambda own: own.drop(name, reason=reason, principal=principal)
        )
        if here:
            return here[0]
        builds = builds_to_drop(await self._rows.builds(definition))
        await self._rows.ask("drop", name, Arguments(reason=reason), principal)
        left = {build.number for build in await self._rows.builds(definition)}
        return [build for build in builds if build.number not in left]

    async def retry(
        self,
        name: str,
        *,
        key: str | None = None,
        reason: str = "",
        principal: str | None = None,
    ) -> Retried:
        """See `Projections.retry`."""
        definition = self._shared(name)
        if definition is None:
            return await super().retry(name, key=key, reason=reason, principal=principal)
        await self._asked(definition, principal, key, reason)
        here = await self._here(
            name, lambda own: own.retry(name, key=key, reason=reason, principal=principal)
        )
        if here:
            return here[0]
        before = await self._rows.all_parked(name, key)
        await self._rows.ask("retry", name, Arguments(reason=reason, key=key), principal)
        left = {one.position: one for one in await self._rows.all_parked(name, key)}
        still = [left[one.position] for one in before if one.position in left]
        first = {one.key: one for one in reversed(still)}
        failed = sorted(first.values(), key=lambda one: one.position)
        return Retried(len(before) - len(still), tuple(failed))

    async def skip(
        self, name: str, position: int, *, reason: str, principal: str | None = None
    ) -> None:
        """See `Projections.skip`."""
        definition = self._shared(name)
        if definition is None:
            await super().skip(name, position, reason=reason, principal=principal)
            return
        await self._asked(definition, principal, reason)
        if (why := refused_position(position)) is not None:
            raise InvalidInput(f"{why}. Nothing was skipped")

        async def call(own: Projections) -> None:
            await own.skip(name, position, reason=reason, principal=principal)

        if not await self._here(name, call):
            asked = Arguments(reason=reason, position=position)
            await self._rows.ask("skip", name, asked, principal)


def _status(
    definition: ProjectionDefinition, standing: Standing | None, builds: Sequence[Build]
) -> Status:
    if standing is None:
        raise UsageError(
            f"projection {definition.name!r} has no views yet: the member whose duty it is makes "
            f"them as it begins"
        )
    return Status(
        name=definition.name,
        version=definition.version,
        serving=standing.version,
        state="elsewhere" if standing.state == "at-rest" else standing.state,
        position=standing.position,
        lag_events=standing.lag_events,
        lag_seconds=standing.lag_seconds,
        slices=definition.slices,
        parked=standing.parked,
        retries=0,
        failure=standing.failure,
        retrying=None,
        building=progress_of(standing),
        builds=builds,
    )


def _facts(
    definition: ProjectionDefinition, standing: Standing | None, of_none: ProjectorState | None
) -> ProjectionFacts:
    failure = None if standing is None or of_none is not None else standing.failure
    return ProjectionFacts(
        name=definition.name,
        kind="projection" if definition.has_tables else "sink",
        state=of_none or ("elsewhere" if standing is None else standing.state),
        position=0 if standing is None else standing.position,
        lag_events=None if standing is None else standing.lag_events,
        lag_seconds=None if standing is None else standing.lag_seconds,
        parked=0 if standing is None else standing.parked,
        failed_at=None if failure is None else failure.position,
    )
