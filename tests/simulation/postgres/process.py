"""Several processes in one simulated loop: each can be paused for a while, killed, or lost.

Rules: a step belongs to the process in whose context it was made. The steps of a paused process
wait; those of a dead one are never run, so that no `finally` of its speaks. What belongs to none
(the server, the network, whoever makes trouble) always runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import warnings
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from engine.testing.simulation.lives import bury
from engine.testing.simulation.loop import SimulatedLoop
from engine.testing.simulation.schedule import Schedule

__all__ = ["Process", "ProcessesLoop", "current_process", "end_of"]

_PROCESS: Final = contextvars.ContextVar["Process | None"]("process", default=None)


def current_process() -> Process:
    """Give the process whose step runs."""
    process = _PROCESS.get()
    assert process is not None, "this is no step of a process"
    return process


class Process:
    """One process of a machine."""

    def __init__(self, loop: ProcessesLoop, number: int) -> None:
        self.loop = loop
        self.number = number
        self.paused = False
        self.dead = False
        self.lost = False
        """Whether its machine went with it, and tells nobody."""
        self.spared = False
        """Whether its lines do not break yet."""
        self.pauses = 0
        self.ended = asyncio.Event()
        """Set when it is dead."""

    def run(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start what it runs."""
        return self.loop.create_task(main, context=self.context())

    def context(self) -> contextvars.Context:
        """Give what makes a step one of its own."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return context

    def pause(self, seconds: float) -> None:
        """Let it stand still for so long."""
        if self.dead or self.paused:
            return
        self.paused = True
        self.pauses += 1
        self.loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self.paused = False
        self.loop.go_on(self)

    def kill(self, *, lost: bool = False) -> None:
        """End it here: of the step that runs now, the rest is still done."""
        if self.dead:
            return
        self.dead, self.lost = True, lost
        self.ended.set()
        self.loop.go_on(self)


class ProcessesLoop(SimulatedLoop):
    """A loop that several processes share."""

    def __init__(self, schedule: Schedule, steps_max: int) -> None:
        super().__init__(schedule, steps_max)
        self._held: dict[Process, deque[asyncio.Handle]] = {}

    def go_on(self, process: Process) -> None:
        """Let what a process has waited with be run, or dropped."""
        held: deque[asyncio.Handle] = self._held.pop(process, deque())
        if process.dead:
            for handle in held:
                _pass_over(handle)
        else:
            loop: Any = self
            loop._ready.extend(held)

    def run_handle(self, handle: asyncio.Handle) -> None:
        """Run a step, unless its process does not run."""
        context: contextvars.Context = handle._context  # type: ignore[attr-defined]
        process = context.get(_PROCESS)
        if process is None or not (process.dead or process.paused):
            handle._run()
        elif not process.dead:
            self._held.setdefault(process, deque()).append(handle)
        else:
            _pass_over(handle)


def _pass_over(handle: asyncio.Handle) -> None:
    """Let what a killed process would have looked at next be no error that nobody saw."""
    for each in handle._args or ():
        if isinstance(each, asyncio.Future) and each.done() and not each.cancelled():
            each.exception()


def end_of(loop: ProcessesLoop) -> None:
    """End a loop that is through, with what still waits in it: nobody hears what that says."""
    bury(loop)
    for task in loop.tasks:
        coroutine: Any = task.get_coro()
        with contextlib.suppress(BaseException), warnings.catch_warnings():
            # Who was killed awaits nothing that he had just called.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            coroutine.close()
