"""Wakes tenants that are closed: opens the engine of each when its next timer is due.

Rules:
- Of a closed tenant only the time of its next timer is kept: a number, and a place in a heap.
- It is read from the store when the engine has closed. It is also read from each store that is
  there at the start, comes later, or was changed by another process, one after the other, while
  callers are served.
- A tenant is opened when that time has come, and is used until none of its timers is due. So few
  are woken at once that room is left for callers. One that was closed with something to do is
  opened soon.
- A store that cannot be read, and an engine that cannot be opened, is told and tried again later.
  A tenant whose store is gone is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from heapq import heappop, heappush
from typing import Final

from ..errors import Closed, EngineError, Overloaded
from ..runtime.bell import Bell
from ..runtime.ports import Ports, jumps_of
from ..runtime.safely import described

__all__ = ["Waking"]

_AT_ONCE: Final = 4
"""Tenants that are woken at a time, if so many may be open; one if fewer may."""
_LOOK_SECONDS: Final = 60.0
"""How long it sleeps at most: the clock may be put right meanwhile."""
_NAMES_SECONDS: Final = 60.0
"""How often it is looked which tenants there are."""
_AGAIN: Final = 10_000_000
"""µs after which what found no room, or failed once, is tried again; twice as long each time."""
_DOUBLINGS_MAX: Final = 8


class Waking:
    """The task that wakes tenants, until it is cancelled."""

    def __init__(
        self,
        wake: Callable[[str], Awaitable[None]],
        next_timer: Callable[[str], Awaitable[int | None]],
        names: Callable[[], Awaitable[Mapping[str, object]]],
        ports: Ports,
        logger: logging.Logger,
        open_max: int,
    ) -> None:
        """Take what wakes a tenant, and what reads from a closed one when that is to be done.

        And the names of all, each with what is another one when its store was changed.
        """
        self._wake = wake
        self._next_timer = next_timer
        self._names = names
        self._clock = ports.clock
        self._logger = logger
        self._at_once = asyncio.Semaphore(_AT_ONCE if open_max > _AT_ONCE else 1)
        self._times: dict[str, int] = {}
        """When each closed tenant is to be woken, in µs; of no tenant that is open."""
        self._heap: list[tuple[int, str]] = []
        """The same in order, with times that are out of date."""
        self._open: set[str] = set()
        self._seen: dict[str, object] = {}
        """As of which change of its store the next timer of a tenant is known, also if there is
        none. One that was open here is looked at once more."""
        self._failures: dict[str, int] = {}
        self._bell = Bell()
        self._tasks: set[asyncio.Task[None]] = set()
        self.woken = 0

    def opened(self, name: str) -> None:
        """Leave a tenant alone: its engine fires its timers."""
        self._open.add(name)
        self._times.pop(name, None)

    async def closed(self, name: str, *, leaves_work: bool = False) -> None:
        """Wake a tenant, whose engine has just closed, when its next timer is due.

        Soon if that had something to do, and made room for another one.
        """
        self._open.discard(name)
        self._seen[name] = None
        await self._look_at(name, self._clock.now() + _AGAIN if leaves_work else None)

    async def _look_at(self, name: str, soon: int | None = None) -> None:
        try:
            time = await self._next_timer(name)
        except Closed:
            raise
        except (EngineError, OSError) as error:
            text = "the timers of tenant %s are read later: %s"
            self._logger.warning(text, name, described(error))
            time = self._again(name)
        times = [each for each in (time, soon, self._times.get(name)) if each is not None]
        if times:
            self._wake_at(min(times), name)

    def _wake_at(self, time: int, name: str) -> None:
        if name in self._open:
            return  # somebody has opened it meanwhile
        self._times[name] = time
        heappush(self._heap, (time, name))
        self._bell.set()

    async def run(self) -> None:
        """Wake tenants, until cancelled."""
        end = jumps_of(self._clock, self._bell.set)
        looking = asyncio.create_task(self._look_at_all(), name="foldline tenants look")
        try:
            while True:
                self._bell.clear()
                self._begin_due()
                await self._sleep()
        finally:
            end()
            for task in [looking, *self._tasks]:
                task.cancel()
            await asyncio.gather(looking, *self._tasks, return_exceptions=True)

    async def _look_at_all(self) -> None:
        """Learn of the tenants that nobody has opened yet when they are to be woken; then go on.

        One may be restored while this runs, or removed and made anew. Another process may set its
        timers, and go.
        """
        while True:
            try:
                names = await self._names()
            except Closed:
                return
            except (EngineError, OSError) as error:
                self._logger.warning("which tenants there are is asked later: %s", described(error))
            else:
                self._seen = {name: seen for name, seen in self._seen.items() if name in names}
                for name, change in names.items():
                    if name not in self._open and self._seen.get(name) != change:
                        self._seen[name] = change
                        with contextlib.suppress(Closed):
                            await self._look_at(name)
            await asyncio.sleep(_NAMES_SECONDS)

    def _begin_due(self) -> None:
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            time, name = heappop(self._heap)
            if self._times.get(name) != time:
                continue
            del self._times[name]
            task = asyncio.create_task(self._wake_one(name), name="foldline tenant woken")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _sleep(self) -> None:
        seconds = _LOOK_SECONDS
        if self._heap:
            seconds = min(seconds, max(0.0, (self._heap[0][0] - self._clock.now()) / 1e6))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()

    async def _wake_one(self, name: str) -> None:
        async with self._at_once:
            try:
                await self._wake(name)
                self.woken += 1
                self._failures.pop(name, None)
            except Closed:
                pass  # what is due is fired after the next start
            except Exception as error:
                time = self._clock.now() + _AGAIN
                if not isinstance(error, Overloaded):
                    self._logger.error("tenant %s is woken later: %s", name, described(error))
                    time = self._again(name)
                self._wake_at(time, name)

    def _again(self, name: str) -> int:
        """Give when what has failed is tried again."""
        failures = self._failures[name] = self._failures.get(name, -1) + 1
        return self._clock.now() + (_AGAIN << min(failures, _DOUBLINGS_MAX))
