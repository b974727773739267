"""All projectors of one projection: the slices of the build that serves, and of one that is built.

Rules: queries see the build that serves, and are never shown an earlier state by a swap: the new
build takes over when it has reached all that the old one shows, in one transaction, while both rest
between two batches. What people decide is synced before it is answered, and done again after a
restart. It is done in this projection's own task, one thing after the other, swaps included: so
nothing is half done where a caller is cancelled, and nothing meets what another call has begun. A
build that is begun goes on after a crash. A build beside the one that serves parks nothing: what it
cannot fold stops it, and the old one goes on serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from ..errors import Closed, EngineError, UsageError
from ..log.bus import Bus
from ..model.projection import Projection, ProjectionDefinition, slice_of
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..statistics import BuildProgress, ProjectionFailure, ProjectorState, ProjectorStatistics
from ..stores.contract.acts import (
    build_to_cancel,
    builds_to_drop,
    check_skip,
    is_parked_there,
    stopped_there,
)
from ..stores.contract.views import Build, Decision, DecisionKind, Parked, Part, ViewsStore
from .calls import Calls
from .progress import Rate, nothing_yet, together, worst
from .projector import Projector
from .retry import Retried, Retry
from .targets.courier import Abandoned

__all__ = ["MakeProjector", "Projecting"]

SWAP_SECONDS: Final = 5.0
"""How long the build that serves may rest for one swap."""
SWAP_AGAIN_SECONDS: Final = 0.1
SWAP_AGAIN_SECONDS_MAX: Final = 60.0
"""How long it works on before a swap that failed is tried again; doubled each time, up to this."""


class MakeProjector(Protocol):
    """Makes the projector of a part."""

    def __call__(self, part: Part, *, moved: Callable[[], None], paused: bool) -> Projector:
        """Give it, not yet at work."""
        ...


class Projecting:
    """The life of one projection in one engine."""

    def __init__(
        self,
        projection: type[Projection],
        *,
        make: MakeProjector,
        views: ViewsStore,
        bus: Bus,
        ports: Ports,
        logger: logging.Logger,
        end_of_log: Callable[[], int],
    ) -> None:
        self._definition = projection.__definition__
        self._make = make
        self._views = views
        self._bus = bus
        self._ports = ports
        self._logger = logger
        self._end_of_log = end_of_log
        self._serving: tuple[Projector, ...] = ()
        self._building: tuple[Projector, ...] = ()
        self._left_at = 0
        """Where tables of a former version stand, which nobody here can fold on."""
        self.resets = 0
        """Grows by one as tables begin to be emptied, and by another when that has ended."""
        self._paused = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = False
        self._over = False
        """Whether `run` has ended: nothing moves any more."""
        self._wake = Bell()
        self._calls = Calls(self._wake.set)
        self._resting = False
        """Whether projectors rest for a moment, and go on by themselves."""
        self._settled = asyncio.Event()
        """Set, and made anew, whenever that has ended."""
        self._swap_failures = 0
        self._swap_after = 0.0
        """When the next swap may be tried, by the event loop's clock."""
        self._rate = Rate(ports.clock.monotonic)

    # -- what is seen -------------------------------------------------------------------------

    @property
    def definition(self) -> ProjectionDefinition:
        """What it is."""
        return self._definition

    @property
    def _is_emptied(self) -> bool:
        """Whether a reset is under way, so that queries may see empty tables."""
        return bool(self.resets % 2)

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        if self._is_emptied:
            return 0
        serving = self._serving
        return min(p.position for p in serving) if serving else self._left_at

    @property
    def state(self) -> ProjectorState:
        """That of its projectors, the worst of them."""
        return worst([p.state for p in self._serving]) if self._serving else "building"

    def shows(self, part: Part) -> bool:
        """Whether queries see what a part keeps."""
        return any(projector.part.build == part.build for projector in self._serving)

    @property
    def failure(self) -> ProjectionFailure | None:
        """Why it is stopped, if it is."""
        return next((p.failure for p in self._serving if p.failure is not None), None)

    @property
    def is_paused(self) -> bool:
        """Whether somebody decided that it rests."""
        return self._paused

    def statistics(self) -> ProjectorStatistics:
        """Give the numbers as they are now, of all slices together; called from any thread."""
        position, end = self.position, self._end_of_log()
        found = [projector.statistics() for projector in self._serving]
        if not found:
            return nothing_yet(self.definition.name, position, end, self._progress())
        total = found[0]
        for other in found[1:]:
            total = together(total, other)
        return msgspec.structs.replace(
            total,
            state=self.state,
            position=position,
            lag_events=max(0, end - position),
            slices=len(found),
            building=self._progress(),
        )

    def _progress(self) -> BuildProgress | None:
        building = self._building
        if not building:
            return None
        position = min(p.position for p in building)
        lag = max(0, self._end_of_log() - position)
        speed = self._rate.per_second(position)
        return BuildProgress(
            number=building[0].part.build,
            version=self.definition.version,
            state=worst([p.state for p in building]),
            position=position,
            lag_events=lag,
            events_per_second=speed,
            seconds_left=lag / speed if speed else None,
            failure=next((p.failure for p in building if p.failure is not None), None),
        )

    async def wait_for(self, position: int, deadline: float) -> bool:
        """Return whether queries see the event at this position, as soon as that is known.

        It is known when they do, when a projector has ended below it, and at the deadline, by the
        event loop's clock.
        """
        while True:
            serving, settled = self._serving, self._settled
            if not self._is_emptied and await self._all_reach(serving, position, deadline):
                return True
            if self._over or (serving and not self._resting and not settled.is_set()):
                return False
            # A build is taking its place, or will: nobody folds a former version on.
            try:
                async with asyncio.timeout_at(deadline):
                    await settled.wait()
            except TimeoutError:
                return False

    async def _all_reach(
        self, serving: Sequence[Projector], position: int, deadline: float
    ) -> bool:
        if not serving:
            return self._left_at >= position
        for projector in serving:
            if not await projector.wait_for(position, deadline):
                return False
        return True

    # -- its life -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the projectors of what the views have, before anything is published."""
        name = self.definition.name
        self._paused = await self._views.is_paused(name)
        for build in await self._views.builds(name):
            if build.state == "serving":
                self._left_at = build.position
            if build.fits and build.state == "serving":
                self._serving = self._projectors(build)
            elif build.fits and build.state == "building":
                self._building = self._projectors(build)

    def _projectors(self, build: Build) -> tuple[Projector, ...]:
        projectors = tuple(
            self._make(
                Part(self.definition, build.number, n), moved=self._moved, paused=self._paused
            )
            for n in range(self.definition.slices)
        )
        if build.state == "building":
            for projector in projectors:
                projector.parking.allowed = False
                # Where nothing of this version serves, queries wait for it: then it does not.
                projector.gives_way = bool(self._serving)
        return projectors

    async def run(self) -> None:
        """Work until `stop`."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for projector in (*self._serving, *self._building):
                    tasks.start_soon(projector.run)
                while not self._stopping:
                    if self._calls:
                        await self._calls.run_next()
                    elif self._may_swap():
                        await self._try_swap()
                    else:
                        await self._wait()
                for projector in (*self._serving, *self._building):
                    projector.stop()
        finally:
            self.end()

    def end(self) -> None:
        """Answer everybody who waits: nothing more will be done here."""
        self._over = True
        self._calls.refuse("the engine is not running any more: nothing was decided")
        self._settle()

    def stop(self) -> None:
        """Let `run` return when the batches in hand are written."""
        self._stopping = True
        self._wake.set()

    def resume_stopped(self) -> None:
        """Let projectors that a failure has stopped try again."""
        for projector in (*self._serving, *self._building):
            if projector.state == "stopped" and not self._resting:
                projector.resume()

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        try:
            async with asyncio.timeout_at(self._swap_after if self._is_ready() else None):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _moved(self) -> None:
        if self._building:
            self._rate.note(min(p.position for p in self._building))
            if self._is_ready():
                self._wake.set()

    def _is_ready(self) -> bool:
        """Whether a build has caught up."""
        return bool(self._building) and all(p.state == "live" for p in self._building)

    def _may_swap(self) -> bool:
        return self._is_ready() and asyncio.get_running_loop().time() >= self._swap_after

    def _settle(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def _at_rest(self, projectors: Sequence[Projector]) -> AsyncGenerator[None]:
        """Let projectors finish their batch and rest, as long as the block lasts."""
        self._resting = True
        try:
            await self._let_rest(projectors)
            yield
        finally:
            self._resting = False
            if not self._paused:
                for projector in projectors:
                    projector.go_on()
            self._settle()

    async def _let_rest(self, projectors: Sequence[Projector]) -> None:
        for projector in projectors:
            projector.pause()
        for projector in projectors:
            await projector.ask(_nothing_to_do)

    def _discard(self, projectors: Sequence[Projector]) -> None:
        for projector in projectors:
            projector.stop()
            self._bus.unsubscribe(projector.subscription)

    # -- builds -------------------------------------------------------------------------------

    async def _try_swap(self) -> None:
        try:
            swapped = await self._swap()
        except EngineError as error:
            swapped = False
            self._logger.error(
                "projection %s: its new build could not be swapped in: %s",
                self.definition.name,
                error,
            )
        if swapped:
            self._swap_failures = 0
            return
        # The old build works on meanwhile, so that it does not rest most of the time.
        seconds = min(SWAP_AGAIN_SECONDS * 2**self._swap_failures, SWAP_AGAIN_SECONDS_MAX)
        self._swap_failures += 1
        self._swap_after = asyncio.get_running_loop().time() + seconds

    async def _swap(self) -> bool:
        """Let the new build serve; tell whether it does: it may have fallen behind."""
        old, new = self._serving, self._building
        async with self._at_rest(old):
            reached = max((p.position for p in old), default=self._left_at)
            deadline = asyncio.get_running_loop().time() + SWAP_SECONDS
            for projector in new:
                if not await projector.wait_for(reached, deadline):
                    return False
            # At rest, so that none meets an event on the way that it cannot fold, and parks none.
            async with self._at_rest(new):
                if any(projector.failure is not None for projector in new):
                    return False
                number = new[0].part.build
                decision = self._decision("swap", position=reached)
                await self._views.swap(self.definition, number, decision)
                self._serving, self._building = new, ()
                for projector in new:
                    projector.parking.allowed = self.definition.on_poison == "park"
                    projector.gives_way = False
                    projector.announce()
            self._discard(old)
        self._logger.info(
            "projection %s is served by build %d, version %d, from position %d on",
            self.definition.name,
            number,
            self.definition.version,
            self.position,
        )
        return True

    async def rebuild(self, reason: str = "", principal: str | None = None) -> None:
        """Begin a build beside the one that serves; nothing happens where one is on its way."""
        if self.definition.sink is not None:
            name = self.definition.name
            raise UsageError(
                f"sink {name!r} has no tables to be built beside others: to deliver everything "
                f"again into a system that is new, give it a sink of another name, which begins at "
                f"the beginning; to deliver it again into the same one, "
                f"`engine.projections.reset({name!r})`"
            )
        await self._calls.ask(partial(self._rebuild, reason, principal))

    async def _rebuild(self, reason: str, principal: str | None) -> None:
        assert self._tasks is not None, "calls are made while it runs"
        if self._building:
            return
        decision = self._decision("rebuild", reason, principal)
        build = await self._views.begin_build(self.definition, decision)
        self._building = self._projectors(build)
        self._swap_failures, self._swap_after = 0, 0.0
        for projector in self._building:
            self._tasks.start_soon(projector.run)

    async def cancel(self, reason: str = "", principal: str | None = None) -> Build:
        """Give a build up, and take its tables away; give which it was."""
        return await self._calls.ask(partial(self._cancel, reason, principal))

    async def _cancel(self, reason: str, principal: str | None) -> Build:
        name, building = self.definition.name, self._building
        if building and not self._serving:
            raise UsageError(
                f"projection {name!r} has no tables of its own version but those that are being "
                f"built: let them be finished"
            )
        # One that another release has begun is in the file alone: if it is at work, it notices.
        there = build_to_cancel(name, await self._views.builds(name))
        async with self._at_rest(building):
            decision = self._decision("drop", reason, principal, version=there.version)
            await self._views.drop(name, there.number, decision)
            self._building = ()
            self._discard(building)
        return there

    async def drop_former(self, reason: str = "", principal: str | None = None) -> Sequence[Build]:
        """Take the tables of all former builds away; give what they were."""
        return await self._calls.ask(partial(self._drop_former, reason, principal))

    async def _drop_former(self, reason: str, principal: str | None) -> Sequence[Build]:
        name = self.definition.name
        former = builds_to_drop(await self._views.builds(name))
        for build in former:
            decision = self._decision("drop", reason, principal, version=build.version)
            await self._views.drop(name, build.number, decision)
        return former

    # -- what people decide -------------------------------------------------------------------

    async def pause(self, reason: str, principal: str | None) -> None:
        """Let it rest until somebody resumes it, over restarts too."""
        await self._calls.ask(partial(self._pause, reason, principal))

    async def _pause(self, reason: str, principal: str | None) -> None:
        await self._views.decide(self._decision("pause", reason, principal))
        self._paused = True
        await self._let_rest((*self._serving, *self._building))

    async def resume(self, reason: str, principal: str | None) -> None:
        """Let it go on, from a pause or after a failure."""
        await self._calls.ask(partial(self._resume, reason, principal))

    async def _resume(self, reason: str, principal: str | None) -> None:
        if self._paused:
            await self._views.decide(self._decision("resume", reason, principal))
            self._paused = False
        for projector in (*self._serving, *self._building):
            projector.resume()

    async def reset(self, reason: str, principal: str | None) -> None:
        """Empty the tables that serve, and fold the log into them from its beginning."""
        await self._calls.ask(partial(self._reset, reason, principal))

    async def _reset(self, reason: str, principal: str | None) -> None:
        serving = self._serving
        if not serving:
            raise UsageError(
                f"projection {self.definition.name!r} serves tables of another version, and is "
                f"being built anew already"
            )
        async with self._at_rest(serving):
            if self.definition.sink is not None:
                self._logger.warning(
                    "sink %s was reset by %s and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING, up "
                    "to position %d where it was: %s",
                    self.definition.name,
                    principal or "somebody",
                    self.position,
                    reason or "no reason was given",
                )
            self.resets += 1
            try:
                await self._views.reset(self.definition, self._decision("reset", reason, principal))
                for projector in serving:
                    await projector.ask(projector.reopen)
                    projector.failure = None
            finally:
                self.resets += 1

    async def retry(self, key: str | None) -> Retried:
        """Try parked events again, of one key or all, in order."""
        return await self._calls.ask(partial(self._retry, key))

    async def _retry(self, key: str | None) -> Retried:
        released, failed = 0, list[Parked]()
        for projector in self._serving:
            after: int | None = 0
            while after is not None:
                if self._stopping:
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
        at_work, version = (*self._serving, *self._building), self.definition.version
        parked = await self._parked_at(position)
        if parked is not None:
            owner = self._serving[slice_of(parked.key, len(self._serving))]
        else:
            stopped = [p for p in at_work if _is_stopped_by(p, position)]
            if not stopped:
                name = self.definition.name
                version = stopped_there(name, position, await self._views.standstills(name)).version
            owner = (*stopped, *at_work)[0]
            if version != self.definition.version:
                at_work = ()  # the process that builds it reads the decision when it goes on
        stored = await owner.read(position)
        decision = msgspec.structs.replace(
            self._decision("skip", reason, principal, position, version), checksum=stored.checksum
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
                if projector in self._serving:
                    # What it has parked since may have been taken out by the decision.
                    keys = await self._views.parked_keys(projector.part)
                    projector.parking.begin(keys)

            await projector.ask(skip)
        late = await self._parked_at(position)
        if late is not None and version == self.definition.version:
            # It was in hand when the decision was kept. Being skipped, it leaves nothing behind.
            projector = self._serving[slice_of(late.key, len(self._serving))]
            await projector.ask(partial(projector.release, late))

    async def _parked_at(self, position: int) -> Parked | None:
        """Give what is parked there of the build that serves, if that is of this version."""
        if not self._serving:
            return None
        found = await self._views.parked(self.definition.name, after=position - 1, limit=1)
        return found[0] if is_parked_there(position, found) else None

    def _decision(
        self,
        kind: DecisionKind,
        reason: str = "",
        principal: str | None = None,
        position: int | None = None,
        version: int | None = None,
    ) -> Decision:
        return Decision(
            self.definition.name,
            kind,
            self._ports.clock.now(),
            version or self.definition.version,
            position,
            reason,
            principal,
        )


async def _nothing_to_do() -> None:
    """Come when the projector does."""


def _is_stopped_by(projector: Projector, position: int) -> bool:
    failure = projector.failure
    return failure is not None and bool(failure.event) and failure.position == position
