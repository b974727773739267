"""An event loop whose every choice comes from a seed, and whose time is virtual.

Rules: each step runs one ready callback, picked by the schedule; where nothing is ready, time jumps
to the next timer; where there is no timer either, the world is dead-locked and that is an error.
The choices are folded into a digest, so that two runs of a seed can be compared. Executors, sockets
and signals are refused at the call. It uses asyncio's private queue of ready callbacks, which a
test pins for each Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from collections.abc import Callable, Generator, MutableMapping
from hashlib import blake2b
from typing import Any, ClassVar, NoReturn

import anyio._backends._asyncio as anyio_asyncio

from .fence import Fenced
from .schedule import Schedule

__all__ = ["DeadLock", "SimulatedLoop", "forget_the_dead", "ordered_scopes"]


class DeadLock(Exception):
    """Everybody waits and nothing will ever happen."""


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not come from its address: anyio keeps tasks in sets."""

    def __init__(self, coro: Any, *, loop: Any, **options: Any) -> None:
        loop.tasks.append(self)
        self.number = len(loop.tasks)
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        number: int = self.number
        return number


class _Scope(anyio_asyncio.CancelScope):
    """A cancel scope of which the same is true."""

    __slots__ = ("_number",)

    def __init__(  # pyright: ignore[reportInconsistentConstructor] - as its base is
        self, deadline: float = math.inf, shield: bool = False
    ) -> None:
        _Scope.made += 1
        self._number = _Scope.made
        super().__init__(deadline, shield)

    made: ClassVar[int] = 0

    def __hash__(self) -> int:
        return self._number


@contextlib.contextmanager
def ordered_scopes() -> Generator[None]:
    """Let anyio make scopes whose order in a set is that of their making."""
    ours, theirs = _Scope, anyio_asyncio.CancelScope
    ours.made = 0
    anyio_asyncio.CancelScope = ours  # type: ignore[misc]
    try:
        yield
    finally:
        anyio_asyncio.CancelScope = theirs  # type: ignore[misc]


def forget_the_dead() -> None:
    """Let anyio forget tasks that never ended: it holds each as long as its own scope does."""
    states: MutableMapping[Any, Any] = getattr(anyio_asyncio, "_task_states")  # noqa: B009
    for task in [task for task in states if task.get_loop().is_closed()]:
        del states[task]


class SimulatedLoop(asyncio.BaseEventLoop):
    """One life of a simulated process."""

    def __init__(self, schedule: Schedule, steps_max: int) -> None:
        super().__init__()
        self._schedule = schedule
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._digest = blake2b(digest_size=8)
        self._steps_max = steps_max
        self._at_step: list[tuple[int, int, Callable[[], object]]] = []
        self._asked = 0
        self.steps = 0
        self.dead = False
        """Whether the process has crashed: nothing runs any more."""
        self.errors: list[BaseException | str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """All that were ever made, dead ones too: no task is freed while its process lives."""
        self.on_task: Callable[[asyncio.Task[Any], str], None] | None = None
        """Called with each task as it is made, and the name of its function."""
        self.set_exception_handler(self._note)
        self.set_task_factory(self._make_task)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(context.get("exception") or context["message"])

    def _make_task(self, _: Any, coro: Any, **options: Any) -> Any:
        task = _Task(coro, loop=self, **options)
        if self.on_task is not None:
            self.on_task(task, coro.__qualname__)
        return task

    def crash(self) -> None:
        """End the process here: the callback that runs now is the last."""
        self.dead = True
        self.stop()

    def after_steps(self, count: int, call: Callable[[], object]) -> None:
        """Call something before the step that comes after so many: any await can be hit so."""
        self._asked += 1
        heapq.heappush(self._at_step, (self.steps + count, self._asked, call))

    def block(self, seconds: float) -> None:
        """Let time pass in the midst of a step, as code does that computes."""
        self._now += seconds

    def time(self) -> float:
        """Give the virtual time in seconds."""
        return self._now

    @property
    def digest(self) -> str:
        """All choices so far."""
        return self._digest.hexdigest()

    # -- what BaseEventLoop asks for ---------------------------------------------------------

    def _run_once(self) -> None:
        loop: Any = self
        ready, scheduled = loop._ready, loop._scheduled
        while scheduled and (scheduled[0]._cancelled or (not ready and not scheduled[0])):
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not loop._stopping:
            if not scheduled:
                raise DeadLock(f"at {self._now:.3f} s, after {self.steps} steps")
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        if ready and not self.dead:
            self._step(ready)

    def _step(self, ready: Any) -> None:
        while self._at_step and self._at_step[0][0] <= self.steps:
            heapq.heappop(self._at_step)[2]()
        place = self._schedule.pick(ready) if len(ready) > 1 else 0
        ready.rotate(-place)
        handle = ready.popleft()
        ready.rotate(place)
        if handle._cancelled:
            return
        self.steps += 1
        if self.steps > self._steps_max:
            raise DeadLock(f"no end after {self.steps} steps, at {self._now:.3f} s")
        self._digest.update(b"%d %d " % (place, int(self._now * 1e6)))
        self.run_handle(handle)

    def run_handle(self, handle: asyncio.Handle) -> None:
        """Run a step that was chosen."""
        handle._run()

    def _process_events(self, _: Any) -> None: ...

    def _write_to_self(self) -> None: ...

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        """Refuse: the one way to a thread is the port."""
        raise Fenced("run_in_executor: go through Ports.workers")

    def add_signal_handler(self, *_: Any) -> NoReturn:  # type: ignore[override]
        """Refuse."""
        raise Fenced("a signal handler")

    async def create_connection(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        raise Fenced("a network connection")
