"""What the lives of one seed stand on, and how they are put away when they are over.

Rules: a process that has lost its power never speaks again, so nothing of it is freed while its
seed runs: to free it runs what it had in `finally`. The garbage collector rests meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from ...stores.sqlite import wal
from .disk import Disk
from .loop import SimulatedLoop, forget_the_dead, ordered_scopes

__all__ = ["STEPS_MAX", "bury", "free_now_and_then", "free_the_dead", "temporary_disk"]

STEPS_MAX: Final = 200_000
"""Of one life."""


@contextlib.contextmanager
def temporary_disk(random: Random, wal_bytes: int) -> Generator[Disk]:
    """Give a disk in a folder of its own until the block ends.

    Write-ahead logs are folded at `wal_bytes`: at the usual size that takes thousands of commits.
    """
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=_ram()))
    disk = Disk(folder / "disk", random)
    collects = gc.isenabled()
    gc.disable()
    try:
        with ordered_scopes(), _folding_at(wal_bytes):
            yield disk
    finally:
        disk.dispose()
        shutil.rmtree(folder, ignore_errors=True)
        free_now_and_then()
        if collects:
            gc.enable()


def _ram() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextlib.contextmanager
def _folding_at(wal_bytes: int) -> Generator[None]:
    module: Any = wal
    before = module.WAL_BYTES_MAX
    module.WAL_BYTES_MAX = wal_bytes
    try:
        yield
    finally:
        module.WAL_BYTES_MAX = before


def bury(loop: SimulatedLoop) -> None:
    """Let no `finally` of a dead process speak."""
    for task in loop.tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop._ready.clear()  # type: ignore[attr-defined]
    loop._scheduled.clear()  # type: ignore[attr-defined]
    loop._closed = True  # type: ignore[attr-defined]
    _free_at_exit()
    _GRAVES.append(loop)


@cache
def _free_at_exit() -> None:
    atexit.register(free_the_dead)


_GRAVES: Final[list[SimulatedLoop]] = []
"""Dead processes, kept until their seed is over: freeing them runs what they had in `finally`."""
_SEEDS_PER_FREEING: Final = 20
_freed = [0]


def free_now_and_then() -> None:
    """Free what died in many seeds at once: once each would be most of the time."""
    _freed[0] += 1
    if _freed[0] % _SEEDS_PER_FREEING == 0:
        free_the_dead()


def free_the_dead() -> None:
    """Free what died in the seeds before: what it still says has no loop to say it in."""
    before, sys.unraisablehook = sys.unraisablehook, _say_nothing
    level = logging.root.manager.disable
    logging.disable()
    try:
        _GRAVES.clear()
        forget_the_dead()
        with warnings.catch_warnings(action="ignore"):  # of what was never awaited
            for _ in range(3):  # what would not end when it was asked is asked again by the next
                gc.collect()
    finally:
        sys.unraisablehook = before
        logging.disable(level)


def _say_nothing(_: object) -> None: ...
