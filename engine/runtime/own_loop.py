"""An event loop in a thread of its own, for calls that block while something there waits.

Rules: calls run one after the other, each from its beginning to its end; between two calls the loop
stands still. Whoever calls waits, whatever his own thread runs: another event loop, or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..running import loop_factory
from .native import NativeQueue, NativeThread, result_of, start_native

__all__ = ["OwnLoop"]

T = TypeVar("T")


class OwnLoop:
    """The thread and its loop, from the first call to `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: NativeQueue[tuple[Callable[[], Awaitable[Any]], Future[Any]] | None]
        self._calls = NativeQueue()
        self._thread: NativeThread | None = None

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call there to its end; give what it gives, raise what it raises."""
        return result_of(self.begin(call))

    def begin(self, call: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have a call run there behind those that were begun; give where its end is told."""
        if self._thread is None:
            self._thread = start_native(self._serve, self._name)
        answer: Future[T] = Future()
        self._calls.put((call, answer))
        return answer

    def close(self) -> None:
        """End the thread; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            while (item := self._calls.get()) is not None:
                call, answer = item
                try:
                    result = runner.run(_awaited(call))
                except BaseException as error:
                    answer.set_exception(error)
                else:
                    answer.set_result(result)
                del item, call, answer


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
