"""What people decide about one projection, done in the projection's own task, one after the other.

Rules: a decision is synced before it is answered. Each act is a call of the runner's task, swaps
included: nothing is half done where a caller is cancelled, and nothing meets what another call has
begun. What an act means is said in `stores.contract.acts`, for processes outside too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import msgspec

from ..errors import Closed, UsageError
from ..model.projection import ProjectionDefinition, slice_of
from ..stores.contract.acts import (
    build_to_cancel,
    builds_to_drop,
    check_skip,
    is_parked_there,
    not_repeated_text,
    stopped_there,
)
from ..stores.contract.views import Build, DecisionKind, Parked, ProjectionDecision, ViewsStore
from .calls import Calls
from .projector import Projector
from .retry import Retried, Retry
from .targets.courier import Abandoned

__all__ = ["ProjectionDesk"]


class Runner(Protocol):
    """What runs the projectors, as far as people's decisions reach."""

    serving: tuple[Projector, ...]
    building: tuple[Projector, ...]
    paused: bool
    resets: int

    @property
    def definition(self) -> ProjectionDefinition:
        """What it is."""
        ...

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Whether it is to end."""
        ...

    def begin(self, build: Build) -> None:
        """Let a build be folded beside the tables that serve."""
        ...

    def at_rest(self, projectors: Sequence[Projector]) -> AbstractAsyncContextManager[None]:
        """Let projectors finish their batch and rest, as long as the block lasts."""
        ...

    async def let_rest(self, projectors: Sequence[Projector]) -> None:
        """Let projectors finish their batch, and rest until they are told to go on."""
        ...

    def discard(self, projectors: Sequence[Projector]) -> None:
        """Let projectors end whose build is no more."""
        ...

    def decision(
        self,
        kind: DecisionKind,
        reason: str = "",
        principal: str | None = None,
        position: int | None = None,
        version: int | None = None,
    ) -> ProjectionDecision:
        """Give a decision about this projection, as of now."""
        ...


class ProjectionDesk:
    """Acts on the projectors of one projection."""

    def __init__(
        self, runner: Runner, calls: Calls, views: ViewsStore, logger: logging.Logger
    ) -> None:
        self._runner = runner
        self._calls = calls
        self._views = views
        self._logger = logger

    async def rebuild(self, reason: str = "", principal: str | None = None) -> None:
        """Begin a build beside the one that serves; nothing happens where one is on its way."""
        check_repeatable(self._runner.definition, "rebuild")
        if self._runner.definition.sink is not None:
            name = self._runner.definition.name
            raise UsageError(
                f"sink {name!r} has no tables to be built beside others: to deliver everything "
                f"again into a system that is new, give it a sink of another name, which begins at "
                f"the beginning; to deliver it again into the same one, "
                f"`engine.projections.reset({name!r})`"
            )
        await self._calls.ask(partial(self._rebuild, reason, principal))

    async def _rebuild(self, reason: str, principal: str | None) -> None:
        if self._runner.building:
            return
        decision = self._runner.decision("rebuild", reason, principal)
        build = await self._views.begin_build(self._runner.definition, decision)
        self._runner.begin(build)

    async def cancel(self, reason: str = "", principal: str | None = None) -> Build:
        """Give a build up, and take its tables away; give which it was."""
        return await self._calls.ask(partial(self._cancel, reason, principal))

    async def _cancel(self, reason: str, principal: str | None) -> Build:
        name, building = self._runner.definition.name, self._runner.building
        if building and not self._runner.serving:
            raise UsageError(
                f"projection {name!r} has no tables of its own version but those that are being "
                f"built: let them be finished"
            )
        # One that another release has begun is in the file alone: if it is at work, it notices.
        there = build_to_cancel(name, await self._views.builds(name))
        async with self._runner.at_rest(building):
            decision = self._runner.decision("drop", reason, principal, version=there.version)
            await self._views.drop(name, there.number, decision)
            self._runner.building = ()
            self._runner.discard(building)
        return there

    async def drop_former(self, reason: str = "", principal: str | None = None) -> Sequence[Build]:
        """Take the tables of all former builds away; give what they were."""
        return await self._calls.ask(partial(self._drop_former, reason, principal))

    async def _drop_former(self, reason: str, principal: str | None) -> Sequence[Build]:
        name = self._runner.definition.name
        former = builds_to_drop(await self._views.builds(name))
        for build in former:
            decision = self._runner.decision("drop", reason, principal, version=build.version)
            await self._views.drop(name, build.number, decision)
        return former

    async def pause(self, reason: str, principal: str | None) -> None:
        """Let it rest until somebody resumes it, over restarts too."""
        await self._calls.ask(partial(self._pause, reason, principal))

    async def _pause(self, reason: str, principal: str | None) -> None:
        await self._views.decide(self._runner.decision("pause", reason, principal))
        self._runner.paused = True
        await self._runner.let_rest((*self._runner.serving, *self._runner.building))

    async def resume(self, reason: str, principal: str | None) -> None:
        """Let it go on, from a pause or after a failure."""
        await self._calls.ask(partial(self._resume, reason, principal))

    async def _resume(self, reason: str, principal: str | None) -> None:
        if self._runner.paused:
            await self._views.decide(self._runner.decision("resume", reason, principal))
            self._runner.paused = False
        for projector in (*self._runner.serving, *self._runner.building):
            projector.resume()

    async def reset(self, reason: str, principal: str | None) -> None:
        """Empty the tables that serve, and fold the log into them from its beginning."""
        check_repeatable(self._runner.definition, "reset")
        await self._calls.ask(partial(self._reset, reason, principal))

    async def _reset(self, reason: str, principal: str | None) -> None:
        serving = self._runner.serving
        if not serving:
            raise UsageError(
                f"projection {self._runner.definition.name!r} serves tables of another version, "
                f"and is being built anew already"
            )
        async with self._runner.at_rest(serving):
            if self._runner.definition.sink is not None:
                self._logger.warning(
                    "sink %s was reset by %s and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING, up "
                    "to position %d where it was: %s",
                    self._runner.definition.name,
                    principal or "somebody",
                    self._runner.position,
                    reason or "no reason was given",
                )
            self._runner.resets += 1
            try:
                await self._views.reset(
                    self._runner.definition, self._runner.decision("reset", reason, principal)
                )
                for projector in serving:
                    await projector.ask(projector.reopen)
                    projector.failures.current = None
            finally:
                self._runner.resets += 1

    async def retry(
        self, key: str | None, reason: str = "", principal: str | None = None
    ) -> Retried:
        """Try parked events again, of one key or all, in order; keep who asked, and why."""
        return await self._calls.ask(partial(self._retry, key, reason, principal))

    async def _retry(self, key: str | None, reason: str, principal: str | None) -> Retried:
        if reason or principal is not None:
            # Without either there is nothing to keep but that something was tried.
            await self._views.decide(self._runner.decision("retry", reason, principal))
        released, failed = 0, list[Parked]()
        for projector in self._runner.serving:
            after: int | None = 0
            while after is not None:
                if self._runner.is_stopping:
                    raise Closed("the engine is stopping: what was not tried again is parked still")
                call = Retry(self._views, projector, key, after, {p.key for p in failed})
                try:
                    await projector.ask(call.run)
                except Abandoned as given_up:
                    raise Closed(str(given_up)) from given_up
                released += call.released
                failed += call.failed
                after = call.next
        return Retried(released, tuple(failed))

    async def skip(self, position: int, reason: str, principal: str | None) -> None:
        """Leave an event out of the views, as somebody decided and says why."""
        check_skip(reason)
        await self._calls.ask(partial(self._skip, position, reason, principal))

    async def _skip(self, position: int, reason: str, principal: str | None) -> None:
        at_work, version = (
            (*self._runner.serving, *self._runner.building),
            self._runner.definition.version,
        )
        parked = await self._parked_at(position)
        if parked is not None:
            owner = self._runner.serving[slice_of(parked.key, len(self._runner.serving))]
        else:
            stopped = [p for p in at_work if _is_stopped_by(p, position)]
            if not stopped:
                name = self._runner.definition.name
                version = stopped_there(name, position, await self._views.standstills(name)).version
            owner = (*stopped, *at_work)[0]
            if version != self._runner.definition.version:
                at_work = ()  # the process that builds it reads the decision when it goes on
        stored = await owner.read(position)
        decision = msgspec.structs.replace(
            self._runner.decision("skip", reason, principal, position, version),
            checksum=stored.checksum,
        )

        async def decide() -> None:
            await self._views.decide(decision)
            if parked is not None:
                owner.parking.released([parked])
            if owner in at_work:
                # In the same step: it may be resumed, and meet the event before its next one.
                owner.skip(stored)

        await owner.ask(decide)
        for projector in at_work:

            async def skip(projector: Projector = projector) -> None:
                projector.skip(stored)
                if projector in self._runner.serving:
                    # What it has parked since may have been taken out by the decision.
                    keys = await self._views.parked_keys(projector.part)
                    projector.parking.begin(keys)

            await projector.ask(skip)
        late = await self._parked_at(position)
        if late is not None and version == self._runner.definition.version:
            # It was in hand when the decision was kept. Being skipped, it leaves nothing behind.
            projector = self._runner.serving[slice_of(late.key, len(self._runner.serving))]
            await projector.ask(partial(projector.release, late))

    async def _parked_at(self, position: int) -> Parked | None:
        """Give what is parked there of the build that serves, if that is of this version."""
        if not self._runner.serving:
            return None
        found = await self._views.parked(self._runner.definition.name, after=position - 1, limit=1)
        return found[0] if is_parked_there(position, found) else None


def check_repeatable(definition: ProjectionDefinition, act: str) -> None:
    """Raise UsageError for a reactor, which does nothing twice."""
    if definition.reacting is not None:
        raise UsageError(not_repeated_text(definition.name, act))


def _is_stopped_by(projector: Projector, position: int) -> bool:
    failure = projector.failure
    return failure is not None and bool(failure.event) and failure.position == position
