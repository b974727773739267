"""A small world: one program that lives several times on one disk, and at last in quiet.

Rules: everything that happens comes from the seed. Each life but the last ends by a crash at a call
of the disk, or by itself. The last meets no failure, and must finish. What the log says afterwards
is judged by the file that tells what lives in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from random import Random
from typing import Any

import msgspec

from engine.runtime.ports import Ports
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.lives import STEPS_MAX
from engine.testing.simulation.loop import SimulatedLoop
from engine.testing.simulation.machine import simulated_ports
from engine.testing.simulation.schedule import draw_schedule

from .story import Story
from .swarm import draw_swarm
from .world import live, simulated_disk

__all__ = ["SmallLife", "SmallWorld", "sent_together"]


class SmallLife:
    """One life; `main` is what its process runs."""

    def __init__(self, disk: Disk, random: Random, loop: SimulatedLoop, *, quiet: bool) -> None:
        self._disk = disk
        self._random = random
        self._loop = loop
        self.quiet = quiet
        """Whether nothing is to go wrong in it any more."""

    @property
    def store(self) -> str:
        """The URL of its log."""
        return f"sqlite:{self._disk.folder / 'log.db'}"

    def ports(self) -> Ports:
        """Give the machine that it runs on."""
        return simulated_ports(self._disk, self._loop, self._random)

    async def main(self) -> None:
        """Live."""
        raise NotImplementedError

    def where(self) -> str:
        """Say who waits, where that is worth saying."""
        raise NotImplementedError

    def ended(self) -> None:
        """Note what is to be noted behind its end."""

    def left(self) -> Iterable[str]:
        """Tell what is wrong with what it has left on the disk, which was restarted."""
        return ()


async def sent_together(sendings: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Return when all are over; raise what one raised."""
    tasks = [asyncio.ensure_future(sending) for sending in sendings]
    if tasks:
        await asyncio.wait(tasks)
        [task.result() for task in tasks]


class SmallWorld:
    """The world of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        swarm = msgspec.structs.replace(draw_swarm(self.random), tally_versions=(), flipped=False)
        self.story = Story(seed, swarm)

    @contextmanager
    def lived(
        self,
        make: Callable[..., SmallLife],
        crash_at: Callable[[Random], int],
        *,
        crashes: int,
    ) -> Generator[SqliteLogReader | None]:
        """Live so often, and then in quiet; give the log, or None where there are problems."""
        random, story = self.random, self.story
        with simulated_disk(random, story.swarm) as disk:
            for number in range(crashes + 1):
                quiet = number == crashes
                loop = SimulatedLoop(draw_schedule(random), STEPS_MAX)
                disk.write_failures = disk.sync_failures = 0.0
                if not quiet:
                    disk.write_failures = random.choice((0.0, 0.0, 0.01))
                    disk.crash_at = crash_at(random)
                    disk.only_killed = random.random() < 0.5
                life = make(disk, random, loop, quiet=quiet)
                live(story, disk, loop, life)
                life.ended()
                if story.problems:
                    break
                if not quiet:
                    disk.restart()
                    story.problems += life.left()
            if story.problems:
                yield None
                return
            with SqliteLogReader(str(disk.folder / "log.db")) as log:
                yield log
