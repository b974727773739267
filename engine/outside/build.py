"""A build made from another process, beside an engine that writes and serves meanwhile.

Rules: the log is read from outside, and the projection's own handlers fold it with the engine's own
projectors into a build of the views' file, which nobody queries. Of what others have in that file
nothing is changed. It writes in short transactions and rests after each, so that the engine's own
writes find their turn. Whatever ends it, it goes on from its checkpoint
the next time. An engine that declares what it builds takes the build over, finishes it and swaps it
in: from then on nothing more is written here, and a build that an engine at work has begun is left
to it. It parks nothing and swaps nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Literal, TypeAlias

import anyio
import msgspec

from ..errors import StoreRefused, UsageError
from ..limits import Limits
from ..log.bus import Bus
from ..log.shared_pages import SharedPages
from ..model.codec import EventRegistry
from ..model.projection import Projection
from ..model.schema import refuse_misfits
from ..personal.vault import reading
from ..projections.progress import Rate, worst
from ..projections.projector import Projector
from ..projections.targets.choose import folding
from ..projections.targets.sql import SqlTarget
from ..runtime.ports import Ports
from ..statistics import BuildProgress, ProjectionFailure
from ..stores.contract.backend import Backend
from ..stores.contract.views import Build, Part
from .log_file import LogFile

__all__ = ["Ending", "OutsideBuild"]

POLL_SECONDS: Final = 0.1
TRANSACTION_SECONDS: Final = 0.25
"""For which handlers in SQL hold the file, unless one event takes longer."""

Why: TypeAlias = Literal["caught-up", "stopped", "taken-over", "dropped", "built-by-another"]
"""It is at the log's end; an event cannot be folded; an engine goes on with it; it is not there any
more; another process like this one goes on with it."""


class Ending(msgspec.Struct, frozen=True):
    """Why a build from outside has ended."""

    why: Why
    progress: BuildProgress

    @property
    def failure(self) -> ProjectionFailure | None:
        """What stopped it, if something did."""
        return self.progress.failure


class OutsideBuild:
    """One build of a projection, for the log of a backend; use it with `async with`."""

    def __init__(
        self,
        projection: type[Projection],
        registry: EventRegistry,
        backend: Backend,
        *,
        limits: Limits | None = None,
        ports: Ports | None = None,
    ) -> None:
        self._definition = projection.__definition__
        if not self._definition.has_tables:
            raise UsageError(
                f"{self._definition.name!r} is a sink or a reactor, which has no tables that could "
                f"be built beside others"
            )
        self._projection = projection
        self._registry = registry
        self._limits = limits or Limits()
        self._ports = ports or Ports()
        # What happens here is told by whoever runs it.
        self._logger = logging.getLogger("foldline.beside")
        self._logger.addHandler(logging.NullHandler())
        self._logger.propagate = False
        outside = backend.outside(self._ports)
        self._log = LogFile(outside.log_reader(), self._ports)
        self._token = self._ports.ids.new_id()
        self._views = outside.views_beside(self._token, self._logger)
        self._opened = AsyncExitStack()
        self._projectors: tuple[Projector, ...] = ()
        self._number = 0
        self._begun_at = 0
        self._end = 0
        self._rate = Rate(self._ports.clock.monotonic)

    async def __aenter__(self) -> OutsideBuild:
        """Open log and views, and begin the build or find it; raise StoreRefused where it cannot.

        It cannot where nothing serves yet, where what is declared serves already, where another
        version is being built, and where the types of events do not fit the log's.
        """
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        await self._close()

    async def _open(self) -> None:
        await self._log.open()
        refuse_misfits(self._registry, await self._log.event_types(), "nothing was built")
        reads = reading(self._registry, self._ports, self._log.log_id)
        await self._opened.enter_async_context(reads)
        await self._views.open(
            self._ports, self._limits, self._log, [self._projection], rebuild="auto"
        )
        build = await self._find()
        if build is None:
            raise StoreRefused(
                f"the build of projection {self._definition.name!r} was dropped by another process "
                f"as it began (a cancel, or a rebuild of the former release): start again to build "
                f"it anew"
            )
        self._number, self._begun_at = build.number, build.position
        self._end = (await self._log.head()).position
        self._projectors = tuple(self._make(build))

    def _make(self, build: Build) -> list[Projector]:
        # The bus carries nothing: what it misses is in the log, where the projectors look.
        bus, feed = Bus(self._limits), SharedPages(self._log)
        definition = msgspec.structs.replace(self._definition, on_poison="stop")
        parts = [Part(definition, build.number, n) for n in range(definition.slices)]
        works = [
            folding(part, self._views, self._registry, self._limits, self._ports) for part in parts
        ]
        for work in works:
            if isinstance(work, SqlTarget):
                work.transaction_seconds = TRANSACTION_SECONDS
        projectors = [
            Projector(
                part,
                work,
                store=feed,
                subscription=bus.subscribe(definition.name),
                limits=self._limits,
                ports=self._ports,
                logger=self._logger,
                end_of_log=lambda: self._end,
                failed=self._views.note_failure,
            )
            for part, work in zip(parts, works, strict=True)
        ]
        for projector in projectors:
            # One batch a transaction: the engine's own writes wait for it.
            projector.gives_way = True
            # Somebody waits for this process, and it goes on from here when it is begun again.
            projector.back_off.waits_for_the_store = False
        return projectors

    async def _close(self) -> None:
        try:
            await self._views.close()
            await self._opened.aclose()
        finally:
            await self._log.close()

    # -- building -------------------------------------------------------------------------------

    async def run(self, tell: Callable[[BuildProgress], None], *, follow: bool = False) -> Ending:
        """Fold what is not folded yet; with `follow`, keep up until something ends it.

        `tell` is called where it begins, and then some times a second.
        """
        ending: Ending | None = None
        tell(self._progress())
        async with anyio.create_task_group() as tasks:
            for projector in self._projectors:
                tasks.start_soon(projector.run)
            try:
                ending = await self._watch(tell, follow=follow)
            finally:
                for projector in self._projectors:
                    projector.stop()
        assert ending is not None, "what is raised inside is raised here"
        if ending.why == "caught-up":
            # What was in hand when it ended was written.
            ending = Ending(ending.why, self._progress())
        return ending

    async def _watch(self, tell: Callable[[BuildProgress], None], *, follow: bool) -> Ending:
        seen: tuple[int, int | None] = (-1, None)
        before = self._end
        while True:
            now = (await self._log.change_count(), await self._views.change_count())
            if now[0] != seen[0]:
                self._end = (await self._log.head()).position
                for projector in self._projectors:
                    projector.subscription.miss()
            elsewhere = await self._elsewhere() if now[1] != seen[1] else None
            seen = now
            progress = self._progress()
            tell(progress)
            if progress.state == "stopped":
                # What could not be written may be somebody else's by now.
                elsewhere = elsewhere or await self._elsewhere() or "stopped"
            if elsewhere is not None:
                return Ending(elsewhere, progress)
            if progress.position >= before and not follow:
                # The end moves on while others write: it was there a moment ago.
                return Ending("caught-up", progress)
            before = self._end
            await asyncio.sleep(POLL_SECONDS)

    def _progress(self) -> BuildProgress:
        projectors = self._projectors
        position = max(self._begun_at, min(p.position for p in projectors))
        self._rate.note(position)
        speed = self._rate.per_second(position)
        lag = max(0, self._end - position)
        return BuildProgress(
            number=self._number,
            version=self._definition.version,
            state=worst([p.state for p in projectors]),
            position=position,
            lag_events=lag,
            events_per_second=speed,
            seconds_left=lag / speed if speed else None,
            failure=next((p.failure for p in projectors if p.failure is not None), None),
        )

    async def _find(self) -> Build | None:
        builds = await self._views.builds(self._definition.name)
        if self._number:
            return next((b for b in builds if b.number == self._number), None)
        return next((b for b in builds if b.state == "building"), None)

    async def _elsewhere(self) -> Why | None:
        """Tell whether somebody else has the build now, or nobody any more."""
        build = await self._find()
        if build is None:
            return "dropped"
        if build.builder == self._token:
            return None
        return "taken-over" if build.builder is None else "built-by-another"
