"""Running a program on this engine: the event loop, and a garbage collector that keeps calm.

Rules: what is changed in the process is put back when the last who asked for it has ended, and what
the host has set beyond it is left alone. Nothing here knows of engines; a host with a loop of its
own needs nothing of it, and may take `calm_collector`. Only under that is anything collected here.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

__all__ = ["calm_collector", "loop_factory", "note_new_aggregates", "run"]

T = TypeVar("T")

CALM: Final = (2_000, 10, 1_000)
"""Thresholds of the collector's three generations: allocations, then collections of the one before.

A command on its way has about fifteen objects that the collector counts, and none that needs it.
With Python's 700, each batch of 256 commands set off five collections, every hundredth of all that
lives: a sixth of the processor's time at 20,000 commands/s, and pauses of 40 ms. The product of the
first two bounds the pauses that come often: 20,000 objects take 5 ms, 200,000 took 70.
"""


YOUNG: Final = 256
"""After how many new aggregates the youngest generation is collected, in half a millisecond."""
_ROUNDS: Final = 4
"""After how many of those the one before it is, too."""


class _Collector:
    """The one garbage collector of the process, and what it was before it was calmed."""

    def __init__(self) -> None:
        self._users = 0
        self._aggregates = 0
        self._rounds = 0
        self._thresholds = gc.get_threshold()
        self._froze = False

    def calm(self) -> None:
        self._users += 1
        if self._users == 1:
            self._thresholds = found = gc.get_threshold()
            # A threshold of 0 switches the collector off, and a host that froze knows why.
            gc.set_threshold(
                *(max(pair) if pair[0] else 0 for pair in zip(found, CALM, strict=True))
            )
            self._froze = gc.get_freeze_count() == 0
            if self._froze:
                gc.collect()
                gc.freeze()

    def note(self, aggregates: int) -> None:
        self._aggregates += aggregates
        if self._aggregates < YOUNG:
            return
        self._aggregates = 0
        if self._users and gc.isenabled() and gc.get_threshold()[0]:
            self._rounds += 1
            gc.collect(int(self._rounds % _ROUNDS == 0))

    def restore(self) -> None:
        self._users -= 1
        if self._users == 0:
            gc.set_threshold(*self._thresholds)
            if self._froze:
                gc.unfreeze()


_collector: Final = _Collector()


def note_new_aggregates(count: int) -> None:
    """Note that so many came into memory; where the collector is calm, the young are collected.

    Python counts what is made less what is freed. Where as many aggregates leave memory as come,
    that stands still, and the young generation grows for a minute, until one pause of 100 ms takes
    it all. So they are counted themselves, and what is collected between is small.
    """
    _collector.note(count)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes a loop for `asyncio.Runner`: of uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run `main(*args)`, an async function, on uvloop if it is installed, else on asyncio's loop.

    Give what it returns, raise what it raises. Meanwhile the garbage collector is calm:
    `calm_collector`. Raises TypeError for what is no such function, and for its call.
    """
    given: object = main
    if inspect.iscoroutine(given):
        given.close()
        raise TypeError(f"run takes the function and not its call: write run({given.__name__})")

    async def call() -> T:
        called = main(*args)
        if not _is_awaitable(called):
            name = getattr(main, "__name__", "main")
            raise TypeError(f"run takes an async function, and {name} is none: `async def {name}`")
        return await called

    with calm_collector(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(call())


def _is_awaitable(called: object) -> bool:
    return inspect.isawaitable(called)


@contextmanager
def calm_collector() -> Generator[None]:
    """Let Python's garbage collector run less often, in the whole process, until the block ends.

    What lives already is not looked at any more (`gc.freeze`), and the thresholds are raised to
    CALM. Cycles are still collected, only later. A threshold that is higher already, and a
    collector that is switched off, stay as they are.
    """
    _collector.calm()
    try:
        yield
    finally:
        _collector.restore()
