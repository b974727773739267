"""The machine behind the ports: its clock, ids, threads, and the watch over the event loop.

Rules: only this file and `native` import `time`, `uuid`, `threading` or `queue`; a test checks it.
Nothing here knows the engine.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import Closed
from .core_wait import CoreWait
from .native import (
    NativeQueue,
    Pause,
    native_ident,
    native_sleep,
    start_native,
    system_thread_id,
)

__all__ = [
    "SystemClock",
    "SystemIds",
    "SystemWatcher",
    "SystemWorkers",
    "ThreadWorker",
    "on_fresh_stack",
    "process_name",
    "process_number",
    "read_process_name",
    "user_name",
]

T = TypeVar("T")

_STEADY: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""The clock that also counts while the machine is suspended: a lease ends meanwhile."""


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> int:
        """Give the time in µs since 1970-01-01 UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Give seconds; not the loop's own time, which uvloop keeps still during a callback."""
        return time.monotonic() if _STEADY is None else time.clock_gettime(_STEADY)


class SystemIds:
    """The machine's randomness."""

    def new_id(self) -> str:
        """Give 128 random bits as 32 hexadecimal digits."""
        return uuid.uuid4().hex


def on_fresh_stack(call: Callable[[], T]) -> T:
    """Run a call on a stack of its own, in a thread; give what it returns or raise what it raises.

    The caller's thread waits: for short work only that the stack of the moment is too short for.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    start_native(run, "foldline stack").join()
    if raised:
        raise raised.pop()
    return returned[0]


class SystemWorkers:
    """Real threads."""

    def start(self, name: str) -> ThreadWorker:
        """Start a daemon thread."""
        return ThreadWorker(name)


GIVE_WAY_AFTER_SECONDS: Final = 0.005
"""How long a call may take before the event loop begins to make way for its thread."""
GIVE_WAY_EVERY_SECONDS: Final = 0.001
GIVE_WAY_SECONDS: Final = 0.000_05


class ThreadWorker:
    """One daemon thread with a queue of calls; answers cross back by call_soon_threadsafe."""

    def __init__(self, name: str) -> None:
        self._calls: NativeQueue[Callable[[], None] | None] = NativeQueue()
        self._thread = start_native(self._serve, name)
        self._told_to_end = False

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # with its result, which would else wait here for the next call

    async def run(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run `call(*args)` in the thread and give what it returns or raise what it raises.

        Raises Closed where there is no thread: a process that was forked has none of its parent's.
        """
        if not self._thread.is_alive():
            raise Closed("the thread that would do this is another process's: not run")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._calls.put(partial(_work, loop, answer, call, args))
        giving_way = _GivingWay(loop)
        try:
            return await answer
        finally:
            giving_way.end()

    async def close(self) -> None:
        """End the thread after the calls that were accepted before.

        Who is cancelled while he waits for that has told it all the same.
        """
        if self._told_to_end:
            await asyncio.to_thread(self._thread.join)  # it may be at work still
        elif self._thread.is_alive():
            try:
                await self.run(lambda: None)
            finally:
                self._told_to_end = True
                self._calls.put(None)
            self._thread.join()


def _work(
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[T],
    call: Callable[..., T],
    args: tuple[Any, ...],
) -> None:
    try:
        result = call(*args)
    except BaseException as error:
        _deliver(loop, _fail, answer, error)
    else:
        _deliver(loop, _resolve, answer, result)


def _deliver(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *values: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *values)
    except RuntimeError:
        # The loop was closed under a call that was already running: nobody can take the answer
        # any more, and the thread must go on to its end.
        if not loop.is_closed():
            raise


class _GivingWay:
    """Hands the interpreter's lock to a thread that a busy event loop starves.

    Such a loop lets go of the lock at each poll so briefly that a waiting thread misses it, and
    begins its 5 ms of waiting anew: a call could hang for seconds. A moment of real sleep hands the
    lock over. No closure, which would be a cycle of references around each call's result.
    """

    __slots__ = ("_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer = loop.call_later(GIVE_WAY_AFTER_SECONDS, self._give_way)

    def _give_way(self) -> None:
        native_sleep(GIVE_WAY_SECONDS)
        self._timer = self._loop.call_later(GIVE_WAY_EVERY_SECONDS, self._give_way)

    def end(self) -> None:
        self._timer.cancel()


def _resolve(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def process_number() -> int:
    """Give the number of this process in the system."""
    return os.getpid()


def process_name() -> str:
    """Give what people find this process by: its number, and the name of its machine."""
    return f"process {os.getpid()} on {platform.node() or 'an unnamed machine'}"


def read_process_name(text: str) -> tuple[int, str]:
    """Give number and machine out of such a name; 0 and "" of what is none."""
    word, _, rest = text.partition(" ")
    number, on, machine = rest.partition(" on ")
    if word != "process" or not on or not number.isdecimal():
        return 0, ""
    return int(number), machine


def user_name() -> str:
    """Give the name of the user whose process this is, as the system knows it, or the number."""
    if sys.platform == "win32":
        return "unknown"
    import pwd

    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


class SystemWatcher:
    """A daemon thread per watch."""

    def start(
        self, check: Callable[[float, float, Callable[[], str]], None], every: float
    ) -> Callable[[], None]:
        """Call `check` every so many seconds until the function that this gives is called."""
        watched = native_ident()
        waiting = CoreWait(system_thread_id())
        over = Pause()

        def stack() -> str:
            # The one way to another thread's stack, documented in spite of its name.
            frame = sys._current_frames().get(watched)  # pyright: ignore[reportPrivateUsage]
            return "".join(traceback.format_stack(frame)) if frame is not None else "(it has ended)"

        def watch() -> None:
            while not over.wait(every):
                now = time.monotonic()
                check(now - waiting.seconds(now), time.process_time(), stack)

        thread = start_native(watch, "foldline watchdog")

        def stop() -> None:
            over.end()
            thread.join()

        return stop
