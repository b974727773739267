"""Async handlers at work: one task each, within a limit of time, while the other actors go on.

Rules: a handler's outcome counts once, and not before its task has a turn of its own, also where
the host starts tasks eagerly. It ends by returning or raising, which the actor is told in
a turn of its own, unless the command's deadline passes before that; by running out of time, which
the caller hears at once; or by being dropped, because what it decided on became void. Whatever a
handler does after its end is ignored, also when it will not be cancelled; but it takes up room
until it has ended, so that handlers that stay are bounded. It decides nothing itself, and never
touches a state or a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio

from ..errors import Overloaded
from ..limits import Limits
from ..runtime.ports import Clock
from .mailbox import Intake, Mail

__all__ = ["CURRENT", "Deliberation", "Deliberations"]

_STOP_SECONDS = 1.0
"""How long the end of the engine waits for handlers that were cancelled."""
_NAMES_MAX = 5
"""Handlers that are named where there are too many."""


class Deliberation:
    """One command that an async handler decides."""

    __slots__ = (
        "_loop",
        "_on_end",
        "_on_late",
        "_task",
        "_timer",
        "clock",
        "due",
        "ended",
        "error",
        "intake",
        "mail",
        "ran_out",
        "returned",
        "seconds",
    )

    def __init__(self, mail: Mail, clock: Clock, intake: Intake) -> None:
        self.mail = mail
        self.clock = clock
        self.intake = intake
        """Of the engine that it belongs to."""
        self.seconds = 0.0
        """What it may take."""
        self.due = 0.0
        self.ended = False
        """Whether it has its outcome, or none is wanted any more."""
        self.ran_out = False
        """Whether it ended by running out of time."""
        self.returned: Any = None
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def begin(
        self,
        decide: Callable[[], Awaitable[Any]],
        seconds: float,
        on_end: Callable[[], None],
        on_late: Callable[[], None],
    ) -> asyncio.Task[None]:
        """Start the handler; one of the two callbacks is called once, unless it is dropped.

        Raises what the host's task factory raises, with nothing started.
        """
        self.seconds = seconds
        self.due = self.clock.monotonic() + seconds
        self._on_end = on_end
        self._on_late = on_late
        name = self.mail.handler.decide.__qualname__
        running = self._run(decide)
        try:
            self._task = self._loop.create_task(running, name=f"foldline {name}")
        except BaseException:
            running.close()
            raise
        self._timer = self._loop.call_later(seconds, self._run_out)
        self._task.add_done_callback(self._gone)
        return self._task

    async def _run(self, decide: Callable[[], Awaitable[Any]]) -> None:
        CURRENT.set(self)
        try:
            if self._task is None:
                # Started eagerly, inside `begin`: nobody could be told of an end yet.
                await asyncio.sleep(0)
            returned = await decide()
        except GeneratorExit:
            raise  # the loop has been closed, and nobody is there
        except BaseException as error:
            self._end(None, error)
        else:
            self._end(returned, None)

    def _gone(self, task: asyncio.Task[None]) -> None:
        # Somebody may cancel all tasks of the loop before this one began, or interrupt the process.
        if not self.ended:
            stopped = asyncio.CancelledError("the task of the handler was cancelled")
            error = stopped if task.cancelled() else task.exception()
            self._end(None, error if isinstance(error, Exception) else stopped)

    def _end(self, returned: Any, error: BaseException | None) -> None:
        if self.ended:
            return
        if self.clock.monotonic() >= self.due:
            # It blocked the loop, so that the timer could not say it.
            self._run_out()
            return
        self._timer.cancel()
        self.ended = True
        self.returned, self.error = returned, error
        if self.mail.seconds is not None:
            # Its actor may have to wait for room in the journal, and the caller is not to.
            left = self.mail.due - self.clock.monotonic()
            self._timer = self._loop.call_later(left, self._on_late)
        self._on_end()

    def take(self) -> None:
        """Take the outcome: from now on it is the actor's."""
        self._timer.cancel()

    def _run_out(self) -> None:
        if not self.ended:
            self.ended = self.ran_out = True
            self._on_late()
            self.drop()

    def drop(self) -> None:
        """Let nobody hear of its outcome, and cancel it."""
        self.ended = True
        self._timer.cancel()
        assert self._task is not None, "it has begun"
        _cancel(self._task)


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task; what it waits for may be an object of the host's that does not let it."""
    with contextlib.suppress(BaseException):
        task.cancel()


CURRENT: ContextVar[Deliberation | None] = ContextVar("foldline_deliberation", default=None)
"""The deliberation in whose task, or in a task begun there, this code runs."""


class Deliberations:
    """The tasks of all async handlers of one engine."""

    def __init__(self, limits: Limits, logger: logging.Logger) -> None:
        self._limit = limits.commands_accepted
        self._logger = logger
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Give the number of handlers that run, those included whose outcome nobody wants."""
        return len(self._tasks)

    @property
    def full(self) -> Overloaded | None:
        """What a command is told for which there is no room; None where there is.

        Commands that wait for their answers are fewer: only handlers that stay fill it.
        """
        if len(self._tasks) < self._limit:
            return None
        names = sorted({task.get_name().removeprefix("foldline ") for task in self._tasks})
        return Overloaded(
            f"{len(self._tasks)} async handlers run, as many as Limits.commands_accepted allows, "
            f"though their commands have been answered: they were cancelled and do not end. Mend "
            f"{', '.join(names[:_NAMES_MAX])}, which must let CancelledError pass. Nothing was "
            f"run; send again after a pause."
        )

    def hold(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Wait to be cancelled; then end what still runs."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_all()

    async def _end_all(self) -> None:
        tasks = set(self._tasks)
        if not tasks:
            return
        for task in tasks:
            _cancel(task)
        _, stubborn = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in stubborn:
            self._logger.error(
                "%s does not end when it is cancelled: mend the handler, which must let "
                "CancelledError pass",
                task.get_name(),
            )
