"""All slices of a projection in one process, for what needs that: builds, swaps and decisions.

Rules: who gathers a projection stands among the members with a row of its own, which says so. So
the slices move as any duty does, under another number of the members, and nobody writes by the
former one. Only who leads a projection gathers it, and no longer than it has to do something with
all of it, and a little more. Nothing is decided here, and no view is read or written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from ...projections.runner import ProjectionRunner
from ...runtime.machine import process_name
from ...stores.contract.backend import Runners
from ...stores.contract.membership import Attending, View
from .whose import gathers, leads

__all__ = ["Gatherings"]

RunnerOf: TypeAlias = Callable[[str], ProjectionRunner | None]
"""Gives what runs all slices of a projection in this process, if it is open."""

_QUIET_SECONDS: Final = 2.0
"""For which there must have been nothing to do with all slices before they part again."""


class _Gathering:
    """One row among the members, from `begin` to `end`."""

    def __init__(self, part: Attending) -> None:
        self._part = part
        self._task: asyncio.Task[None] | None = None
        self.busy_at = 0.0
        """When something was last to be done, by the event loop's clock."""

    @property
    def is_over(self) -> bool:
        """Whether it was declared dead."""
        return self._task is not None and self._task.done()

    async def begin(self) -> None:
        await self._part.join()
        self._task = asyncio.create_task(self._part.run(), name="foldline gathered slices")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._part.close()


class Gatherings:
    """What this process gathers."""

    def __init__(self, outside: Runners, logger: logging.Logger) -> None:
        self._outside = outside
        self._logger = logger
        self._wanted: dict[str, None] = {}
        self._there: dict[str, _Gathering] = {}

    def __bool__(self) -> bool:
        """Whether there is something to look at again."""
        return bool(self._wanted or self._there)

    def want(self, name: str) -> None:
        """Have the slices of a projection gathered at the next turn."""
        self._wanted[name] = None

    async def turn(self, view: View, member: int, runner: RunnerOf) -> bool:
        """Gather what is wanted, and let go what has been done; tell whether members changed."""
        changed = False
        for name in list(self._wanted):
            if name not in self._there and leads(view, member, name):
                await self._begin(name)
                changed = True
            del self._wanted[name]
        for name, one in list(self._there.items()):
            if self._is_needed(one, runner(name)) and leads(view, member, name):
                continue
            del self._there[name]
            await one.end()
            changed = True
        return changed

    async def _begin(self, name: str) -> None:
        text = msgspec.json.encode(gathers(name)).decode()
        one = _Gathering(self._outside.runner(process_name(), text, _heed, self._logger))
        try:
            await one.begin()
        except BaseException:
            await one.end()
            raise
        one.busy_at = asyncio.get_running_loop().time()
        self._there[name] = one
        self._logger.info("all slices of %s are run by this process for a while", name)

    def _is_needed(self, one: _Gathering, runner: ProjectionRunner | None) -> bool:
        if one.is_over:
            return False
        now = asyncio.get_running_loop().time()
        if runner is None or runner.is_busy:
            one.busy_at = now
        return now - one.busy_at < _QUIET_SECONDS

    async def end(self) -> None:
        """Let all go."""
        self._wanted.clear()
        while self._there:
            _, one = self._there.popitem()
            await one.end()


def _heed(_: View) -> None:
    """Keep nothing of a view, since nothing is run by this row."""
