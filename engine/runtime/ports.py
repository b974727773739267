"""The only doors to the world outside: clocks, ids, threads, files, and the failpoints.

Rules: no other file of the engine imports `time`, `random`, `uuid`, `threading`, `queue` or opens
a file; a test checks it. An engine is given its ports once; a simulation gives it others, and the
whole engine then runs on virtual time and a simulated disk. Failpoints are named steps of a
command's path: nothing happens there unless a test or a simulation hangs something on them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec

from ..errors import Closed
from .native import NativeQueue, Pause, native_ident, native_sleep, start_native

__all__ = [
    "CONTROL_FAILPOINTS",
    "FAILPOINTS",
    "SINK_FAILPOINTS",
    "SWAP_FAILPOINTS",
    "Clock",
    "Ids",
    "Ports",
    "SystemClock",
    "SystemIds",
    "SystemWatcher",
    "SystemWorkers",
    "Watcher",
    "Worker",
    "Workers",
    "on_fresh_stack",
    "user_name",
]

T = TypeVar("T")

FAILPOINTS: Final = (
    "mailbox.accepted",  # the command waits for its actor
    "actor.taken",  # the actor took it out of the mailbox
    "actor.decided",  # the handler returned its events
    "actor.folded",  # the events are encoded, decoded and folded
    "journal.gathered",  # a batch is closed and goes to the store
    "store.began",  # the transaction is open, nothing is in it
    "store.inserted",  # the rows are in, the commit has not begun
    "store.committed",  # the commit came back
    "journal.durable",  # the loop knows, nobody is answered
    "journal.answered",  # the callers have their answers, the bus does not know
    "bus.published",  # the projectors can take the batch
    "projector.folded",  # a batch is folded in memory
    "views.inserted",  # its rows are in the transaction, the checkpoint is not
    "views.checkpointed",  # the checkpoint is in, the commit has not begun
    "views.committed",  # rows and checkpoint are committed
)
"""The steps at which a fault can be hung, in the order of the walk."""
SINK_FAILPOINTS: Final = ("sink.delivered",)  # the checkpoint has not moved
"""The same where a projection delivers to a system outside."""
SWAP_FAILPOINTS: Final = (
    "views.swapping",  # another build is to serve, the commit has not begun
    "views.swapped",  # it serves
)
"""The same where one build of a projection takes the place of another."""
CONTROL_FAILPOINTS: Final = (
    "control.begun",  # a request of another process is marked as begun, nothing of it is done
    "control.done",  # it is done or refused, the answer is not written
)
"""The same where another process asks for something."""


class Clock(Protocol):
    """Wall time for `recorded`, which orders nothing, and a second clock for durations."""

    def now(self) -> int:
        """Give the time in µs since 1970-01-01 UTC; it may jump either way."""
        ...

    def monotonic(self) -> float:
        """Give seconds since some moment; they never go back, and are only good to subtract."""
        ...


class Ids(Protocol):
    """Randomness."""

    def new_id(self) -> str:
        """Give a new id that nobody else has: 32 hexadecimal digits."""
        ...


class Worker(Protocol):
    """One thread that runs one call after the other, in the order in which they came."""

    async def run(self, call: Callable[..., T], /, *args: Any) -> T:
        """Run `call(*args)` there; give what it returns, raise what it raises.

        If the caller is cancelled, the call still runs to its end, and its result is dropped.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, then end the thread."""
        ...


class Workers(Protocol):
    """The one way to a thread."""

    def start(self, name: str) -> Worker:
        """Start a worker; the name shows in debuggers."""
        ...


class Watcher(Protocol):
    """Looks at the thread that started it, from another one."""

    def start(
        self, check: Callable[[float, float, Callable[[], str]], None], every: float
    ) -> Callable[[], None]:
        """Call `check(now, busy, stack)` in another thread `every` so many seconds; give its end.

        `now` is in seconds, `busy` the seconds of processor time that the process has used, and
        `stack()` gives the text of what the thread that started this runs at that moment.
        """
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> int:
        """Give the time in µs since 1970-01-01 UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Give seconds; not the loop's own time, which uvloop keeps still during a callback."""
        return time.monotonic()


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
        over = Pause()

        def stack() -> str:
            # The one way to another thread's stack, documented in spite of its name.
            frame = sys._current_frames().get(watched)  # pyright: ignore[reportPrivateUsage]
            return "".join(traceback.format_stack(frame)) if frame is not None else "(it has ended)"

        def watch() -> None:
            while not over.wait(every):
                check(time.monotonic(), time.process_time(), stack)

        thread = start_native(watch, "foldline watchdog")

        def stop() -> None:
            over.end()
            thread.join()

        return stop


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine uses of the world. The default is the real one."""

    clock: Clock = msgspec.field(default_factory=SystemClock)
    """Wall time, which orders nothing, and durations."""
    ids: Ids = msgspec.field(default_factory=SystemIds)
    """New ids, which are random."""
    workers: Workers = msgspec.field(default_factory=SystemWorkers)
    """Threads."""
    files: object | None = None
    """How a store that keeps files opens them, by that store's own protocol; None for the machine's
    file system."""
    watcher: Watcher | None = msgspec.field(default_factory=SystemWatcher)
    """Watches over the event loop; None where nobody shall."""
    stopwatch: Callable[[], float] = time.perf_counter
    """Seconds since some moment, for measuring only: nothing is decided by it. The event loop's own
    time is too coarse, uvloop counts it in milliseconds."""
    failpoint: Callable[[str], None] | None = None
    """Called with a name of FAILPOINTS as each step is reached, in the loop or in a worker."""
