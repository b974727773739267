"""One seed: several lives of one engine on one disk, and a quiet one that must finish.

Rules: everything that happens comes from the seed. A life ends by loss of power at any call of the
disk or step of a command, by an orderly close, or by the cancellation of its host; no `finally` of
a dead process speaks. What the story says afterwards is judged by `checker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from random import Random
from typing import Any, Protocol

from engine.errors import Damaged, EngineFailed, StoreFailed, StoreRefused, StreamUnreadable
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.fence import fence
from engine.testing.simulation.lives import STEPS_MAX, bury, temporary_disk
from engine.testing.simulation.loop import DeadLock, SimulatedLoop
from engine.testing.simulation.schedule import draw_schedule

from .domain import POISON, Brittle, Hang, Put, Slowly, Spoil, Take
from .life import Life
from .steward import left_in_the_file
from .story import Operation, Story
from .swarm import Ending, Swarm, draw_limits, draw_swarm

__all__ = [
    "live",
    "run_seed",
    "simulated_disk",
    "tell",
]


def run_seed(seed: int) -> Story:
    """Live through a seed; give its story, not judged yet."""
    random = Random(seed)
    swarm = draw_swarm(random)
    story = tell(seed, swarm, random)
    with simulated_disk(random, swarm) as disk:
        for ending in swarm.endings:
            _draw_life(story, disk, random, ending)
            if not story.problems:
                disk.restart()
        if swarm.flipped and not story.problems:
            disk.flip("log.db", b'"operation":', random)
        _draw_life(story, disk, random, None)
        story.disk_failures = disk.failed
    return story


def tell(seed: int, swarm: Swarm, random: Random) -> Story:
    """Begin a story: who will send what."""
    story = Story(seed, swarm)
    for number in range(1, swarm.operations + 1):
        hot = random.random() < swarm.hot
        cell = "hot" if hot else f"c{random.randrange(swarm.cells)}"
        command = _command(swarm, random, cell, number)
        key = f"k{number}" if random.random() < swarm.keyed else None
        expected = random.randrange(4) if random.random() < swarm.expected else None
        client = random.randrange(swarm.clients)
        story.operations.append(Operation(number, client, command, key, expected))
    return story


def _command(swarm: Swarm, random: Random, cell: str, number: int) -> Any:
    amount = random.randrange(1, POISON)
    if swarm.poison and random.random() < 0.1:
        amount = POISON
    if random.random() < swarm.broken_handlers:
        return Spoil(cell, number)
    if random.random() < swarm.hanging_handlers:
        return Hang(cell, number)
    if random.random() < swarm.slow_handlers:
        blocked = random.choice((0.0, 0.02)) if swarm.blocking_handlers else 0.0
        return Slowly(cell, number, amount, random.random() * 0.02, blocked)
    if random.random() < 0.3:
        return Take(cell, number, random.choice((0, amount, amount, 40)))
    return Put(cell, number, amount, random.choice((1, 1, 1, 2, 5)))


def simulated_disk(random: Random, swarm: Swarm) -> AbstractContextManager[Disk]:
    """Give a disk in a folder of its own, and what lives on it its quiet, until the block ends."""
    return temporary_disk(random, swarm.wal_bytes)


# -- one life -----------------------------------------------------------------------------------


def _draw_life(story: Story, disk: Disk, random: Random, ending: Ending | None) -> None:
    if story.problems:
        return
    swarm = story.swarm
    disk.failing = swarm.failing
    loop = SimulatedLoop(draw_schedule(random), STEPS_MAX)
    if ending is not None:
        disk.write_failures = swarm.write_failures
        disk.sync_failures = swarm.sync_failures
    if ending in ("crash", "kill"):
        disk.crash_at = random.randrange(1, swarm.operations_to_crash)
    disk.only_killed = ending == "kill"
    Brittle.mended = False
    live(story, disk, loop, Life(story, disk, random, loop, draw_limits(random), ending))
    if not loop.dead:
        disk.only_killed = random.random() < 0.5


class Living(Protocol):
    """A life, as far as it is run."""

    @property
    def quiet(self) -> bool:
        """Whether nothing is to go wrong in it any more."""
        ...

    async def main(self) -> None:
        """Live."""
        ...

    def where(self) -> str:
        """Say who waits, where that is worth saying."""
        ...


def live(story: Story, disk: Disk, loop: SimulatedLoop, life: Living) -> None:
    """Run a life to its end, and note what became of it."""
    disk.on_crash = loop.crash
    story.lives += 1
    task = loop.create_task(life.main())
    task.add_done_callback(lambda _: loop.stop())
    try:
        with fence():
            loop.run_forever()
    except DeadLock as error:
        story.problems.append(f"P6: dead-lock in life {story.lives}: {error}; {life.where()}")
    story.steps += loop.steps
    story.seconds += loop.time()
    story.digest += loop.digest
    story.crashes += loop.dead
    if not loop.dead and not story.problems:
        _look_at_end(story, disk, life, task, loop.errors)
        if life.quiet and story.swarm.tally_versions and not story.swarm.flipped:
            story.problems += left_in_the_file(disk.folder / "log.views.db")
    disk.dead = disk.dead or not task.done()
    bury(loop)


def _look_at_end(
    story: Story, disk: Disk, life: Living, task: Any, unseen: Sequence[object]
) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        # The disk failed, and the engine stopped for it, or did not start.
        declared = EngineFailed | StoreFailed | StoreRefused | StreamUnreadable | Damaged
        excused = story.swarm.flipped if life.quiet else disk.failed
        if not (excused and isinstance(error, declared)):
            story.problems.append(f"P13: life {story.lives} ended with {error!r}")
    story.problems += [f"P13: an error that nobody saw: {e!r}" for e in unseen]
