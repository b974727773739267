"""The courier: hands a batch to a sink, within a time, and comes back whatever becomes of it.

Rules: one delivery is under way at a time, or one `erase`. One that takes too long is cancelled,
and one that goes on all the same is not overtaken: nothing else is begun until it has ended. When
the engine stops, what is under way gets a little time and is then given up; so stopping is never
held up by a system outside. It does not know which events these are, nor what becomes of a failure.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ...errors import EngineError, UsageError
from ...limits import Limits
from ...runtime.contained import HostFailed, contained
from ...runtime.futures import retrieve
from ...runtime.safely import as_error

__all__ = ["Abandoned", "Courier", "NotDelivered"]

CANCEL_SECONDS: Final = 1.0
"""How long a delivery that was cancelled may take to end."""


class NotDelivered(EngineError):
    """A call took too long, or was given up; it may have come through, and is made again."""


class Abandoned(NotDelivered):
    """The same, since the engine stops."""


class Courier:
    """Hands over the batches of one part of a sink."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        logger: logging.Logger,
        *,
        engine_stops: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the sink's name, for the log, and what tells whether the engine has begun to stop.

        It stops before this does: accepted commands are answered first.
        """
        self._name = name
        self._seconds = limits.sink_seconds
        self._erase_seconds = limits.sink_erase_seconds
        self._stop_seconds = limits.sink_stop_seconds
        self._what = "deliver"
        """Which method of the sink is under way."""
        self._logger = logger
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0
        """When what is under way must have ended, by the event loop's clock."""
        self._hurried: asyncio.Future[None] | None = None
        """Done when that has changed."""
        self._stopping = False
        self._engine_stops = engine_stops

    async def hand_over(self, deliver: Callable[[], Awaitable[object]]) -> Exception | None:
        """Run a delivery; give what it raised, or NotDelivered where it did not end in time.

        Raises Abandoned where the engine stops meanwhile.
        """
        limit = f"{self._seconds} s (Limits.sink_seconds)"
        return await self._run("deliver", deliver, self._seconds, limit)

    async def erase(self, erase: Callable[[], Awaitable[object]], times: int) -> Exception | None:
        """Let a sink erase people, so many times as long as any may; as `hand_over`."""
        seconds = times * self._erase_seconds
        limit = f"{seconds} s (from Limits.sink_erase_seconds)"
        return await self._run("erase", erase, seconds, limit)

    async def _run(
        self, what: str, call: Callable[[], Awaitable[object]], seconds: float, limit: str
    ) -> Exception | None:
        if self._task is not None and not self._task.done():
            return NotDelivered(
                f"`{self._what}` of sink {self._name} was cancelled and still goes on: nothing "
                f"overtakes it. Mend it, it must let CancelledError pass"
            )
        if self._stopping:
            raise Abandoned("the engine stops, and begins no delivery")
        loop = asyncio.get_running_loop()
        self._what, self._due = what, loop.time() + seconds
        name = f"foldline sink {self._name}"
        task = self._task = loop.create_task(_call(what, call), name=name)
        task.add_done_callback(retrieve)
        try:
            await self._wait(task)
            if task.done():
                return self._outcome(task)
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        finally:
            task.cancel()  # also where this is cancelled itself
        return self._not_delivered(task, limit)

    def stop(self) -> None:
        """Let what is under way end soon, and begin nothing more."""
        self._stopping = True
        if self._task is not None and not self._task.done():
            self._due = min(self._due, self._task.get_loop().time() + self._stop_seconds)
            if self._hurried is not None and not self._hurried.done():
                self._hurried.set_result(None)

    async def _wait(self, task: asyncio.Task[None]) -> None:
        """Return when a delivery has ended, or its time has."""
        loop = asyncio.get_running_loop()
        while not task.done() and (left := self._due - loop.time()) > 0:
            self._hurried = loop.create_future()
            waiting = {task, self._hurried}
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _outcome(self, task: asyncio.Task[None]) -> Exception | None:
        """Give what a delivery raised.

        Raises Abandoned where the engine stops: nobody can tell whether that is why it failed.
        """
        error = _error_of(task)
        if error is not None and (self._stopping or self._engine_stops()):
            raise Abandoned(
                f"the engine stops, and {self._what} of sink {self._name} failed meanwhile with "
                f"{type(error).__name__}: it is made again after the next start"
            ) from error
        return error

    def _not_delivered(self, task: asyncio.Task[None], limit: str) -> NotDelivered:
        if not task.done():
            self._logger.error(
                "%s of sink %s does not end when it is cancelled: mend it, it must let "
                "CancelledError pass",
                self._what,
                self._name,
            )
        if self._stopping:
            raise Abandoned(
                f"the engine stops, and sink {self._name} was not through with {self._what} within "
                f"{self._stop_seconds} s (Limits.sink_stop_seconds): it is made again"
            )
        return NotDelivered(
            f"{self._what} of sink {self._name} took longer than {limit} and was cancelled"
        )


async def _call(what: str, call: Callable[[], Awaitable[object]]) -> None:
    try:
        given = await call()
    except (SystemExit, KeyboardInterrupt) as error:  # which would end the event loop
        raise as_error(error) from error
    if inspect.isawaitable(given):
        # Nobody runs it, so nothing has been done.
        if inspect.iscoroutine(given):
            given.close()
        raise UsageError(f"`{what}` returned what is to be awaited: await it there")


def _error_of(task: asyncio.Task[None]) -> Exception | None:
    if task.cancelled():
        return NotDelivered("it was cancelled by somebody else")
    error = task.exception()
    if error is None:
        return None
    failed = contained(error)
    if isinstance(failed, HostFailed) and isinstance(error, BaseExceptionGroup):
        # A group that is no Exception has a cancellation in it.
        return NotDelivered("it was cancelled inside by somebody else")
    return failed
