"""The life of one owner of several: joins the members, runs an engine for its slots, and leaves.

Rules: the engine that decides has a log and no views, and one row among the members. Where that row
is declared dead, the engine ends, and another one joins as another member. Who leaves takes nothing
more, answers what it has, and only then gives its row back. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from ...errors import EngineError, StoreFailed, StoreLocked
from ...health.facts import facts_of
from ...runtime.safely import described
from ...runtime.uncancelled import ended
from ...statistics import EngineStatistics, SpreadStatistics
from ...stores.contract.membership import Attending, Heed, View
from ...wiring import Wiring
from ..forms import CommandForms
from ..meeting import LeaseMeeting
from ..releases import Release
from ..serving import Serving
from ..wire import Member
from .router import Router, is_elsewhere

__all__ = ["Spread"]

_AGAIN_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 10.0
"""How long a process that starts waits for one that has the log alone."""


class Spread:
    """One process's part in the deciding, from `start` to `end`."""

    def __init__(
        self,
        make: Callable[[Heed], Wiring],
        meeting: LeaseMeeting,
        router: Router,
        forms: CommandForms,
        release: Release,
        logger: logging.Logger,
        failed: Callable[[BaseException], None],
        failpoint: Callable[[str], None] | None,
        reads: Callable[[], tuple[int | None, bool]],
    ) -> None:
        """Take how an engine is made, and who is told where one has failed for good.

        `reads` gives how far those that follow the log here have read it, and whether this process
        is the one that leads.
        """
        self._reads = reads
        self._make = make
        self._meeting = meeting
        self._router = router
        self._forms = forms
        self._release = release
        self._logger = logger
        self._failed = failed
        self._failpoint = failpoint
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.wiring: Wiring | None = None
        """The engine that decides, while this process is a member."""
        self.terms = 0
        """How often this process has become a member."""

    async def start(self) -> None:
        """Become a member; raise what prevents that."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(started), name="foldline spread")
        try:
            await asyncio.shield(started)
        except BaseException:
            self._stop.set()
            await ended(self._task)
            if started.done() and not started.cancelled():
                started.exception()
            raise

    async def end(self) -> None:
        """Leave: answer what was taken, then give the row back."""
        if self._task is not None:
            self._stop.set()
            await ended(self._task)

    def statistics(self, leading: EngineStatistics) -> tuple[EngineStatistics, SpreadStatistics]:
        """Give the numbers of this process with those of its deciding; `leading` has the rest.

        What the part that leads has of commands is nothing: it decides none.
        """
        wiring = self.wiring
        if wiring is None:
            return leading, self._router.statistics()
        own = wiring.statistics()
        numbers = msgspec.structs.replace(
            leading,
            position=max(leading.position, own.position),
            commands=own.commands,
            handlers_running=own.handlers_running,
            aggregates=own.aggregates,
            snapshots=own.snapshots,
            journal=own.journal,
            server=own.server,
            loop_blocked=own.loop_blocked,
            telemetry_failures=leading.telemetry_failures + own.telemetry_failures,
        )
        return numbers, self._router.statistics()

    async def _run(self, started: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_SECONDS
        try:
            while not self._stop.is_set():
                try:
                    await self._take_part(started)
                except EngineError as error:
                    waits = isinstance(error, StoreLocked) and loop.time() < deadline
                    if not started.done() and not waits:
                        raise
                    if started.done() and not isinstance(error, StoreFailed | StoreLocked):
                        raise
                    self._logger.warning("this process decides nothing: %s", described(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_SECONDS):
                        await self._stop.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            else:
                self._failed(error)
        finally:
            await self._router.end("this process is stopping: the command was not run")
            await self._meeting.close()

    async def _take_part(self, started: asyncio.Future[None]) -> None:
        """Be a member until this process leaves, or was declared dead."""
        wiring = self._make(lambda view: self._heed(wiring, view))
        if wiring.shared is not None:
            store: Any = wiring.store
            store.overtaken = partial(_let_go, wiring)
        wiring.entrance.open()
        await self._meeting.prepare(wiring.store)
        try:
            await wiring.supervisor.start()
        except BaseException:
            self._meeting.leave()
            raise
        serving = self._serving_of(wiring)
        try:
            await serving.open()
            self.terms += 1
            self.wiring = wiring
            wiring.reception.astray = self._router.astray
            wiring.reception.is_another_ones = self._router.is_another_ones
            wiring.rescue_by(self._router.rescue)
            wiring.supervisor.goes_on = lambda: _is_succeeded(wiring)
            self._router.adopt(wiring, _attending(wiring))
            if not started.done():
                started.set_result(None)
            assert wiring.supervisor.task is not None
            await _first(self._stop.wait(), _ended(wiring.supervisor.task))
        finally:
            self._router.disown()
            serving.leave()
            try:
                await wiring.supervisor.end()
                await self._answered()
            finally:
                self.wiring = None
                self._router.forget()
                await serving.close()
        if wiring.life.failed is not None:
            if not _is_succeeded(wiring):
                raise wiring.life.failed
            self._logger.warning("%s This process joins them again.", wiring.life.failed)

    async def _answered(self) -> None:
        """Let other members answer what they have of this process, which leaves."""
        if self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._router.drain()

    def _heed(self, wiring: Wiring, view: View) -> None:
        self._router.heed(wiring, _attending(wiring), view)

    def _told(self, owner: Member) -> Member:
        """Give what this process tells of itself where its owners are listed."""
        numbers = self._router.statistics()
        position, leads = self._reads()
        return msgspec.structs.replace(
            owner,
            role="leader" if leads else "owner",
            commands=numbers.forwarded,
            waiting=sum(other.waiting for other in numbers.owners.values()),
            decided=numbers.decided,
            moved=numbers.moved,
            position=position,
        )

    def _serving_of(self, wiring: Wiring) -> Serving:
        return Serving(
            self._meeting,
            self._forms,
            log_id=wiring.store.log_id,
            session=getattr(wiring.store, "session", 0),
            release=self._release,
            send=self._router.serve,
            projections=wiring.projections,
            facts=partial(facts_of, wiring),
            is_owner=lambda: wiring.life.state == "running",
            logger=self._logger,
            own=self._told,
            is_another_ones=lambda error: is_elsewhere(error) or _is_succeeded(wiring),
            failpoint=self._failpoint,
        )


def _attending(wiring: Wiring) -> Attending:
    store: Any = wiring.store
    attending: Attending = store.attendance
    return attending


def _is_succeeded(wiring: Wiring) -> bool:
    """Tell whether an engine ended only since others took it for dead."""
    return bool(getattr(wiring.store, "is_succeeded", False))


def _let_go(wiring: Wiring, moved: Mapping[str, int]) -> None:
    """Let aggregates leave memory that others have moved: the next command loads them again."""
    found = [wiring.directory.resident(stream) for stream in moved]
    old = [actor for actor in found if actor is not None and actor.version < moved[actor.stream]]
    wiring.directory.let_go(old)


async def _first(*waits: Awaitable[object]) -> None:
    """Return when the first of these is done."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
