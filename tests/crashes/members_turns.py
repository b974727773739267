"""Processes that share a log while one of them comes or goes every two seconds, without a fault.

Rules: each that goes is told to, and answers its own callers first; the one that owns the log goes
as often as another. No command may fail, and no caller may wait longer than a second: what the
machine itself kept a process from running is told beside that, and taken off before it is judged.
At the end the log is judged by what callers were told, and shared projections by the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter as Count
from collections.abc import Iterator
from signal import SIGTERM
from statistics import quantiles
from typing import Final

from tests.support.postgres import Server, postgres_server, wheel_programs

from .members import Said
from .members_judge import judge
from .members_notebooks import TAKEN
from .members_times import longest_wait
from .members_trial import LEASE_SECONDS, Machine, Trial, rows_of
from .members_views import differences

__all__ = ["main"]

MACHINES: Final = 3
TURN_SECONDS: Final = 2.0
GAP_SECONDS: Final = 1.0
_ANSWERS: Final = ("receipt", "counted", TAKEN)


def main(seconds: float, seed: int, join: str, *, postgres: bool) -> int:
    """Let processes come and go for so long; print what that shows, and give the exit status."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server(wheel_programs())) if postgres else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="turns-"))
        schema = "" if server is None else server.new_schema()
        url = f"sqlite:{folder}/log.db"
        if server is not None:
            url = server.url(schema, f"lease={LEASE_SECONDS}")
        trial = Trial([Machine(n, url, 0) for n in range(MACHINES)], None)
        trial.join = join
        turns = _Turns(trial, random.Random(seed), url)
        try:
            turns.run(seconds)
        finally:
            trial.close()
        problems = judge(trial.history, [*rows_of(f"{folder}/log.db", server, schema)])
        if join == "shared" and server is not None:
            problems += _views(server, url, schema)
    problems += turns.told()
    for problem in problems[:10]:
        print(f"seed {seed}: {problem}")
    return int(bool(problems))


def _views(server: Server, url: str, schema: str) -> list[str]:
    def sql(asked: str) -> list[list[str]]:
        return [line.split("|") for line in server.sql(asked).splitlines()]

    return asyncio.run(differences(url, schema, sql))


class _Turns:
    """Those that come and go."""

    def __init__(self, trial: Trial, chance: random.Random, url: str) -> None:
        self._trial = trial
        self._chance = chance
        self._url = url
        self._coming: threading.Thread | None = None
        self._began = 0.0
        self._ended = 0.0
        self._turns: Count[str] = Count()

    def run(self, seconds: float) -> None:
        """Let one come or go at each turn."""
        trial = self._trial
        for machine in trial.machines:
            trial.start(machine)
        trial.let_all_go_on(5)
        self._began = time.monotonic()
        turn = self._began
        while turn < self._began + seconds:
            self._come() if len(trial.machines) == MACHINES else self._go()
            turn += TURN_SECONDS
            time.sleep(max(0.0, turn - time.monotonic()))
        if self._coming is not None:
            self._coming.join()
        trial.let_all_go_on(1)
        self._ended = time.monotonic()

    def _come(self) -> None:
        machine = Machine(MACHINES, self._url, 0)
        self._trial.machines.append(machine)
        self._coming = threading.Thread(target=self._trial.start, args=(machine,))
        self._coming.start()
        self._turns["came"] += 1

    def _go(self) -> None:
        assert self._coming is not None
        self._coming.join()
        owner = self._trial.owner()
        machine = self._chance.choice(self._trial.machines)
        self._trial.machines.remove(machine)
        self._trial.end(machine, SIGTERM)
        self._turns["the owner went" if machine is owner else "went"] += 1

    def told(self) -> Iterator[str]:
        """Print what callers were told and how long they waited; give what is wrong in that."""
        said = [one for one in self._trial.history.said if self._began <= one.at]
        answers = Count(one.what for one in said if "-" in one.key and one.what != "sent")
        waits = sorted(_waits(said))
        longest, stalled = longest_wait(said, "", self._began)
        parts = quantiles(waits, n=1_000)
        print(
            ", ".join(f"{count} {turn}" for turn, count in sorted(self._turns.items()))
            + f" in {self._ended - self._began:.0f} s; "
            + ", ".join(f"{count:,} {answer}" for answer, count in sorted(answers.items()))
            + f"; waits: median {parts[499] * 1_000:.1f} ms, 99 % {parts[989] * 1_000:.0f} ms, "
            f"99.9 % {parts[998] * 1_000:.0f} ms, longest {longest:.2f} s ({stalled:.2f} stalled)"
        )
        if longest - stalled > GAP_SECONDS:
            yield f"a caller waited {longest:.2f} s, of which {stalled:.2f} s were the machine's"
        for answer, count in answers.items():
            if answer not in _ANSWERS:
                yield f"{count} commands were answered with {answer}"


def _waits(said: list[Said]) -> Iterator[float]:
    sent: dict[str, float] = {}
    for one in said:
        if one.what == "sent":
            sent[one.key] = one.at
        elif one.key in sent:
            yield one.at - sent.pop(one.key)
