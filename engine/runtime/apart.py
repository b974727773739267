"""Runs calls that block beside the event loop, in a thread that nobody waits for.

Rules: calls run one after the other, in one thread, since some libraries keep things by thread.
Whoever is cancelled leaves his call and its thread to themselves, and the next call has another
thread. The threads are daemons: a call that never returns, as one to a server behind a line that
says nothing, keeps no process from its end. Those of asyncio's executor would be waited for.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from .native import NativeQueue, start_native

__all__ = ["Apart"]

T = TypeVar("T")


class Apart:
    """A thread for calls, from the first one to `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: NativeQueue[Callable[[], None] | None] | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """Give what a call gives."""
        context, answer = contextvars.copy_context(), Future[T]()
        answer.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        if self._calls is None:
            self._calls = NativeQueue()
            start_native(partial(_serve, self._calls), self._name)
        self._calls.put(lambda: _answer(answer, partial(context.run, call)))
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Let the thread end when its call has; a second time does nothing."""
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.put(None)


def _serve(calls: NativeQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call


def _answer(answer: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)
