"""Answers that begin at one moment by reading a row by its key: one snapshot and one read for all.

Rules: who comes while others are being read waits for the next read, whose snapshot is begun after
he has asked; so nobody is given a state older than his question. Each table is read once, with all
keys that are asked of it. Most answers read nothing else, and end then. One that reads more goes on
in the same snapshot on a link of its own, so that no answer waits for a statement of another one.
If anything fails, each of them reads by itself. The snapshot ends with the last of its answers.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from ....model.projection import TableDefinition
from ....model.rows import Scalar
from .link import Link
from .queries import Reading, get_all

__all__ = ["AT_WORK_MAX", "KEPT_MAX", "Group", "Shares", "Together"]

AT_WORK_MAX: Final = 2
"""Groups that read at one time: one is gathered meanwhile, so that more would only be smaller."""
KEPT_MAX: Final = 4
"""Groups whose answers take their time. Where there are as many, who comes reads by himself."""
_EXPORT: Final = "SELECT pg_catalog.pg_export_snapshot()"


class Group:
    """Answers that share a snapshot."""

    def __init__(self) -> None:
        self.wanted: list[tuple[TableDefinition, Scalar]] = []
        self.states: dict[Any, None] = {}
        """Those of them that have not ended, nor gone on by themselves."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.found: list[Any] | None = None
        """A row, None, or an exception for each that is wanted; None at all where it failed."""
        self.task: asyncio.Task[None] | None = None
        """What reads, as long as it does."""
        self.reading: Reading | None = None
        """What was read on, as long as it is this group's."""
        self._turn = asyncio.Lock()
        self._snapshot = ""

    async def exported(self) -> str:
        """Give the name by which another link begins with this snapshot."""
        async with self._turn:
            if not self._snapshot:
                assert self.reading is not None, "it stays as long as one of its answers does"
                ((self._snapshot,),) = await self.reading.link.run(_EXPORT)
            return self._snapshot


class Shares(Protocol):
    """Who has the links."""

    async def begin_shared(self) -> Reading:
        """Take a link, begin a snapshot on it, and find out what serves there."""
        ...

    def reads(self, state: Any, link: Link) -> None:
        """Note that an answer reads on a link."""
        ...

    def give_back(self, link: Link, *, is_broken: bool) -> None:
        """End the transaction of a link that a group had."""
        ...


class Together:
    """The groups at a place."""

    def __init__(self, shares: Shares, answers_max: int, seconds: float) -> None:
        """Take how many may be in a group, and how long a group may read."""
        self._seconds = seconds
        self._shares = shares
        self._answers_max = answers_max
        self._at_work = asyncio.Semaphore(AT_WORK_MAX)
        self._gathering: Group | None = None
        self._kept: dict[Group, None] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def join(
        self, state: Any, table: TableDefinition, key: Scalar
    ) -> tuple[Group, Any] | None:
        """Read a row with others; give the row, None, or an exception. None if it is not to be."""
        group = self._gathering
        if group is None:
            if len(self._kept) >= KEPT_MAX:
                return None
            group = self._gathering = Group()
            group.task = asyncio.create_task(self._run(group), name="foldline answers")
            self._running.add(group.task)
            group.task.add_done_callback(self._running.discard)
        place = len(group.wanted)
        group.wanted.append((table, key))
        group.states[state] = None
        if len(group.wanted) >= self._answers_max:
            self._gathering = None  # the next one waits for the next turn
        try:
            await asyncio.shield(group.ready)
        except BaseException:
            self.leave(group, state)
            raise
        if group.found is None:
            self.leave(group, state)
            return None
        return group, group.found[place]

    async def _run(self, group: Group) -> None:
        try:
            async with self._at_work:
                if self._gathering is group:
                    self._gathering = None
                if group.states:
                    await self._read(group)
        finally:
            group.task = None
            group.ready.set_result(None)
        if group.reading is not None:
            self._kept[group] = None
            self._end_if_left(group)

    async def _read(self, group: Group) -> None:
        """Read what all want; where that fails, each of them is told what he finds by himself."""
        reading: Reading | None = None
        try:
            async with asyncio.timeout(self._seconds):
                reading = await self._shares.begin_shared()
                for state in group.states:
                    self._shares.reads(state, reading.link)
                group.found = await get_all(reading, group.wanted)
        except BaseException as error:
            if reading is not None:
                self._shares.give_back(reading.link, is_broken=True)
            if not isinstance(error, Exception):
                raise
        else:
            group.reading = reading

    def take_over(self, group: Group, state: Any) -> Reading | None:
        """Give what a group reads on to the last of its answers; None where there are others."""
        if [*group.states] != [state]:
            return None
        reading, group.reading = group.reading, None
        group.states.clear()
        self._kept.pop(group, None)
        return reading

    def leave(self, group: Group, state: Any) -> None:
        """Go out of a group, which ends with the last one, also where its server says nothing."""
        group.states.pop(state, None)
        if not group.states and group.task is not None:
            if self._gathering is group:
                self._gathering = None
            group.task.cancel()
        self._end_if_left(group)

    def _end_if_left(self, group: Group) -> None:
        if group.states or group not in self._kept:
            return
        del self._kept[group]
        reading, group.reading = group.reading, None
        assert reading is not None, "it is kept for what it reads on"
        self._shares.give_back(reading.link, is_broken=False)

    async def close(self) -> None:
        """Return when nothing runs; the links have ended."""
        if self._running:
            await asyncio.wait(self._running)
