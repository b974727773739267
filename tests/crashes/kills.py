"""Trials of `kill -9`: a process dies at a named place, its follower perhaps while it recovers.

Rules: the places take turns by the seed, so that a hundred seeds in a row come by every one. Which
thread runs when is up to the machine: a seed says where and how often, not at which moment of the
others. A life that is spared, because it ended before it came to its place so often, is followed by
one that dies there sooner.
"""

from __future__ import annotations

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
FRESH = 40
"""Operations that each life adds."""


def place_of(seed: int) -> Place:
    """Give the place of a seed's first death: calls twice, a failpoint, a failpoint or by chance."""
    turn, kind = divmod(seed, 4)
    if kind < 2:
        return CALL_PLACES[(2 * turn + kind) % len(CALL_PLACES)]
    if kind == 2:
        return FAILPOINT_PLACES[turn % len(FAILPOINT_PLACES)]
    return ACKNOWLEDGEMENT


def run_kills(seed: int, folder: Path) -> Story:
    """Live through a seed's deaths, and then in peace."""
    trial = Trial(seed, folder / f"kills-{seed}", folder / f"kills-{seed}-copy")
    (folder / f"kills-{seed}").mkdir()
    try:
        random = trial.random
        _die_at(trial, place_of(seed))
        while random.random() < 0.4 and len(trial.story.ends) < LIVES_MAX:
            # The recovery is the same code, and has its own first calls.
            place = random.choice((*CALL_PLACES, *FAILPOINT_PLACES, ACKNOWLEDGEMENT))
            _live(trial, Death(place, random.choice((1, 1, 2, random.randint(1, place.often)))))
        end = trial.live(quiet=True)
        trial.over(end)
        if end != "lived":
            trial.story.problems.append(f"the last life {end}")
    finally:
        shutil.rmtree(folder / f"kills-{seed}")
        shutil.rmtree(folder / f"kills-{seed}-copy", ignore_errors=True)
    return trial.story


def _die_at(trial: Trial, place: Place) -> None:
    """Die at a place, sooner and sooner until it comes to pass."""
    nth = _nth(place, trial.random)
    while not _live(trial, Death(place, nth)) and nth > 1 and len(trial.story.ends) < LIVES_MAX:
        nth = max(1, nth // 4)


def _nth(place: Place, random: Random) -> int:
    return max(1, round(place.often ** random.random()))


def _live(trial: Trial, death: Death) -> bool:
    """Live until a death; give whether it came to pass."""
    if death.place is ACKNOWLEDGEMENT:
        end = trial.live(fresh=FRESH, acknowledged=_killer(death.nth))
    else:
        end = trial.live(fresh=FRESH, death=death)
    trial.over({"killed": str(death), "lived": f"spared {death}"}.get(end, end))
    if end == "failed":
        trial.story.problems.append(f"a life that was to die at {death} ended with an error")
    return end == "killed"


def _killer(nth: int) -> Callable[[int, int], None]:
    def kill(pid: int, count: int) -> None:
        if count == nth:
            os.kill(pid, signal.SIGKILL)

    return kill
