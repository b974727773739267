"""The courier: hands a batch to a sink, within a time, and comes back whatever becomes of it.

Rules: one delivery is under way at a time. One that takes too long is cancelled, and one that goes
on all the same is not overtaken: nothing else is delivered until it has ended. When the engine
stops, what is under way gets a little time and is then given up; so stopping is never held up by a
system outside. It does not know which events these are, nor what becomes of a failure.
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
    """A delivery took too long, or was given up; it may have come through, and is made again."""


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
        self._stop_seconds = limits.sink_stop_seconds
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
        try:
            self.check_free()
        except NotDelivered as error:
            return error
        if self._stopping:
            raise Abandoned("the engine stops, and begins no delivery")
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds
        task = self._task = loop.create_task(_run(deliver), name=f"foldline sink {self._name}")
        task.add_done_callback(retrieve)
        try:
            await self._wait(task)
            if task.done():
                return self._outcome(task)
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        finally:
            task.cancel()  # also where this is cancelled itself
        return self._not_delivered(task)

    def check_free(self) -> None:
        """Raise NotDelivered while a delivery goes on that was cancelled."""
        if self._task is not None and not self._task.done():
            raise NotDelivered(
                f"a delivery of sink {self._name} was cancelled and still goes on: nothing "
                f"overtakes it. Mend `deliver`, which must let CancelledError pass"
            )

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
                f"the engine stops, and a delivery of sink {self._name} failed meanwhile with "
                f"{type(error).__name__}: it is made again after the next start"
            ) from error
        return error

    def _not_delivered(self, task: asyncio.Task[None]) -> NotDelivered:
        if not task.done():
            self._logger.error(
                "deliver of sink %s does not end when it is cancelled: mend it, it must let "
                "CancelledError pass",
                self._name,
            )
        if self._stopping:
            raise Abandoned(
                f"the engine stops, and sink {self._name} was not through with a delivery within "
                f"{self._stop_seconds} s (Limits.sink_stop_seconds): it is made again"
            )
        return NotDelivered(
            f"deliver of sink {self._name} took longer than {self._seconds} s "
            f"(Limits.sink_seconds) and was cancelled"
        )


async def _run(deliver: Callable[[], Awaitable[object]]) -> None:
    try:
        given = await deliver()
    except (SystemExit, KeyboardInterrupt) as error:  # which would end the event loop
        raise as_error(error) from error
    if inspect.isawaitable(given):
        # Nobody runs it, so nothing has been delivered.
        if inspect.iscoroutine(given):
            given.close()
        raise UsageError("`deliver` returned what is to be awaited: await it there")


def _error_of(task: asyncio.Task[None]) -> Exception | None:
    if task.cancelled():
        return NotDelivered("a delivery was cancelled by somebody else")
    error = task.exception()
    if error is None:
        return None
    failed = contained(error)
    if isinstance(failed, HostFailed) and isinstance(error, BaseExceptionGroup):
        # A group that is no Exception has a cancellation in it.
        return NotDelivered("a delivery was cancelled inside by somebody else")
    return failed
