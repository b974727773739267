"""One trial: lives of processes on the same files, each one looked at from outside when it is over.

Rules: every life is forked from a process that has one thread and has never opened SQLite, because
a fork that copies a thread's lock or SQLite's own knowledge of its files would be no new process.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NoReturn

import msgspec

from .child import live
from .dying import LOG
from .outside import copy, encoded
from .story import Death, Image, Life, Operation, Seen, Story, Told

CELLS = 5
WAL_BYTES_SMALL = 60_000
WAL_BYTES = (WAL_BYTES_SMALL, 200_000, 1 << 26)
"""Above which the write-ahead logs are folded into their files."""


class Trial:
    """The files, and the story so far."""

    def __init__(
        self, seed: int, folder: Path, copies: Path, *, cut: bool = False, lying: bool = False
    ) -> None:
        self.story = Story(seed, cut=cut)
        self.random = Random(seed)
        self._folder = folder
        self._copies = copies
        self._lying = lying
        self._dark_since = math.inf

    def live(
        self,
        *,
        death: Death | None = None,
        quiet: bool = False,
        fresh: int = 0,
        small: bool = False,
        acknowledged: Callable[[int, int], None] = lambda pid, count: None,
    ) -> str:
        """Let a process live with so many fresh operations; give how it ended.

        `acknowledged(pid, count)` is called as the acknowledgements come in. With `small` the
        write-ahead logs are folded often. How it ended is `killed`, `lived` or `failed`.
        """
        story, random = self.story, self.random
        number = len(story.ends)
        story.operations += self._operations(fresh)
        life = Life(
            number,
            random.getrandbits(32),
            str(self._folder / LOG),
            death,
            story.operations if quiet else self._some(),
            wal_bytes=WAL_BYTES_SMALL if small else random.choice(WAL_BYTES),
            quiet=quiet,
            cut=story.cut and not quiet,
            lying=self._lying and not quiet,
        )
        self._dark_since = math.inf
        status = fork(lambda pipe: live(life, pipe), self._hear(acknowledged))
        return "killed" if status == -signal.SIGKILL else "failed" if status else "lived"

    def goes_dark(self) -> None:
        """The power is cut now: a machine without power tells nobody anything.

        A sync that is under way while ext4 is shut down can come back without an error, for what
        is lost all the same (seen on Linux 6.18, after one cut in twenty): what is said yes to
        from now on is no promise that a real machine would have given. A no is one.
        """
        self._dark_since = time.monotonic()

    def live_on(self) -> None:
        """Let the last process live to its end."""
        end = self.live(quiet=True)
        self.over(end)
        if end != "lived":
            self.story.problems.append(f"the last life {end}")

    def _hear(self, acknowledged: Callable[[int, int], None]) -> Callable[[int, bytes], None]:
        story, count = self.story, 0

        def hear(pid: int, line: bytes) -> None:
            nonlocal count
            what, _, value = line.partition(b"\t")
            if what == b"seen":
                story.seen = msgspec.json.decode(value, type=Seen)
                return
            told = _told(value)
            if told.at > self._dark_since and told.what in ("receipt", "rejected"):
                return
            story.told.append(told)
            if told.what == "receipt":
                count += 1
                acknowledged(pid, count)

        return hear

    def over(self, end: str) -> None:
        """Write down how a life ended, and look at what it left."""
        self.story.ends.append(end)
        life = len(self.story.ends) - 1
        copy(self._folder, self._copies)
        lines: list[bytes] = []
        status = fork(
            lambda pipe: write(pipe, encoded(self._copies, life)),
            lambda _, line: lines.append(line),
        )
        if status or len(lines) != 1:
            self.story.problems.append(f"what life {life} ({end}) left cannot be read: {status}")
            return
        self.story.images.append(msgspec.json.decode(lines[0], type=Image))

    def _operations(self, count: int) -> list[Operation]:
        random, first = self.random, len(self.story.operations) + 1
        hot = random.random() < 0.3
        clients = random.randrange(2, 9)
        return [
            Operation(
                number,
                random.randrange(clients),
                "hot" if hot and random.random() < 0.7 else f"c{random.randrange(CELLS)}",
                random.choice((-20, -5, 1, 2, 5, 10)),
                random.choice((1, 1, 1, 2, 5)),
                random.choice((0, 0, 10, 3_000)),
            )
            for number in range(first, first + count)
        ]

    def _some(self) -> list[Operation]:
        """Give what has no receipt yet, and some of what has: it is sent again."""
        done = {told.operation for told in self.story.told if told.what == "receipt"}
        random = self.random
        return [o for o in self.story.operations if o.number not in done or random.random() < 0.1]


_told = msgspec.json.Decoder(Told).decode


def write(pipe: int, line: bytes) -> None:
    """Write all of it."""
    while line:
        line = line[os.write(pipe, line) :]


def fork(run: Callable[[int], None], hear: Callable[[int, bytes], None]) -> int:
    """Run in a process of its own, hear its lines to their end; give its exit code or -signal."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        exit_after(run, writing)
    os.close(writing)
    try:
        rest = b""
        while some := os.read(reading, 65_536):
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                hear(pid, line)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def exit_after(run: Callable[[int], None], pipe: int) -> NoReturn:
    code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends what it has started
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run(pipe)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
