"""Messages that a consumer has in hand: lanes that run as tasks, and what is behind which.

Rules: a lane that waits for another service is set aside. Then nobody waits for it but the lanes
that share an aggregate with it, which are aside too. What is finished is told to be acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from .inlet import Received

__all__ = ["Hand", "Lane"]

Run: TypeAlias = Callable[["Lane"], Coroutine[Any, Any, None]]


class Lane:
    """Messages whose commands wait for each other, in their order."""

    def __init__(self, hand: Hand, messages: Sequence[Received], ids: frozenset[str]) -> None:
        self._hand = hand
        self.ids = ids
        self.left = deque(messages)
        """Those that are not done with."""
        self.is_aside = False

    def set_aside(self) -> None:
        """Let nobody wait for it any more who does not have to."""
        self.is_aside = True
        self._hand.moved.set()

    def finish(self) -> None:
        """Have the first message acknowledged."""
        self._hand.done.append(self.left.popleft())


class Hand:
    """What was taken from a broker and is not done with."""

    def __init__(self) -> None:
        self._lanes: dict[asyncio.Task[None], Lane] = {}
        self.done: list[Received] = []
        """Messages that are finished and not acknowledged."""
        self.moved = asyncio.Event()

    @property
    def count(self) -> int:
        """Messages that are not finished."""
        return sum(len(lane.left) for lane in self._lanes.values())

    def begin(
        self, messages: Sequence[Received], run: Run, ids: frozenset[str] = frozenset()
    ) -> None:
        """Run a lane, behind those that have an aggregate in common with it."""
        if not messages:
            return
        before = [task for task, lane in self._lanes.items() if not lane.ids.isdisjoint(ids)]
        lane = Lane(self, messages, ids)
        lane.is_aside = any(self._lanes[task].is_aside for task in before)
        task = asyncio.create_task(_behind(before, run, lane))
        task.add_done_callback(lambda _: self.moved.set())
        self._lanes[task] = lane

    async def settled(self, *, is_full: bool) -> BaseException | None:
        """Wait until each lane has ended or is aside, and until one has ended if it `is_full`.

        Gives what one has raised.
        """
        busy = [task for task, lane in self._lanes.items() if not lane.is_aside]
        while any(not task.done() and not self._lanes[task].is_aside for task in busy) or (
            is_full and not any(task.done() for task in self._lanes)
        ):
            self.moved.clear()
            await self.moved.wait()
        ended = [task for task in self._lanes if task.done()]
        failures = [failure for task in ended if (failure := _failure_of(task)) is not None]
        if failures:
            return failures[0]
        for task in ended:
            del self._lanes[task]
        return None

    def taken_done(self) -> list[Received]:
        """Give what is finished, once."""
        done, self.done = self.done, []
        return done

    async def drop(self) -> list[Received]:
        """End all lanes; give what they have not finished."""
        lanes, self._lanes = self._lanes, {}
        for task in lanes:
            task.cancel()
        if lanes:
            await asyncio.wait(lanes)
        for task in lanes:
            _failure_of(task)  # or asyncio would log it
        self.done.clear()  # it comes again
        return [message for lane in lanes.values() for message in lane.left]


def _failure_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _behind(before: Sequence[asyncio.Task[None]], run: Run, lane: Lane) -> None:
    """Run a lane when others have ended; not if one of them has failed."""
    if before:
        await asyncio.gather(*map(asyncio.shield, before))
    await run(lane)
