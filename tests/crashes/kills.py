"""Trials of `kill -9`: a process dies at a named place, its follower perhaps while it recovers.

Rules: the places take turns by the seed, so that a hundred seeds in a row come by every one. Which
thread runs when is up to the machine: a seed says where and how often, not at which moment of the
others. A life that is spared, because it ended before it came to its place so often, is followed by
one that dies there sooner.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

from .dying import ACKNOWLEDGEMENT, CALL_PLACES, FAILPOINT_PLACES
from .story import Death, Place, Story
from .trial import Trial

LIVES_MAX = 6
FRESH = 50
"""Operations that each life adds."""

ROUND = (*CALL_PLACES, *FAILPOINT_PLACES * 2, *(ACKNOWLEDGEMENT,) * 8)
STEP = 37
"""Coprime to the length of a round, so that neighbours die at different kinds of places."""


def place_of(seed: int) -> Place:
    """Give the place of a seed's first death."""
    return ROUND[seed * STEP % len(ROUND)]


def run_kills(seed: int, folder: Path) -> Story:
    """Live through a seed's deaths, and then in peace."""
    place = folder / f"kills-{seed}"
    try:
        (place / "files").mkdir(parents=True)
        trial = Trial(seed, place / "files", place / "copy")
        _die_at(trial, place_of(seed))
        random = trial.random
        while random.random() < 0.5 and len(trial.story.ends) < LIVES_MAX:
            # What recovers is the same code, and has its own first calls.
            other = random.choice((*CALL_PLACES, *FAILPOINT_PLACES, ACKNOWLEDGEMENT))
            _live(trial, Death(other, random.choice((1, 1, 2, random.randint(1, other.often)))))
        trial.live_on()
        return trial.story
    finally:
        shutil.rmtree(place)


def _die_at(trial: Trial, place: Place) -> None:
    """Die at a place, sooner and sooner until it comes to pass."""
    nth = _nth(place, trial.random)
    while not _live(trial, Death(place, nth)) and len(trial.story.ends) < LIVES_MAX:
        nth = max(1, nth // 4)


def _nth(place: Place, random: Random) -> int:
    """Give how often it comes by first: the beginning of a life is no rare place."""
    power = random.choice((random.random(), 0.5 + random.random() / 2))
    return round(math.pow(place.often, power))


def _live(trial: Trial, death: Death) -> bool:
    """Live until a death; give whether it came to pass."""
    small = "truncate" in death.place.name or "write" in death.place.name
    if death.place is ACKNOWLEDGEMENT:
        end = trial.live(fresh=FRESH, acknowledged=_killer(death.nth))
    else:
        end = trial.live(fresh=FRESH, death=death, small=small)
    trial.over({"killed": str(death), "lived": f"spared {death}"}.get(end, end))
    if end == "failed":
        trial.story.problems.append(f"a life that was to die at {death} ended with an error")
    return end == "killed"


def _killer(nth: int) -> Callable[[int, int], None]:
    def kill(pid: int, count: int) -> None:
        if count == nth:
            os.kill(pid, signal.SIGKILL)

    return kill
