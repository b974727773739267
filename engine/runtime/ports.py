"""The doors to the world outside: clock, ids, threads, files, servers, the loop's watch, faults.

Rules: an engine is given its ports once; a simulation gives it others, and the whole engine then
runs on virtual time and a simulated disk. What stands behind them by default is `machine`.
Failpoints are named steps of a command's path: nothing happens there unless a test or a simulation
hangs something on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec

from .machine import SystemClock, SystemIds, SystemWatcher, SystemWorkers

__all__ = [
    "ARCHIVE_FAILPOINTS",
    "CONTROL_FAILPOINTS",
    "FAILPOINTS",
    "REACTOR_FAILPOINTS",
    "SHARED_FAILPOINTS",
    "SINK_FAILPOINTS",
    "SWAP_FAILPOINTS",
    "TIMER_FAILPOINTS",
    "Clock",
    "Ids",
    "Jumping",
    "Ports",
    "Watcher",
    "Worker",
    "Workers",
    "jumps_of",
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
REACTOR_FAILPOINTS: Final = ("reactor.done",)  # commands have their receipts; as above
"""The same where a reactor executes what follows from events."""
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
TIMER_FAILPOINTS: Final = (
    "timers.due",  # a timer is due, its command is not sent
    "timers.settling",  # its command wrote nothing, and the timer stands still
)
"""The same where a timer is fired."""
SHARED_FAILPOINTS: Final = (
    "member.sending",  # a command is to go to another process, and is with none
    "owner.asked",  # a command of another process has come, and the engine does not have it
    "owner.answering",  # it is answered, and the other process does not know it
    "member.answered",  # that answer has come, and the caller does not know it
    "append.sending",  # a batch is to go to the server
    "append.answered",  # the server has answered, and nobody else knows it
    "lease.renewing",  # the lease is to be renewed
    "lease.renewed",  # the server has renewed it, and the process does not know it
    "view.seen",  # members have changed, and what moved is not dropped
    "view.heeded",  # it is dropped, and the server does not know it
)
"""The same where processes share a log, or a server has it. The last two need several owners."""
ARCHIVE_FAILPOINTS: Final = (
    "archive.made",  # the cold file is there, with nothing in it
    "archive.copied",  # events are in both files, and nobody has compared them
    "archive.verified",  # they were compared, and the transaction that removes them is not begun
    "archive.removing",  # they are removed, the commit has not begun
    "archive.moved",  # they are in the cold file alone
    "archive.emptied",  # all are moved, the log's file has its former size
    "archive.shrunk",  # the log is rewritten, what it was before is in the file yet
)
"""The same where closed streams are moved out of a log."""


class Clock(Protocol):
    """Wall time for `recorded`, which orders nothing, and a second clock for durations."""

    def now(self) -> int:
        """Give the time in µs since 1970-01-01 UTC; it may jump either way."""
        ...

    def monotonic(self) -> float:
        """Give seconds since some moment; they never go back, and are only good to subtract."""
        ...


@runtime_checkable
class Jumping(Protocol):
    """What a clock may also be that moves by itself, as one does that a test moves."""

    def on_jump(self, call: Callable[[], None], /) -> Callable[[], None]:
        """Have it called after each move, in the thread of who moves it; give what ends that."""
        ...


def jumps_of(clock: Clock, call: Callable[[], None]) -> Callable[[], None]:
    """Have it called when a clock was moved, if it tells of that; give what ends that."""
    return clock.on_jump(call) if isinstance(clock, Jumping) else _nothing


def _nothing() -> None:
    """Do nothing."""


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

        `now` is in seconds, without those in which the watched thread waited for a core, where the
        machine shows that. `busy` is the seconds of processor time that the process has used.
        `stack()` gives the stack of the thread that started this, as text.
        """
        ...


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
    database: object | None = None
    """How a store in a server connects, by that store's own protocol; None for the network."""
    watcher: Watcher | None = msgspec.field(default_factory=SystemWatcher)
    """Watches the event loop; None switches it off."""
    stopwatch: Callable[[], float] = time.perf_counter
    """Seconds since some moment, for measuring only: nothing is decided by it. The event loop's own
    time is too coarse, uvloop counts it in milliseconds."""
    failpoint: Callable[[str], None] | None = None
    """Called with a name of FAILPOINTS as each step is reached, in the loop or in a worker."""
