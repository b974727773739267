"""Runs many worlds in several processes, and sums up what came of them.

Rules: each world is a call with a number (a seed, a crash point) that gives a `Finding`; numbers
are handed out in order, a few at a time, and findings come back in order. What a world needs comes
with its number, so that any process can run it, and gives the same.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Final

import msgspec

from .checker import judge
from .joining.duties import run_duties_seed
from .joining.world import run_joining_seed, run_spread_seed
from .mixing import run_seed as run_mixing_seed
from .persons.world import run_seed as run_persons_seed
from .postgres.judge import judge_world
from .postgres.views_world import run_views_seed
from .postgres.world import World
from .postgres.world import run_seed as run_postgres_seed
from .story import Story
from .world import run_seed

__all__ = [
    "Finding",
    "counts_of",
    "run_worlds",
    "tell_nothing",
    "try_duties_seed",
    "try_joining_seed",
    "try_mixing_seed",
    "try_persons_seed",
    "try_postgres_seed",
    "try_seed",
    "try_spread_seed",
]

AT_ONCE: Final = 10
"""Worlds that a process takes at a time."""


class Finding(msgspec.Struct, frozen=True):
    """What came of one world."""

    number: int
    problems: list[str]
    counts: dict[str, int]
    swarm: str = ""
    """What the seed was made of, where it broke something."""


def counts_of(story: Story) -> dict[str, int]:
    """Give how often what happened in a story."""
    return {
        **story.answers,
        "lives": story.lives,
        "crashes": story.crashes,
        "disk failures": len(story.disk_failures),
        "strangers' events": len(story.strangers),
        "events": len(story.log),
        "pasts": story.looked_back,
        "steps": story.steps,
        "virtual seconds": int(story.seconds),
    }


def try_seed(seed: int) -> Finding:
    """Live through a seed and judge it; one in a hundred is run twice, and must be the same."""
    story = run_seed(seed)
    problems = judge(story)
    if seed % 100 == 7:
        again = run_seed(seed)
        if again.digest != story.digest:
            problems.append("the second run of this seed took another way")
    return Finding(seed, problems, counts_of(story), str(story.swarm) if problems else "")


def try_postgres_seed(seed: int) -> Finding:
    """Do the same with a seed over a modelled server; one in five has a world of views as well."""
    found = _try_world(seed, run_postgres_seed)
    if seed % 5 != 2:
        return found
    world = run_views_seed(seed)
    problems = [*found.problems, *world.problems]
    if seed % 100 == 7 and run_views_seed(seed).loop.digest != world.loop.digest:
        problems.append("the second run of the views of this seed took another way")
    return Finding(seed, problems, {**found.counts, **world.counts}, found.swarm)


def try_joining_seed(seed: int) -> Finding:
    """Do the same with a seed of engines that share a log on such a server."""
    return _try_world(seed, run_joining_seed)


def try_spread_seed(seed: int) -> Finding:
    """Do the same with a seed of engines that each own a part of such a log."""
    return _try_world(seed, run_spread_seed)


def try_duties_seed(seed: int) -> Finding:
    """Do the same with a seed of engines that share the projections of such a log."""
    return _try_world(seed, run_duties_seed)


def try_mixing_seed(seed: int) -> Finding:
    """Do the same with a seed that mixes all that follows from events."""
    told = run_mixing_seed(seed)
    problems = list(told.problems)
    if seed % 100 == 7 and run_mixing_seed(seed).digest != told.digest:
        problems.append("the second run of this seed took another way")
    return Finding(seed, problems, {**told.found, "crashes": told.crashes})


def try_persons_seed(seed: int) -> Finding:
    """Do the same with a seed of people who are erased."""
    told = run_persons_seed(seed)
    problems = list(told.problems)
    if seed % 100 == 7 and run_persons_seed(seed).digest != told.digest:
        problems.append("the second run of this seed took another way")
    return Finding(seed, problems, dict(told.counts), told.made_of)


def _try_world(seed: int, run: Callable[[int], World]) -> Finding:
    world = run(seed)
    problems = judge_world(world)
    if seed % 100 == 7:
        again = run(seed)
        if again.story.digest != world.story.digest:
            problems.append("the second run of this seed took another way")
    story = world.story
    counts = {
        **story.answers,
        **world.counts,
        f"{world.troubles.kind} worlds": 1,
        "lives": story.lives,
        "events": len(story.log),
        "transactions lost": len(world.lost),
        "steps": story.steps,
        "virtual seconds": int(story.seconds),
    }
    made_of = f"{world.troubles} {story.swarm}" if problems else ""
    return Finding(seed, problems, counts, made_of)


def _try_some(world: Callable[[int], Finding], numbers: list[int]) -> list[Finding]:
    return [world(number) for number in numbers]


def tell_nothing() -> None:
    """Drop what tasks of a life that was killed say when they are collected, long behind it.

    Their logger is one that fails, so it would be told on standard error, beside the findings.
    """
    logging.lastResort = None


def run_worlds(
    world: Callable[[int], Finding], numbers: Iterable[int], jobs: int
) -> Generator[Finding]:
    """Give the findings of all numbers, in their order, from so many processes.

    Leaving early ends the processes as soon as each is through with what it has in hand.
    """
    numbers = iter(numbers)
    if jobs <= 1:
        yield from map(world, numbers)
        return
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=tell_nothing
    ) as pool:
        waiting: list[concurrent.futures.Future[list[Finding]]] = []
        try:
            while True:
                while len(waiting) < 3 * jobs and (some := list(islice(numbers, AT_ONCE))):
                    waiting.append(pool.submit(_try_some, world, some))
                if not waiting:
                    return
                yield from waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
