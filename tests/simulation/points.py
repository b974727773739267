"""Every place of one reference world: each crash point, each call that fails, each await cancelled.

Rules: the reference world runs in order, without chance in its schedule, so that its n-th call is
the same call each time; what is tried at a place is all that differs. Each place ends in a quiet
life that must finish, and is judged as a seed is. Where a crash is tried, eight images of what the
disk may hold are made of the same moment, and each is recovered: at once, and every other one also
through a second crash in the recovery.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Final, Literal, TypeAlias

import msgspec

from engine.limits import Limits
from engine.testing.simulation.disk import IMAGES, Disk, Fault
from engine.testing.simulation.lives import STEPS_MAX
from engine.testing.simulation.loop import SimulatedLoop
from engine.testing.simulation.schedule import InOrder

from .checker import judge
from .domain import Brittle
from .life import Life
from .story import Story
from .swarm import Ending, Swarm
from .sweep import Finding, counts_of
from .world import live, simulated_disk, tell

__all__ = ["EVERY", "Every", "places"]

Every: TypeAlias = Literal[
    "crash", "crash in a rebuild", "fault", "fault in recovery", "failed sync", "cancel"
]

REFERENCE: Final = Swarm(
    clients=2,
    operations=16,
    cells=3,
    burst=1,
    keyed=0.9,
    snapshot_every=2,
    slow_handlers=0.1,
    broken_handlers=0.1,
    hanging_handlers=0.0,
    repeated=0.3,
    rivals=20.0,
    wal_bytes=60_000,
    endings=("crash",),
)
LIMITS: Final = Limits(
    resident_aggregates=2,
    mailbox_commands=64,
    batch_events=5,
    command_events=5,
    page_events=4,
    projector_events=4,
    handler_seconds=5,
)
FOLDING: Final = msgspec.structs.replace(REFERENCE, wal_bytes=10_000)
"""The same world where the write-ahead logs are folded every few commits."""
REBUILDING: Final = msgspec.structs.replace(
    REFERENCE,
    tally_versions=(1, 1, 2),
    tally_slices=(2,),
    tally_policy="park",
    ailing=True,
    steward=100.0,
)
"""The same world with tallies that are paused, reset, rebuilt, retried and skipped all the time."""
_SEED: Final = 20_260_101
_FAILURES: Final[Mapping[str, tuple[Literal["EIO", "ENOSPC", "short"], ...]]] = {
    "write": ("EIO", "ENOSPC", "short"),
    "sync": ("EIO", "ENOSPC"),
}
"""How a call can fail; what is not named here only by EIO."""


class _World:
    """The reference world on its way through its lives."""

    def __init__(self, story: Story, disk: Disk, random: Random) -> None:
        self.story = story
        self.disk = disk
        self.random = random

    def live(
        self, ending: Ending | None, prepare: Callable[[SimulatedLoop, Life], None] | None = None
    ) -> SimulatedLoop:
        """Live once, in order."""
        loop = SimulatedLoop(InOrder(), STEPS_MAX)
        life = Life(self.story, self.disk, self.random, loop, LIMITS, ending)
        if prepare is not None:
            prepare(loop, life)
        Brittle.mended = False
        live(self.story, self.disk, loop, life)
        return loop

    def judge(self, what: str) -> Iterator[str]:
        """Recover, live quietly, and give what is wrong."""
        if not self.story.problems:
            self.live(None)
        self.story.disk_failures = self.disk.failed
        yield from (f"{what}: {problem}" for problem in judge(self.story))


def _with_world(
    use: Callable[[_World], list[str]], swarm: Swarm = REFERENCE
) -> tuple[list[str], Story]:
    """Run the reference world from its beginning; give the problems, and its story."""
    random = Random(_SEED)
    story = tell(_SEED, swarm, random)
    with simulated_disk(random, swarm) as disk:
        return use(_World(story, disk, random)), story


# -- every crash point --------------------------------------------------------------------------


def try_crash(swarm: Swarm, number: int) -> Finding:
    """Cut the power at one call, and try eight images of the disk."""
    counts: Counter[str] = Counter()

    def use(world: _World) -> list[str]:
        world.disk.crash_at = number
        world.live("crash")
        problems: list[str] = []
        for n, image in enumerate(IMAGES):
            # Every image is recovered at once; every other one also through a second crash.
            for second in (False, True)[: 1 + (number + n) % 2]:
                random = Random(number * 100 + n)
                survived = world.disk.survivors(image, random)
                story = copy.deepcopy(world.story)
                found = _recover(story, survived, random, second=second)
                counts.update(counts_of(story))
                what = f"crash at {number}, image {n} ({image})" + (", twice" if second else "")
                problems += [f"{what}: {problem}" for problem in found]
        counts["images"] += len(IMAGES)
        return problems

    problems, _ = _with_world(use, swarm)
    return Finding(number, problems, dict(counts))


def _recover(
    story: Story, survived: Mapping[str, bytes], random: Random, *, second: bool
) -> list[str]:
    with simulated_disk(random, REFERENCE) as disk:
        disk.restart(survived)
        world = _World(story, disk, random)
        if second:
            disk.crash_at = random.randrange(1, 40)
            world.live("crash")
            disk.restart()
        return list(world.judge("then"))


# -- every call that fails ----------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True):
    fault: Fault
    call: str


def _faults(calls: list[str]) -> list[_Place]:
    return [
        _Place(Fault(number, how), call)
        for number, call in enumerate(calls, 1)
        for how in _FAILURES.get(call.split()[0], ("EIO",))
    ]


def _crash_first(world: _World) -> None:
    """Leave a log that needs a recovery: write-ahead log, views behind, a torn tail."""
    world.disk.crash_at = 110
    world.live("crash")
    assert not world.disk.crash_at or world.disk.dead, "the reference world is too short"
    world.disk.restart(world.disk.survivors("everything", world.random))


def _calls(*, recovery: bool = False, swarm: Swarm = REFERENCE) -> list[str]:
    """Give the calls that a world makes where nothing fails."""

    def use(world: _World) -> list[str]:
        if recovery:
            _crash_first(world)
        world.disk.notes_calls = True
        world.live("crash")
        return list(world.disk.calls)

    return _with_world(use, swarm)[0]


def try_fault(places: list[_Place], recovery: bool, number: int) -> Finding:
    """Let one call fail, then cut the power, and recover."""
    place = places[number - 1]

    def use(world: _World) -> list[str]:
        if recovery:
            _crash_first(world)
        world.disk.fault = place.fault
        world.live("crash")
        if not world.disk.failed:
            return [f"{place} was not reached: the reference world is not the same each time"]
        if not world.story.problems:
            world.disk.dead = True
            world.disk.restart()
        return list(world.judge(f"{place.call} fails with {place.fault.how}"))

    problems, story = _with_world(use)
    return Finding(number, problems, counts_of(story))


# -- every sync that fails ------------------------------------------------------------------------


def try_failed_sync(syncs: list[int], number: int) -> Finding:
    """Let one sync fail and the power go some calls later, and recover two images of the disk."""
    place, after = divmod(number - 1, _CALLS_AFTER_A_SYNC)
    counts: Counter[str] = Counter()

    def use(world: _World) -> list[str]:
        world.disk.fault = Fault(syncs[place], "EIO")
        world.disk.crash_after_failure = after + 1
        world.live("crash")
        problems: list[str] = []
        for n in (number % 8, (number + number // 8 + 4) % 8):
            random = Random(number * 100 + n)
            story = copy.deepcopy(world.story)
            found = _recover(story, world.disk.survivors(IMAGES[n], random), random, second=False)
            counts.update(counts_of(story))
            what = f"sync {syncs[place]} fails, a crash {after + 1} calls later, image {n}"
            problems += [f"{what}: {problem}" for problem in found]
        return problems

    problems, _ = _with_world(use, FOLDING)
    return Finding(number, problems, dict(counts))


_CALLS_AFTER_A_SYNC: Final = 24
"""Calls within which what was built on a sync that failed is folded, and gone or wrong."""


def _syncs() -> list[int]:
    calls = _calls(swarm=FOLDING)
    return [number for number, call in enumerate(calls, 1) if call.startswith("sync")]


# -- every await --------------------------------------------------------------------------------


def try_cancel(number: int) -> Finding:
    """Cancel every other call so many steps after it began: the even ones, or the odd ones."""
    steps, odd = divmod(number - 1, 2)

    def use(world: _World) -> list[str]:
        calls = 0

        def prepare(loop: SimulatedLoop, life: Life) -> None:
            def cancel(task: object) -> None:
                nonlocal calls
                calls += 1
                if calls % 2 == odd:
                    loop.after_steps(steps, task.cancel)  # type: ignore[attr-defined]

            life.on_call = cancel

        world.live("crash", prepare)
        if not world.story.problems:
            world.disk.restart(world.disk.survivors("everything", world.random))
        return list(world.judge(f"calls are cancelled after {steps} steps"))

    problems, story = _with_world(use)
    return Finding(number, problems, counts_of(story))


_CANCEL_STEPS: Final = 200
"""Steps within which every call of the reference world has its answer."""


def _crash_points(swarm: Swarm) -> int:
    def use(world: _World) -> list[str]:
        world.live("crash")
        return ["an operation"] * world.disk.operations

    return len(_with_world(use, swarm)[0])


def places(every: Every) -> tuple[int, Callable[[int], Finding]]:
    """Give how many places there are, and what tries one of them, counted from 1."""
    if every in ("crash", "crash in a rebuild"):
        swarm = REFERENCE if every == "crash" else REBUILDING
        return _crash_points(swarm), partial(try_crash, swarm)
    if every == "cancel":
        return 2 * _CANCEL_STEPS, try_cancel
    if every == "failed sync":
        syncs = _syncs()
        return len(syncs) * _CALLS_AFTER_A_SYNC, partial(try_failed_sync, syncs)
    recovery = every == "fault in recovery"
    found = _faults(_calls(recovery=recovery))
    return len(found), partial(try_fault, found, recovery)


EVERY: Final[tuple[Every, ...]] = (
    *("crash", "crash in a rebuild", "fault", "fault in recovery", "failed sync", "cancel"),
)
