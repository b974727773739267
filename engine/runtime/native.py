"""Threads of the operating system, also where gevent has put its own in the place of Python's.

Rules: an event loop and a store block their threads, and a greenlet that blocks stops all others:
so what runs them must be a thread of the system. Without gevent it is a `threading.Thread`, which
has a name; with its patches it is what `_thread` started before them. gevent is looked for only
where it was imported already. This file starts threads and knows nothing of what runs in them.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from _queue import SimpleQueue
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, TypeVar

__all__ = [
    "NativeQueue",
    "NativeThread",
    "Pause",
    "in_turn",
    "is_patched",
    "native_ident",
    "native_sleep",
    "result_of",
    "start_native",
    "system_thread_id",
]

T = TypeVar("T")

NativeQueue = SimpleQueue
"""Of C, which nobody patches; `queue.SimpleQueue` may be gevent's."""


class NativeThread(Protocol):
    """A thread that was started."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        ...

    def join(self) -> None:
        """Wait for its end."""
        ...


def is_patched() -> bool:
    """Whether gevent's threads have taken the place of the system's."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _original(module: str, name: str) -> Any:
    return sys.modules["gevent.monkey"].get_original(module, name)


def native_sleep(seconds: float) -> None:
    """Let this thread of the system rest, and no greenlet run in it."""
    (_original("time", "sleep") if is_patched() else time.sleep)(seconds)


def native_ident() -> int:
    """Give the number of this thread of the system."""
    number: int = (_original("_thread", "get_ident") if is_patched() else threading.get_ident)()
    return number


def system_thread_id() -> int:
    """Give the number that the system has given this thread, as in Linux's `/proc/self/task`."""
    return threading.get_native_id()


def in_turn() -> AbstractContextManager[bool]:
    """Give a lock that threads wait for, or greenlets where gevent has replaced them."""
    return threading.Lock()


def start_native(target: Callable[[], object], name: str) -> NativeThread:
    """Start a daemon thread."""
    if is_patched():
        return _Raw(target)
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class _Raw:
    """A thread as `_thread` starts it, past gevent."""

    def __init__(self, target: Callable[[], object]) -> None:
        self._over = Pause()
        self._target = target
        _original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._over.end()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self._over.wait(0)

    def join(self) -> None:
        """Wait for its end."""
        self._over.wait(None)


class Pause:
    """What one thread of the system waits for and another one ends; once."""

    def __init__(self) -> None:
        patched = is_patched()
        self._lock = (_original("_thread", "allocate_lock") if patched else threading.Lock)()
        self._lock.acquire()

    def end(self) -> None:
        """Let whoever waits go on, and whoever will."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, seconds: float | None) -> bool:
        """Give whether it was ended, after so many seconds at most."""
        if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
            return False
        self._lock.release()
        return True


def result_of(answer: Future[T], seconds: float | None = None) -> T:
    """Give what another thread answers, as `answer.result` does; other greenlets go on meanwhile.

    Raises TimeoutError after so many seconds, and what the answer raises.
    """
    if is_patched() and not answer.done():
        _let_others_run(answer, seconds)
        if not answer.done():
            raise TimeoutError
    return answer.result(seconds)


def _let_others_run(answer: Future[Any], seconds: float | None) -> None:
    """Return when there is an answer, or the time is over."""
    # gevent gives a wait up that no greenlet of its thread can end; this watcher can.
    over: Any = import_module("gevent.event").Event()
    watcher: Any = import_module("gevent").get_hub().loop.async_()
    watcher.start(over.set)

    def wake(_: Future[Any]) -> None:
        with contextlib.suppress(Exception):  # it was closed in this moment: nobody waits
            watcher.send()

    answer.add_done_callback(wake)
    try:
        over.wait(seconds)
    finally:
        watcher.stop()
        watcher.close()
