"""All projectors of one projection: the slices of the build that serves, and of one that is built.

Rules: queries see the build that serves, and are never shown an earlier state by a swap: the new
build takes over when it has reached all that the old one shows, in one transaction, while both rest
between two batches. What people decide is synced before it is answered, and done again after a
restart. A build that is begun goes on after a crash. A build beside the one that serves parks
nothing: what it cannot fold stops it, and the old one goes on serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from .bus import Bus
from .errors import Closed, StoreFailed, StoreRefused, UsageError
from .ports import Ports
from .progress import Rate, nothing_yet, together, worst
from .projection import Projection, ProjectionDefinition
from .projector import Projector
from .statistics import (
    BuildProgress,
    ProjectionFailure,
    ProjectorState,
    ProjectorStatistics,
)
from .views import Build, Decision, DecisionKind, Parked, Part, ViewsStore

__all__ = ["MakeProjector", "Projecting", "Retried"]

SWAP_SECONDS: Final = 5.0
"""How long the build that serves may rest for one swap."""
PARKED_PAGE: Final = 100


class MakeProjector(Protocol):
    """Makes the projector of a part."""

    def __call__(self, part: Part, *, moved: Callable[[], None], paused: bool) -> Projector:
        """Give it, not yet at work."""
        ...


class Retried(msgspec.Struct, frozen=True):
    """What became of parked events that were tried again."""

    released: int
    """Events that are in the tables now."""
    failed: tuple[Parked, ...]
    """Those that failed again, the first of each key; all behind them were left."""


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
        self._paused = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._swapping = False
        self._swapped = asyncio.Event()
        """Set, and made anew, whenever a swap has ended."""
        self._rate = Rate(ports.clock.monotonic)

    # -- what is seen -------------------------------------------------------------------------

    @property
    def definition(self) -> ProjectionDefinition:
        """What it is."""
        return self._definition

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
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
            serving, swapped = self._serving, self._swapped
            if await self._all_reach(serving, position, deadline):
                return True
            if serving and serving is self._serving and not self._swapping:
                return False
            # A build is taking its place, or will: nobody folds a former version on.
            try:
                async with asyncio.timeout_at(deadline):
                    await swapped.wait()
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
        definition = self.definition
        if build.state == "building":
            definition = msgspec.structs.replace(definition, on_poison="stop")
        return tuple(
            self._make(Part(definition, build.number, n), moved=self._moved, paused=self._paused)
            for n in range(definition.slices)
        )

    async def run(self) -> None:
        """Work until `stop`."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for projector in (*self._serving, *self._building):
                    tasks.start_soon(projector.run)
                while not self._stopping:
                    await self._wake.wait()
                    self._wake.clear()
                    if self._is_ready() and not self._stopping:
                        await self._try_swap()
                for projector in (*self._serving, *self._building):
                    projector.stop()
        finally:
            self._tasks = None
            self._end_waits()

    def stop(self) -> None:
        """Let `run` return when the batches in hand are written."""
        self._stopping = True
        self._wake.set()

    def resume_stopped(self) -> None:
        """Let projectors that a failure has stopped try again."""
        for projector in (*self._serving, *self._building):
            if projector.state == "stopped":
                projector.resume()

    def _moved(self) -> None:
        if self._building:
            self._rate.note(min(p.position for p in self._building))
            if self._is_ready():
                self._wake.set()

    def _is_ready(self) -> bool:
        """Whether a build has caught up."""
        return bool(self._building) and all(p.state == "live" for p in self._building)

    def _end_waits(self) -> None:
        self._swapped.set()
        self._swapped = asyncio.Event()

    def _discard(self, projectors: Sequence[Projector]) -> None:
        for projector in projectors:
            projector.stop()
            self._bus.unsubscribe(projector.subscription)

    # -- builds -------------------------------------------------------------------------------

    async def _try_swap(self) -> None:
        self._swapping = True
        try:
            await self._swap()
        except (StoreFailed, StoreRefused) as error:
            self._logger.error(
                "projection %s: its new build could not be swapped in and is tried again with the "
                "next event: %s",
                self.definition.name,
                error,
            )
        finally:
            self._swapping = False
            if not self._paused:
                for projector in self._serving:
                    if projector.state == "paused":
                        projector.resume()
            self._end_waits()

    async def _swap(self) -> None:
        old, new = self._serving, self._building
        await self._rest(old)
        reached = max((p.position for p in old), default=self._left_at)
        deadline = asyncio.get_running_loop().time() + SWAP_SECONDS
        for projector in new:
            if not await projector.wait_for(reached, deadline):
                return
        number = new[0].part.build
        await self._views.swap(self.definition, number, self._decision("swap", position=reached))
        self._serving, self._building = new, ()
        for projector in new:
            projector.announce()
        self._discard(old)
        self._logger.info(
            "projection %s is served by build %d, version %d, from position %d on",
            self.definition.name,
            number,
            self.definition.version,
            self.position,
        )

    async def _rest(self, projectors: Sequence[Projector]) -> None:
        """Let projectors finish their batch and rest."""
        for projector in projectors:
            projector.pause()
        for projector in projectors:
            await projector.ask(_nothing_to_do)

    async def rebuild(self) -> None:
        """Begin a build beside the one that serves; nothing happens where one is on its way."""
        tasks = self._running()
        if self.definition.sink is not None:
            name = self.definition.name
            raise UsageError(
                f"sink {name!r} has no tables to be built beside others: to deliver everything "
                f"again into a system that is new, give it a sink of another name, which begins at "
                f"the beginning; to deliver it again into the same one, "
                f"`engine.projections.reset({name!r})`"
            )
        if self._building:
            return
        build = await self._views.begin_build(self.definition)
        self._building = self._projectors(build)
        for projector in self._building:
            tasks.start_soon(projector.run)

    async def cancel(self) -> None:
        """Give a build up, and take its tables away."""
        self._running()
        building = self._building
        if not building:
            raise UsageError(f"projection {self.definition.name!r} is not being rebuilt")
        if not self._serving:
            raise UsageError(
                f"projection {self.definition.name!r} has no tables of its own version but those "
                f"that are being built: let them be finished"
            )
        self._building = ()
        await self._rest(building)
        self._discard(building)
        number = building[0].part.build
        await self._views.drop(self.definition.name, number, self._decision("drop"))

    async def drop_former(self) -> Sequence[Build]:
        """Take the tables of all former builds away; give what they were."""
        name = self.definition.name
        former = [b for b in await self._views.builds(name) if b.state == "former"]
        for build in former:
            decision = self._decision("drop", version=build.version)
            await self._views.drop(name, build.number, decision)
        return former

    # -- what people decide -------------------------------------------------------------------

    async def pause(self, reason: str, principal: str | None) -> None:
        """Let it rest until somebody resumes it, over restarts too."""
        self._running()
        await self._views.decide(self._decision("pause", reason, principal))
        self._paused = True
        await self._rest((*self._serving, *self._building))

    async def resume(self, principal: str | None) -> None:
        """Let it go on, from a pause or after a failure."""
        self._running()
        if self._paused:
            await self._views.decide(self._decision("resume", principal=principal))
            self._paused = False
        for projector in (*self._serving, *self._building):
            projector.resume()

    async def reset(self, reason: str, principal: str | None) -> None:
        """Empty the tables that serve, and fold the log into them from its beginning."""
        self._running()
        serving = self._serving
        if not serving:
            raise UsageError(
                f"projection {self.definition.name!r} serves tables of another version, and is "
                f"being built anew already"
            )
        await self._rest(serving)
        if self.definition.sink is not None:
            self._logger.warning(
                "sink %s was reset by %s and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING, up to "
                "position %d where it was: %s",
                self.definition.name,
                principal or "somebody",
                self.position,
                reason or "no reason was given",
            )
        try:
            await self._views.reset(self.definition, self._decision("reset", reason, principal))
            for projector in serving:
                await projector.ask(projector.reopen)
        finally:
            for projector in serving:
                if not self._paused:
                    projector.resume()

    async def retry(self, key: str | None) -> Retried:
        """Try parked events again, of one key or all, in order."""
        self._running()
        released, failed = 0, list[Parked]()
        for projector in self._serving:
            after: int | None = 0
            while after is not None:
                call = _Retry(self._views, projector, key, after, {p.key for p in failed})
                await projector.ask(call.run)
                released += call.released
                failed += call.failed
                after = call.next
        return Retried(released, tuple(failed))

    async def skip(self, position: int, reason: str, principal: str | None) -> None:
        """Leave an event out of the views, as somebody decided and says why."""
        self._running()
        if not reason.strip():
            raise UsageError("an event is skipped for a reason: say it, it is kept")
        decision = self._decision("skip", reason, principal, position)
        name = self.definition.name
        found = await self._views.parked(name, after=position - 1, limit=1)
        if found and found[0].position == position:
            owner = next(p for p in self._serving if found[0].key in p.parking.keys)

            async def forget() -> None:
                await self._views.decide(decision)
                owner.parking.released(found)
                owner.skip(position)

            await owner.ask(forget)
            return
        stopped = [
            p
            for p in (*self._serving, *self._building)
            if p.failure is not None and p.failure.event and p.failure.position == position
        ]
        if not stopped:
            raise UsageError(
                f"no event of projection {name!r} is parked at position {position}, and none there "
                f"has stopped it: nothing was skipped"
            )
        await self._views.decide(decision)
        for projector in stopped:
            projector.skip(position)

    def _running(self) -> anyio.abc.TaskGroup:
        if self._tasks is None or self._stopping:
            raise Closed("the engine is not running: nothing was decided")
        return self._tasks

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


class _Retry:
    """One page of parked events, tried again between two batches of their projector."""

    def __init__(
        self,
        views: ViewsStore,
        projector: Projector,
        key: str | None,
        after: int,
        given_up: set[str],
    ) -> None:
        self._views = views
        self._projector = projector
        self._key = key
        self._after = after
        self._given_up = given_up
        self.released = 0
        self.failed: list[Parked] = []
        self.next: int | None = None
        """After which position to go on."""

    async def run(self) -> None:
        """Try them."""
        projector = self._projector
        name = projector.definition.name
        page = await self._views.parked(name, key=self._key, after=self._after, limit=PARKED_PAGE)
        for parked in page:
            self.next = parked.position
            if parked.key in self._given_up or parked.key not in projector.parking.keys:
                continue
            if await projector.release(parked) is None:
                self.released += 1
            else:
                self._given_up.add(parked.key)
                self.failed.append(parked)


async def _nothing_to_do() -> None:
    """Come when the projector does."""
