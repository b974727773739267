"""What can be done with projections at run time: looked at, paused, rebuilt, mended.

Rules: every call names one projection, and asks the gate first. What is decided is synced before
the call returns, and holds over restarts. Nothing here folds or writes rows: the projectors do,
when they come to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from ..authorization import Gate
from ..errors import DefinitionError, Forbidden, InvalidInput, UsageError
from ..model.given import as_text
from ..model.texts import is_text
from ..statistics import BuildProgress, ProjectionFailure, ProjectorState, ProjectorStatistics
from ..stores.contract.requests import POSITION_MAX, refused_position
from ..stores.contract.views import Build, Parked, ProjectionDecision, Rebuild, ViewsStore
from .retry import Retried
from .runner import ProjectionRunner
from .undeclared import Undeclared

__all__ = ["Projections", "Status", "check_page", "check_texts", "checked_rebuild"]


_REBUILDS: Final[Mapping[str, Rebuild]] = {"refuse": "refuse", "auto": "auto"}


def checked_rebuild(rebuild: object) -> Rebuild:
    """Give what Engine(rebuild=...) is, or raise DefinitionError for what is none."""
    found: Rebuild | None = None
    if isinstance(rebuild, str):
        found = _REBUILDS.get(rebuild)
    if found is not None:
        return found
    raise DefinitionError(
        f"Engine(rebuild={rebuild!r:.60}): it is 'refuse' or 'auto', and concerns all projections "
        f"that are declared anew. One alone is built anew by `engine.projections.rebuild(name)`"
    )


def check_texts(*texts: object) -> None:
    """Raise InvalidInput for what is given as a text, and is none that can be kept."""
    for text in texts:
        if text is not None and not (isinstance(text, str) and is_text(text)):
            raise InvalidInput(
                "a reason, a principal and a key are texts, and half of a character is in "
                "none of them: nothing was done"
            )


def check_page(after: object, limit: object) -> None:
    """Raise InvalidInput for what is no page of parked events."""
    for what, number in (("after", after), ("limit", limit)):
        if type(number) is not int or not 0 <= number <= POSITION_MAX:
            raise InvalidInput(f"{what}={number!r:.40}: it is a whole number from 0 on")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How one projection stands."""

    name: str
    """As it is declared."""
    version: int
    """As it is declared."""
    serving: int | None
    """The version whose tables serve queries."""
    state: ProjectorState
    """What it does at this moment; "stopped" has its reason in `failure`."""
    position: int
    """The last event that is in the views."""
    lag_events: int | None
    """Durable events that are not in the views yet."""
    lag_seconds: float | None
    """Age of the oldest of these, in seconds."""
    slices: int
    """Projectors that share its keys."""
    parked: int
    """Events set aside."""
    retries: int
    """Failures after which it tried again by itself, since the start."""
    failure: ProjectionFailure | None
    """Why it stopped, if it has."""
    retrying: ProjectionFailure | None
    """What it tries again, while it does by itself: it needs nobody but for the cause."""
    building: BuildProgress | None
    """How far a build beside the one that serves has come."""
    builds: Sequence[Build]
    """All sets of its tables, the oldest first."""


class Projections:
    """The projections of one engine, by name: how they stand, and what operators do with them.

    - `name`: of the projection; UsageError for one that the engine does not have.
    - `reason`: for the book of decisions; it is kept with the views, over restarts.
    - `principal`: who asks. `authorize` is asked with the action "control" and the name: Forbidden.
    - `key`: of parked events, as `sequence` of the projection gives it; its stream without one.
    - `position`: of an event in the log.
    - `after`, `limit`: a page begins after that position, and has so many entries at most.

    What a call decides is synced when it returns, and holds over restarts. A call whose caller is
    cancelled is done whole or not at all. All raise Closed if the engine does not run, and
    StoreFailed if the views cannot be written. Texts and numbers that cannot be kept raise
    InvalidInput.
    """

    def __init__(
        self,
        projecting: Mapping[str, ProjectionRunner],
        views: ViewsStore,
        check_usable: Callable[[], object],
        gate: Gate | None,
        undeclared: Undeclared,
    ) -> None:
        self._undeclared = undeclared
        self._projecting = projecting
        self._views = views
        self._check_usable = check_usable
        self._gate = gate

    def __len__(self) -> int:
        """Give how many there are."""
        return len(self._projecting)

    async def list(self, *, principal: str | None = None) -> Sequence[Status]:
        """Give how all of them stand."""
        try:
            return [await self.status(name, principal=principal) for name in self._projecting]
        except Forbidden as error:
            # It names one of them, which is told to nobody who did not say it himself.
            if not any(name in str(error) for name in self._projecting):
                raise
            raise Forbidden(
                "authorize does not let this principal control every projection. Nothing was read.",
                error.principal,
                error.action,
            ) from error.__cause__

    async def status(self, name: str, *, principal: str | None = None) -> Status:
        """Give how one stands."""
        projecting = await self._find(name, principal)
        builds = await self._views.builds(name)
        numbers: ProjectorStatistics = projecting.statistics()
        return Status(
            name=name,
            version=projecting.definition.version,
            serving=next((b.version for b in builds if b.state == "serving"), None),
            state=numbers.state,
            position=numbers.position,
            lag_events=numbers.lag_events,
            lag_seconds=numbers.lag_seconds,
            slices=projecting.definition.slices,
            parked=numbers.parked,
            retries=numbers.retries,
            failure=numbers.failure,
            retrying=numbers.retrying,
            building=numbers.building,
            builds=builds,
        )

    async def pause(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """Let it rest between two batches until `resume`, over restarts too."""
        await (await self._find(name, principal, reason)).desk.pause(reason, principal)

    async def resume(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """Let it go on, from a pause or after a failure."""
        await (await self._find(name, principal, reason)).desk.resume(reason, principal)

    async def reset(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """Empty its tables and fold the log into them again; queries see them fill.

        A SINK DELIVERS EVERYTHING AGAIN, from the beginning. What was decided to be skipped stays
        skipped. See `rebuild`, which lets the old rows serve.
        """
        await (await self._find(name, principal, reason)).desk.reset(reason, principal)

    async def rebuild(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """Begin to build it again, beside the tables that serve; `status` says how far it is.

        It continues after a restart, and takes the place of the old one by itself when it has
        caught up. It stops at an event that it cannot fold, whatever the projection's policy is.
        Raises UsageError for a sink, which has no tables.
        """
        await (await self._find(name, principal, reason)).desk.rebuild(reason, principal)

    async def cancel(self, name: str, *, reason: str = "", principal: str | None = None) -> Build:
        """Give a rebuild up, also one of another process; give which build it was."""
        return await (await self._find(name, principal, reason)).desk.cancel(reason, principal)

    async def drop(
        self, name: str, *, reason: str = "", principal: str | None = None
    ) -> Sequence[Build]:
        """Take the tables of former builds away; give which they were.

        Of a projection that the engine does not have it takes all tables that are in the views. A
        program that declares it folds them again. Of a sink it takes the place up to which that has
        delivered: one that is declared later delivers everything. Of a reactor it takes what is
        parked: that is never done. One that is declared later continues where it stood.
        """
        await self._check(name, principal, reason)
        # Compared, since what is no name may have no hash.
        if any(name == own for own in self._projecting) or not await self._undeclared.has(name):
            return await self._named(name).desk.drop_former(reason, principal)
        return await self._undeclared.drop(name, reason, principal)

    async def parked(
        self,
        name: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """Give what is parked, in order of position, a page at a time."""
        await self._find(name, principal, key)
        check_page(after, limit)
        return await self._views.parked(name, key=key, after=after, limit=limit)

    async def retry(
        self,
        name: str,
        *,
        key: str | None = None,
        reason: str = "",
        principal: str | None = None,
    ) -> Retried:
        """Try what is parked again, of one key or all: in order, and no further than it goes.

        With a `reason` or a `principal` it is kept among the decisions.
        """
        return await (await self._find(name, principal, key, reason)).desk.retry(
            key, reason, principal
        )

    async def skip(
        self, name: str, position: int, *, reason: str, principal: str | None = None
    ) -> None:
        """Leave one event out of the views for good; it must be parked, or have stopped them."""
        projecting = await self._find(name, principal, reason)
        if (why := refused_position(position)) is not None:
            raise InvalidInput(f"{why}. Nothing was skipped")
        await projecting.desk.skip(position, reason, principal)

    async def decisions(
        self, name: str, *, principal: str | None = None
    ) -> Sequence[ProjectionDecision]:
        """Give what people decided, the oldest first."""
        await self._find(name, principal)
        return await self._views.decisions(name)

    async def _find(self, name: str, principal: str | None, *texts: object) -> ProjectionRunner:
        await self._check(name, principal, *texts)
        return self._named(name)

    async def _check(self, name: str, principal: str | None, *texts: object) -> None:
        self._check_usable()
        check_texts(principal, *texts)
        # Who may not know which projections there are is not told it by an error either.
        if self._gate is not None:
            await self._gate.check(principal, "control", as_text("projection", name))

    def _named(self, name: str) -> ProjectionRunner:
        # Compared, since what is no name may have no hash.
        projecting = next((p for n, p in self._projecting.items() if n == name), None)
        if projecting is None:
            raise UsageError(
                f"no projection {name!r:.100} here; there are {sorted(self._projecting)}"
            )
        return projecting
