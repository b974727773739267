"""Awaiting something to its end, whatever cancels the task that awaits it, and in that same task.

Rules: what is awaited never hears of a cancel, and must not use one itself: no `asyncio.timeout`,
no task group. A cancel that came meanwhile is raised at the task's next await, so that a result is
never lost. A shield with a task of its own does the same for three more turns of the loop, which
beside a busy loop take longer than a commit. A group of anyio's that is cancelled waits in peace:
it would else cancel again at each turn of the loop, and keep a processor busy as long as it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

from anyio import CancelScope

__all__ = ["ended", "uncancelled"]

T = TypeVar("T")


async def uncancelled(call: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; give what it returns, raise what it raises."""
    steps = _Uncancelled(call)
    try:
        with CancelScope(shield=True):
            return await steps
        raise AssertionError("nobody cancels that scope, which alone would come here")
    finally:
        if steps.cancelled is not None:
            task = asyncio.current_task()
            assert task is not None, "only a task can be cancelled"
            # Whoever counts cancels counts this one once, and knows its own by the words.
            task.uncancel()
            task.cancel(*steps.cancelled.args)


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended, whatever cancels who waits; what it raised is not raised."""
    await uncancelled(_ended(task))


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


class _Uncancelled(Generic[T]):
    """Steps a coroutine as its task would, and keeps cancels from it."""

    def __init__(self, call: Coroutine[Any, Any, T]) -> None:
        self._call = call
        self.cancelled: asyncio.CancelledError | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        """Yield what the coroutine waits for, deaf to cancels."""
        while True:
            try:
                waits_for: Any = self._call.send(None)
            except StopIteration as done:
                result: T = done.value
                return result
            if waits_for is None:
                yield from self._turn()
            else:
                # As a task would: the future is told that somebody has taken note of it.
                waits_for._asyncio_future_blocking = False
                yield from self._until_done(waits_for)

    def _turn(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            self.cancelled = error

    def _until_done(self, future: asyncio.Future[Any]) -> Generator[_Shielded]:
        while True:
            try:
                yield _Shielded(future)
            except asyncio.CancelledError as error:
                # The task's own, unless the future was cancelled, which its result tells again.
                if not future.cancelled():
                    self.cancelled = error
            except BaseException:
                assert future.done(), "nobody else throws into a task"
            if future.done():
                return  # whoever awaits it takes its result or its error from itself


class _Shielded:
    """A future, as a task sees it, that cannot be cancelled by the task."""

    _asyncio_future_blocking = True

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop of the future."""
        return self._future.get_loop()

    def add_done_callback(
        self, call: Callable[[asyncio.Future[Any]], object], *, context: Context | None = None
    ) -> None:
        """Have the task go on when the future is done."""
        self._future.add_done_callback(call, context=context)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - a future's
        """Refuse: the task then remembers that it was cancelled, and goes on waiting."""
        return False
