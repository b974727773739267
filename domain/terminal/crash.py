"""The crash as a command: an import that is killed again and again ends as one that is not.

Rules: it is the command's own importing process that is killed, by SIGKILL, after a number of
acknowledgements that the seed chooses; they come through a pipe, so that none of them is the
process's mere intention. After each kill the log is read and compared with them. Nothing is proved
by what a killed process says of itself. All files are in a folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random, SystemRandom

import msgspec

from engine import run
from engine.cli.output import say

from ..importer.proof import Found, acknowledged_in, keys_of
from ..importer.text_file import TextFile
from ..shop import ALONE, open_shop
from .arguments import DONE, FAILED

__all__ = ["CannotCrash", "crash", "moments"]

SEED_MAX = 1_000_000
PIPE_BYTES = 4_096


class CannotCrash(Exception):
    """The import could not be killed and compared; the message says why."""


class Life(msgspec.Struct):
    """What one importing process did before it ended."""

    acknowledged: dict[str, int] = {}
    """Positions of commands in the log, by key, as they were told."""
    output: str = ""
    killed: bool = False


def crash(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    seed = SystemRandom().randrange(SEED_MAX) if options.seed is None else options.seed
    TextFile(options.file).__exit__(None, None, None)  # says why it cannot be read
    say(f"seed {seed} (--seed {seed} chooses the same moments again)")
    with tempfile.TemporaryDirectory(prefix="shop-crash-") as folder:
        return _compare(Path(folder), options.file.absolute(), options.kills, seed)


def _compare(folder: Path, file: Path, kills: int, seed: int) -> int:
    unharmed = live(file, folder / "unharmed.db", None)
    total = len(unharmed.acknowledged)
    say(f"nobody kills the first import: {total:,} commands acknowledged")
    store, told = folder / "killed.db", dict[str, int]()
    wrong = 0
    for after in (*moments(total, kills, seed), None):
        life = live(file, store, after)
        again = len(told.keys() & life.acknowledged.keys())
        moved = note(told, life.acknowledged)
        found = run(look, f"sqlite:{store}", told)
        wrong += moved + found.lost + found.doubled
        say(_told(life, again, found))
        if not life.killed:
            return _verdict(life.output, unharmed.output, wrong)
    raise AssertionError("the last life is not killed")


def moments(total: int, kills: int, seed: int) -> list[int]:
    """Give after how many acknowledgements each life is killed: further and further, by chance."""
    chance = Random(seed)  # noqa: S311 - moments, no secrets
    # The last quarter is left for the life that ends by itself: it may be ahead of what is read.
    bounds = [total * 3 * n // (4 * kills) for n in range(kills + 1)]
    if bounds[1] == 0 or len(set(bounds)) <= kills:
        raise CannotCrash(f"{total} commands are too few to be killed {kills} times")
    return [chance.randint(low + 1, high) for low, high in itertools.pairwise(bounds)]


def live(file: Path, store: Path, kill_after: int | None) -> Life:
    """Let a process import a file, and kill it after so many acknowledgements."""
    reading, writing = _pipe()
    command = (sys.executable, "-m", "domain", str(file), "--store", f"sqlite:{store}")
    life = Life()
    with subprocess.Popen(  # noqa: S603 - this program, and the file that was asked for
        [*command, "--acks", f"/dev/fd/{writing}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(writing,),
        text=True,
    ) as process:
        os.close(writing)
        with os.fdopen(reading) as lines:
            for count, (key, position) in enumerate(acknowledged_in(lines), start=1):
                life.acknowledged[key] = position
                if count == kill_after:
                    process.kill()
        life.output, said = process.communicate()
    wanted = DONE if kill_after is None else -signal.SIGKILL
    if process.returncode != wanted:
        raise CannotCrash(f"an import ended with {process.returncode}, not {wanted}: {said}")
    life.killed = kill_after is not None
    return life


def _pipe() -> tuple[int, int]:
    """Give a pipe that holds little, so that whoever writes it is not far ahead of its reader."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def note(told: dict[str, int], acknowledged: Mapping[str, int]) -> int:
    """Add what was acknowledged; give how many commands were told another position before."""
    moved = sum(told.get(key, position) != position for key, position in acknowledged.items())
    told.update(acknowledged)
    return moved


async def look(store: str, told: Mapping[str, int]) -> Found:
    """Read the whole log, and compare it with what was acknowledged."""
    async with open_shop(store, ALONE) as engine:
        return (await keys_of(engine)).compare(told)


def _told(life: Life, again: int, found: Found) -> str:
    how = "kill -9 after" if life.killed else "ran to its end:"
    return (
        f"  {how:<15}{len(life.acknowledged):>7,} acknowledged ({again:,} of them again)   "
        f"log: {found.events:,} events   lost: {found.lost}   doubled: {found.doubled}"
    )


def _verdict(report: str, expected: str, wrong: int) -> int:
    same = report == expected
    summary = report.splitlines()[2:4]
    say("")
    for line in summary:
        say(line)
    digest = hashlib.sha256(report.encode()).hexdigest()[:16]
    if same and not wrong:
        say(f"the sales report is the same, byte for byte, as that of the first (sha256 {digest})")
        return DONE
    say("the two reports differ" if not same else "the log is not what was acknowledged")
    return FAILED
