"""Lives of the engine's process: started, heard, killed and started again, until all is answered.

Rules: the parent has no event loop and no thread, and never opens the store: it polls what the
process writes down. Moments of kills are drawn from the seed, between none and twice the interval
after a life began, so that some fall into the recovery from the one before. A slow machine is given
time: of two lives in turn one answers before it is killed, and a run has no end in peace before one
such kill. What was not answered is sent again by the next life, and so are some
commands that were: their receipts must be the same.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from .book import Book
from .child import Life, Numbers
from .load import Phase
from .record import Shared

__all__ = ["Ended", "Lives", "Seen"]

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.05
SILENCE_SECONDS_MAX = 60.0
"""How long a process may say nothing, or answer nothing of what is due."""
AGAIN_RECENT = 40
AGAIN_ANY = 20
"""Acknowledged commands that the next life sends again: of the last thousand, and of all."""


class Ended(Exception):
    """The engine's process ended by itself, or hangs."""


class Seen(msgspec.Struct):
    """What befell one life; times by `time.monotonic()`."""

    number: int
    started_at: float
    opening: float = 0.0
    """Seconds in which the engine opened its store."""
    first_answer_at: float | None = None
    killed_at: float | None = None


class Lives:
    """The lives of one run, one after the other."""

    def __init__(
        self,
        folder: Path,
        store: str,
        book: Book,
        *,
        projections: bool,
        clients: int,
        kill_every: float,
        seed: int,
        show: Callable[[], None],
    ) -> None:
        self.seen: list[Seen] = []
        self.numbers: list[tuple[int, Numbers]] = []
        """What the processes told of themselves, with the number of their life."""
        self._folder = folder
        self._store = store
        self._book = book
        self._projections = projections
        self._clients = clients
        self._kill_every = kill_every
        self._random = Random(seed)
        self._show = show
        self._kill_at = math.inf
        self._heard_at = self._answered_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    # -- one life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the next life."""
        book, number = self._book, len(self.seen)
        again = self._again()
        book.ask_again(again)
        self._record = Shared()
        life = Life(
            store=self._store,
            projections=self._projections,
            clients=self._clients,
            sample=str(self._folder / "sample.json"),
            answers=self._record.descriptor,
            numbers=str(self._folder / f"numbers-{number}"),
            again=sorted({*again, *book.open()}),
            next=book.next,
        )
        spec = self._folder / f"life-{number}.json"
        spec.write_bytes(msgspec.json.encode(life))
        self._told = _Tail(Path(life.numbers))
        with self._errors(number).open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.loadtest.child", str(spec)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                pass_fds=(life.answers,),
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
                stderr=errors,
            )
        now = time.monotonic()
        self._heard_at = self._answered_at = now
        self.seen.append(Seen(number, now))
        if self._kill_every:
            self._kill_at = now + self._random.uniform(0, 2 * self._kill_every)
        for numbers in book.phases:
            self._send(numbers.phase)

    def _again(self) -> set[int]:
        book, random = self._book, self._random
        if not book.next:
            return set()
        recent = random.sample(
            range(max(0, book.next - 1_000), book.next), min(AGAIN_RECENT, book.next)
        )
        anywhere = [random.randrange(book.next) for _ in range(AGAIN_ANY)]
        return {number for number in (*recent, *anywhere) if book.acknowledged(number)}

    def _errors(self, number: int) -> Path:
        return self._folder / f"errors-{number}"

    def _send(self, phase: Phase | None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(phase) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which is noticed elsewhere

    # -- what goes on -------------------------------------------------------------------------

    def begin(self, phase: Phase) -> None:
        """Let the clients send a phase."""
        self._book.begin(phase)
        self._send(phase)

    def wait(self, until: Callable[[], bool]) -> None:
        """Hear, kill and start again until something holds; raise Ended."""
        while True:
            self._hear()
            if until():
                return
            self._kill_if_due()
            process = self._alive()
            if process.poll() is not None:
                self._over()
                raise Ended(f"the engine's process ended by itself: {self._last_words()}")
            self._end_if_hung()
            self._show()
            time.sleep(POLL_SECONDS)

    def _end_if_hung(self) -> None:
        oldest = self._heard_at
        if not self._book.complete:
            due = self._book.phases[-1].phase.begin
            oldest = min(oldest, max(due, self._answered_at))
        if time.monotonic() - oldest > SILENCE_SECONDS_MAX:
            self.kill()
            raise Ended(f"the engine's process gave no answer for {SILENCE_SECONDS_MAX:g} s")

    def _alive(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "a life has been started"
        return self._process

    def _hear(self) -> None:
        life = self.seen[-1]
        for record in self._record.records():
            self._book.note(record)
            if life.first_answer_at is None:
                life.first_answer_at = record.at
            self._answered_at = self._heard_at = time.monotonic()
        for line in self._told.lines():
            numbers = msgspec.json.decode(line, type=Numbers)
            life.opening = numbers.opening
            self.numbers.append((life.number, numbers))
            self._heard_at = time.monotonic()

    def _kill_if_due(self) -> None:
        if time.monotonic() < self._kill_at or not self._book.phases:
            return
        if self._book.phases[-1].phase.over and (self._has_struck() or self._book.complete):
            self._kill_at = math.inf  # the last life is left in peace
            return
        if all(life.first_answer_at is None for life in self.seen[-2:]):
            return
        self.kill()
        self.start()

    def _has_struck(self) -> bool:
        return any(life.killed_at and life.first_answer_at for life in self.seen)

    def _over(self) -> None:
        """Hear what an ended process has left."""
        self._hear()
        self._record.close(self._folder / f"answers-{self.seen[-1].number}")

    def kill(self) -> None:
        """Kill -9 the process, and hear what it has left."""
        process = self._alive()
        self.seen[-1].killed_at = time.monotonic()
        process.kill()
        process.communicate()
        self._over()

    def end(self) -> None:
        """Let the process end in peace, and wait for it; raise Ended where it does not."""
        process = self._alive()
        self._kill_at = math.inf
        self._send(None)
        self._wait_for_end(process)
        self._over()
        if process.returncode:
            raise Ended(f"the engine's process did not end in peace: {self._last_words()}")

    def _wait_for_end(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            self._hear()
            self._end_if_hung()
            self._show()
            time.sleep(POLL_SECONDS)

    def give_up(self) -> None:
        """End what still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _last_words(self) -> str:
        said = self._errors(len(self.seen) - 1).read_text(errors="replace").strip()
        status: Any = self._alive().returncode
        return f"status {status}; {said[-2_000:] or 'it said nothing'}"


class _Tail:
    """Reads the whole lines of a file that another process still appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0

    def lines(self) -> list[bytes]:
        """Give what came since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._place)
            some = file.read()
        whole = some.rfind(b"\n") + 1
        self._place += whole
        return some[:whole].splitlines()
