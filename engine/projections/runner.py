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
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from ..errors import EngineError
from ..log.bus import Bus
from ..model.projection import Projection, ProjectionDefinition
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..statistics import BuildProgress, ProjectionFailure, ProjectorState, ProjectorStatistics
from ..stores.contract.views import Build, DecisionKind, Part, ProjectionDecision, ViewsStore
from .calls import Calls
from .desk import ProjectionDesk
from .progress import Rate, nothing_yet, together, worst
from .projector import Projector

__all__ = ["MakeProjector", "ProjectionRunner"]

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


class ProjectionRunner:
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
        slices: Sequence[int] | None = None,
    ) -> None:
        """Take which slices are run here; None for all of them, and what people decide."""
        self._definition = projection.__definition__
        self._slices = range(self._definition.slices) if slices is None else slices
        self._make = make
        self._views = views
        self._bus = bus
        self._ports = ports
        self._logger = logger
        self._end_of_log = end_of_log
        self.serving: tuple[Projector, ...] = ()
        """What queries see, a projector for each slice."""
        self.building: tuple[Projector, ...] = ()
        """What is to serve next."""
        self._left_at = 0
        """Where tables of a former version stand, which nobody here can fold on."""
        self.resets = 0
        """Grows by one as tables begin to be emptied, and by another when that has ended."""
        self._has_fallen = False
        """Whether the views turned out to stand earlier, and nobody has looked yet where."""
        self.paused = False
        """Whether somebody decided that it rests."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = False
        self._over = False
        """Whether `run` has ended: nothing moves any more."""
        self._wake = Bell()
        self._calls = Calls(self._wake.set)
        self.desk = ProjectionDesk(self, self._calls, views, logger)
        """What people decide about it."""
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
    def is_emptied(self) -> bool:
        """Whether queries may see less than before: a reset is under way, or commits were lost."""
        return bool(self.resets % 2) or self._has_fallen

    @property
    def position(self) -> int:
        """Position of the last event that queries can see."""
        if self.is_emptied:
            return 0
        serving = self.serving
        return min(p.position for p in serving) if serving else self._left_at

    @property
    def state(self) -> ProjectorState:
        """That of its projectors, the worst of them."""
        return worst([p.state for p in self.serving]) if self.serving else "building"

    def shows(self, part: Part) -> bool:
        """Whether queries see what a part keeps."""
        return any(projector.part.build == part.build for projector in self.serving)

    @property
    def failure(self) -> ProjectionFailure | None:
        """Why it is stopped, if it is."""
        return next((p.failure for p in self.serving if p.failure is not None), None)

    def statistics(self) -> ProjectorStatistics:
        """Give the numbers as they are now, of all slices together; called from any thread."""
        position, end = self.position, self._end_of_log()
        found = [projector.statistics() for projector in self.serving]
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
        building = self.building
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
            retrying=next((p.retrying for p in building if p.retrying is not None), None),
        )

    async def wait_for(self, position: int, deadline: float) -> bool:
        """Return whether queries see the event at this position, as soon as that is known.

        It is known when they do, when a projector has ended below it, and at the deadline, by the
        event loop's clock.
        """
        while True:
            serving, settled = self.serving, self._settled
            if not self.is_emptied and await self._all_reach(serving, position, deadline):
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
        self.paused = await self._views.is_paused(name)
        for build in await self._views.builds(name):
            if build.state == "serving":
                self._left_at = build.position
            if build.fits and build.state == "serving":
                self.serving = self.projectors_of(build)
            elif build.fits and build.state == "building":
                self.building = self.projectors_of(build)

    def projectors_of(self, build: Build) -> tuple[Projector, ...]:
        """Make the projectors of a build, not yet at work."""
        projectors = tuple(
            self._make(
                Part(self.definition, build.number, n), moved=self._moved, paused=self.paused
            )
            for n in self._slices
        )
        if build.state == "building":
            for projector in projectors:
                projector.parking.allowed = False
                # Where nothing of this version serves, queries wait for it: then it does not.
                projector.gives_way = bool(self.serving)
        return projectors

    async def run(self) -> None:
        """Work until `stop`."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for projector in (*self.serving, *self.building):
                    tasks.start_soon(projector.run)
                while not self._stopping:
                    if self._has_fallen:
                        await self._stand_again()
                    elif self._calls:
                        await self._calls.run_next()
                    elif self._may_swap():
                        await self._try_swap()
                    else:
                        await self._wait()
                for projector in (*self.serving, *self.building):
                    projector.stop()
        finally:
            self.end()

    def end(self) -> None:
        """Answer everybody who waits: nothing more will be done here."""
        self._over = True
        self._calls.refuse("the engine is not running any more: nothing was decided")
        self._settle()

    @property
    def is_stopping(self) -> bool:
        """Whether `run` is to return."""
        return self._stopping

    @property
    def is_busy(self) -> bool:
        """Whether a build is made, or what people decide is being done or waits for that."""
        return bool(self.building or self._calls or self._calls.is_running or self._resting)

    def stop(self) -> None:
        """Let `run` return when the batches in hand are written."""
        self._stopping = True
        self._wake.set()

    def fall(self) -> None:
        """Stand where the views say: they stand earlier than they did. Queries wait meanwhile."""
        if not self._has_fallen and not self._over:
            self._has_fallen = self._resting = True
            self.resets += 2  # what was read is not what was waited for
            self._wake.set()

    async def _stand_again(self) -> None:
        projectors = (*self.serving, *self.building)
        try:
            async with self.at_rest(projectors):
                for projector in projectors:
                    await projector.ask(projector.reopen)
                self._has_fallen = False
                self.resets += 2
        except EngineError:
            # The server may be away again: nothing is known before it answers.
            self._resting = True
            with suppress(TimeoutError):
                async with asyncio.timeout(SWAP_AGAIN_SECONDS):
                    self._wake.clear()
                    await self._wake.wait()

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        try:
            async with asyncio.timeout_at(self._swap_after if self._is_ready() else None):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _moved(self) -> None:
        if self.building:
            self._rate.note(min(p.position for p in self.building))
            if self._is_ready():
                self._wake.set()

    def _is_ready(self) -> bool:
        """Whether a build has caught up."""
        return bool(self.building) and all(p.state == "live" for p in self.building)

    def _may_swap(self) -> bool:
        return self._is_ready() and asyncio.get_running_loop().time() >= self._swap_after

    def _settle(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def at_rest(self, projectors: Sequence[Projector]) -> AsyncGenerator[None]:
        """Let projectors finish their batch and rest, as long as the block lasts."""
        self._resting = True
        try:
            await self.let_rest(projectors)
            yield
        finally:
            self._resting = False
            if not self.paused:
                for projector in projectors:
                    projector.go_on()
            self._settle()

    async def let_rest(self, projectors: Sequence[Projector]) -> None:
        """Let projectors finish their batch, and rest until they are told to go on."""
        for projector in projectors:
            projector.pause()
        for projector in projectors:
            await projector.ask(_nothing_to_do)

    def discard(self, projectors: Sequence[Projector]) -> None:
        """Let projectors end whose build is no more."""
        for projector in projectors:
            projector.stop()
            self._bus.unsubscribe(projector.subscription)

    # -- builds -------------------------------------------------------------------------------

    def begin(self, build: Build) -> None:
        """Let a build be folded beside the tables that serve."""
        assert self._tasks is not None, "calls are made while it runs"
        self.building = self.projectors_of(build)
        self._swap_failures, self._swap_after = 0, 0.0
        for projector in self.building:
            self._tasks.start_soon(projector.run)

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
        # Up to a bound: what fails for a day is tried again, and no float holds 2**1024.
        seconds = SWAP_AGAIN_SECONDS * 2.0 ** min(self._swap_failures, 16)
        seconds = min(seconds, SWAP_AGAIN_SECONDS_MAX)
        self._swap_failures += 1
        self._swap_after = asyncio.get_running_loop().time() + seconds

    async def _swap(self) -> bool:
        """Let the new build serve; tell whether it does: it may have fallen behind."""
        old, new = self.serving, self.building
        async with self.at_rest(old):
            reached = max((p.position for p in old), default=self._left_at)
            deadline = asyncio.get_running_loop().time() + SWAP_SECONDS
            for projector in new:
                if not await projector.wait_for(reached, deadline):
                    return False
            # At rest, so that none meets an event on the way that it cannot fold, and parks none.
            async with self.at_rest(new):
                if any(projector.failure is not None for projector in new):
                    return False
                number = new[0].part.build
                decision = self.decision("swap", position=reached)
                await self._views.swap(self.definition, number, decision)
                self.serving, self.building = new, ()
                for projector in new:
                    projector.parking.allowed = self.definition.on_poison == "park"
                    projector.gives_way = False
                    projector.announce()
            self.discard(old)
        self._logger.info(
            "projection %s is served by build %d, version %d, from position %d on",
            self.definition.name,
            number,
            self.definition.version,
            self.position,
        )
        return True

    def decision(
        self,
        kind: DecisionKind,
        reason: str = "",
        principal: str | None = None,
        position: int | None = None,
        version: int | None = None,
    ) -> ProjectionDecision:
        """Give a decision about this projection, as of now."""
        return ProjectionDecision(
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
