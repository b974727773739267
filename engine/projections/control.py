"""Control from outside: does what other processes ask of projections and timers, as it runs.

Rules: it looks for requests a few times a second, by asking SQLite whether anybody else has
committed, and reads only then. An engine without projections looks as long as timers wait.
Requests are done one at a time, in the order asked, through the
same code as `engine.projections`, the gate included. Each is marked as begun before it is done, so
that none is done twice, and answered afterwards; one that a former engine had begun is answered
*unknown*. What goes wrong here is told in the answer, and never stops the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias

from ..errors import Closed, EngineError, Forbidden, StoreFailed, StoreRefused, UsageError
from ..limits import Limits
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..runtime.safely import shows_messages, text_of
from ..runtime.tracebacks import traceback_text
from ..stores.contract.acts import DONE_TEXTS, cancelled_text, dropped_text, skipped_text
from ..stores.contract.requests import (
    ENDED_TEXT,
    TIMER_KINDS,
    Arguments,
    Outcome,
    Request,
    RequestStore,
    refusal_of,
)
from .operations import Projections

__all__ = ["Control"]

Act: TypeAlias = Callable[[Projections, Request, Arguments], Awaitable[str]]
"""Does what was asked; gives what is to be told."""


class TimersToAsk(Protocol):
    """The timers of the engine, as far as others may ask something of them."""

    def any_wait(self) -> bool:
        """Tell whether there is one that may be asked for."""
        ...

    def looked(self) -> None:
        """Take that what was asked for before the engine ran is done."""
        ...

    async def do(self, request: Request) -> str:
        """Do what was asked; give what is to be told."""
        ...


class Control:
    """Runs beside the projectors, and like them until `stop`."""

    def __init__(
        self,
        projections: Projections,
        timers: TimersToAsk,
        store: RequestStore,
        limits: Limits,
        ports: Ports,
        logger: logging.Logger,
    ) -> None:
        self._projections = projections
        self._timers = timers
        self._store = store
        self._seconds = limits.control_poll_ms / 1_000
        self._failpoint = ports.failpoint
        self._logger = logger
        self._stopping = Bell()
        self._seen: int | None = None
        """The count of changes after which nothing was left to do."""
        self._untold: tuple[int, Outcome] | None = None
        """An answer that could not be written yet."""
        self._failed = False
        """Whether the last look failed, which is told once."""

    async def run(self) -> None:
        """Look for requests until `stop`."""
        if not self._seconds or await self._count_changes() is None:
            self._timers.looked()
            await self._stopping.wait()
            return
        while not self._stopping.is_set():
            if len(self._projections) or self._timers.any_wait():
                await self._look_safely()
            self._timers.looked()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _look_safely(self) -> None:
        try:
            await self._look()
            self._failed = False
        except (StoreFailed, StoreRefused) as error:
            if not self._failed:
                self._logger.warning("requests from outside wait for a while: %s", error)
            self._failed = True
        except Exception as error:
            # Nobody foresaw it; requests wait, and everything else goes on.
            if not self._failed:
                self._logger.error(
                    "requests from outside wait for a while\n%s", traceback_text(error)
                )
            self._failed = True

    def stop(self) -> None:
        """Let `run` return when the request in hand is answered; the others wait for an engine."""
        self._stopping.set()

    async def _count_changes(self) -> int | None:
        try:
            return await self._store.change_count()
        except (StoreFailed, StoreRefused):
            return -1

    async def _look(self) -> None:
        # Counted before the requests are read: what is asked meanwhile changes it again.
        changes = await self._store.change_count()
        if changes == self._seen and self._untold is None:
            return
        if await self._do_all():
            self._seen = changes

    async def _do_all(self) -> bool:
        """Do what was asked; tell whether nothing is left."""
        while True:
            if self._untold is not None:
                await self._store.answer_request(*self._untold)
                self._untold = None
            if self._stopping.is_set():
                return False
            request = await self._store.take_request()
            if request is None:
                return True
            outcome = await self._do_once(request)
            if outcome is None:
                await self._store.put_back_request(request.number)
                return False
            self._reach("control.done")
            self._untold = request.number, outcome

    async def _do_once(self, request: Request) -> Outcome | None:
        """Do a request, unless somebody has begun it before; None where it is to wait."""
        if request.state == "begun":
            return Outcome("unknown", ENDED_TEXT)
        self._reach("control.begun")
        outcome = await self._do(request)
        if outcome is not None:
            self._logger.info(
                "request %d, %s %s by %s: %s, %s",
                request.number,
                request.kind,
                request.projection,
                request.principal,
                outcome.state,
                outcome.text,
            )
        return outcome

    async def _do(self, request: Request) -> Outcome | None:
        arguments = request.arguments
        why = refusal_of(request.kind, arguments)
        if why is not None or arguments is None:
            return Outcome("refused", why or f"this release does not know {request.kind!r}")
        # What fails while parked events are tried may have been preceded by others that did not.
        refusals: tuple[type[EngineError], ...] = (Forbidden, UsageError)
        if request.kind != "retry":
            refusals = (*refusals, StoreRefused)
        try:
            if request.kind in TIMER_KINDS:
                return Outcome("done", await self._timers.do(request))
            act = _ACTS[request.kind]
            return Outcome("done", await act(self._projections, request, arguments))
        except Closed:
            return None  # nothing was decided, and the next engine will
        except refusals as error:
            return Outcome("refused", text_of(error))
        except Exception as error:
            self._logger.error(
                "request %d failed\n%s",
                request.number,
                traceback_text(error, messages=shows_messages(self._logger)),
            )
            what = text_of(error) if isinstance(error, EngineError) else type(error).__name__
            return Outcome("unknown", f"it failed, perhaps after something was done: {what}")

    def _reach(self, name: str) -> None:
        if self._failpoint is not None:
            self._failpoint(name)


# -- what can be asked --------------------------------------------------------------------------


class _Plain(Protocol):
    """A method of Projections that needs no more than a name."""

    def __call__(
        self, projections: Projections, name: str, /, *, reason: str, principal: str | None
    ) -> Awaitable[None]: ...


def _plain(method: _Plain, kind: str) -> Act:
    async def act(projections: Projections, request: Request, arguments: Arguments) -> str:
        await method(
            projections,
            request.projection,
            reason=arguments.reason,
            principal=request.principal,
        )
        return DONE_TEXTS[kind]

    return act


async def _cancel(projections: Projections, request: Request, arguments: Arguments) -> str:
    build = await projections.cancel(
        request.projection, reason=arguments.reason, principal=request.principal
    )
    return cancelled_text(build)


async def _drop(projections: Projections, request: Request, arguments: Arguments) -> str:
    builds = await projections.drop(
        request.projection, reason=arguments.reason, principal=request.principal
    )
    return dropped_text(builds)


async def _retry(projections: Projections, request: Request, arguments: Arguments) -> str:
    retried = await projections.retry(
        request.projection,
        key=arguments.key,
        reason=arguments.reason,
        principal=request.principal,
    )
    return retried.text


async def _skip(projections: Projections, request: Request, arguments: Arguments) -> str:
    position = arguments.position
    assert position is not None, "what cannot be read was refused"
    await projections.skip(
        request.projection, position, reason=arguments.reason, principal=request.principal
    )
    return skipped_text(position)


_ACTS: Final[Mapping[str, Act]] = {
    "pause": _plain(Projections.pause, "pause"),
    "resume": _plain(Projections.resume, "resume"),
    "reset": _plain(Projections.reset, "reset"),
    "rebuild": _plain(Projections.rebuild, "rebuild"),
    "cancel": _cancel,
    "drop": _drop,
    "retry": _retry,
    "skip": _skip,
}
