"""`simulate`: runs a user's program through seeds of crashes and faults, and asks its invariant.

Rules: a seed that fails is run a second time before it is told, so that what does not follow from
the seed alone is told as that. The text of the failure has one line that replays it. Nothing here
knows what the program does.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import msgspec

from ...errors import Damaged, EngineFailed, StoreFailed, StoreRefused, StreamUnreadable, UsageError
from .disk import Disk
from .fence import fence
from .lives import STEPS_MAX, bury, free_the_dead, temporary_disk
from .loop import DeadLock, SimulatedLoop
from .machine import WallClock, simulated_ports
from .process import EngineOf, Invariant, Process, Program, Workload
from .schedule import draw_schedule
from .simulation import Faults, Simulation

__all__ = ["Simulated", "SimulationFailed", "simulate"]

SEED: Final = "FOLDLINE_SEED"
"""Names the one seed to run, as the line that replays says it."""
SEEDS: Final = "FOLDLINE_SEEDS"
"""Says how many seeds to run where the program gives a number: for a long run at night."""
EPOCH: Final = 1_700_000_000.0
"""When a seed begins, in seconds since 1970-01-01 UTC."""
_SHOWN: Final = 40
_SETTLE_SECONDS: Final = 30 * 86_400.0
_DECLARED: Final = (EngineFailed, StoreFailed, StoreRefused, StreamUnreadable, Damaged)


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What was simulated, and what happened in it."""

    seeds: int
    lives: int
    """Processes, the quiet ones included."""
    crashes: int
    """Lives that ended with the power, or with the process."""
    disk_errors: int
    """Calls of the disk that failed."""
    answers: dict[str, int]
    """What clients were answered: "receipt", "answer lost", and errors by their class."""
    steps: int
    """Of the event loop."""
    seconds: float
    """Of virtual time."""
    traces: dict[int, str]
    """A digest of all that happened, by seed: the same each time that it is run."""


class SimulationFailed(AssertionError):
    """A seed broke the invariant, or ended in an error.

    - `seed`: which one, and `problems`: what broke.
    - `replay`: the line for a shell that runs it again.
    - `trace`: a digest of all that happened in it.
    - `story`: what clients were answered, and how lives ended.
    """

    def __init__(
        self, seed: int, problems: Sequence[str], replay: str, trace: str, story: Sequence[str]
    ) -> None:
        self.seed = seed
        self.problems = list(problems)
        self.replay = replay
        self.trace = trace
        self.story = list(story)
        shown = [f"    {line}" for line in self.story[-_SHOWN:]]
        super().__init__(
            "\n".join([f"seed {seed}: {problems[0]}", *problems[1:], *shown, f"replay: {replay}"])
        )


def simulate(
    engine_of: EngineOf,
    workload: Workload,
    invariant: Invariant,
    *,
    seeds: int | Iterable[int] = 100,
    lives: int = 3,
    faults: Faults | None = None,
    settle_seconds: float = _SETTLE_SECONDS,
) -> Simulated:
    """Run a program through crashes and faults on a simulated machine, and ask what must be true.

    - `engine_of(simulation)` makes the engine of each life, with `store=simulation.store` and
      `ports=simulation.ports`, not started.
    - `workload(engine, simulation)` is run in each life but the last, and may be cut off anywhere.
      It sends commands by `simulation.execute`.
    - `invariant(engine, simulation)` is asked at the end of each seed, and asserts. By then the
      last life has sent again what was in doubt, and projections and timers have nothing to do.
    - `seeds`: how many, from 0, or which.
    - `lives`: at most so many lives that end badly, 1 to 20, before the quiet one.
    - `faults`: which troubles there may be; all of them unless given.
    - `settle_seconds`: virtual time that the last life waits for timers and projections; 30 days.

    The same seed gives the same run, in any process. Raises SimulationFailed, an AssertionError, at
    the first seed that fails, and UsageError for arguments that are none of that. Must be called
    where no event loop runs.
    """
    if not 1 <= lives <= 20 or settle_seconds < 0:
        raise UsageError(f"simulate takes 1 to 20 lives and no negative time, not {lives}")
    program = Program(
        engine_of=engine_of, workload=workload, invariant=invariant, settle_seconds=settle_seconds
    )
    try:
        return _simulate(program, seeds, lives, faults or Faults())
    finally:
        free_the_dead()


def _simulate(
    program: Program, seeds: int | Iterable[int], lives: int, faults: Faults
) -> Simulated:
    chosen, expected = _chosen(seeds)
    sums, traces = _Sums(), dict[int, str]()
    for seed in chosen:
        run = _run(program, seed, lives, faults, logs=expected is not None)
        traces[seed] = run.trace
        if run.problems:
            again = _run(program, seed, lives, faults, logs=False)
            raise _failure(seed, run, again.trace, expected)
        sums.add(run)
    return sums.told(traces)


def _chosen(seeds: int | Iterable[int]) -> tuple[Iterable[int], str | None]:
    """Give the seeds to run; with the trace that is expected, if one is to be replayed."""
    asked = os.environ.get(SEED)
    try:
        if asked:
            seed, _, trace = asked.partition(":")
            return [int(seed)], trace
        if isinstance(seeds, int):
            return range(int(os.environ.get(SEEDS) or seeds)), None
    except ValueError as error:
        raise UsageError(f"{SEED} and {SEEDS} are whole numbers: {error}") from None
    return seeds, None


def _failure(seed: int, run: _Run, again: str, expected: str | None) -> SimulationFailed:
    problems = list(run.problems)
    if again != run.trace:
        problems.append(
            "the second run of this seed took another way: something in the program does not "
            "follow from the seed (the clock, uuid4, sets, objects kept between seeds)"
        )
    if expected and expected != run.trace:
        problems.append(
            f"this is not the run that is to be replayed, whose trace was {expected}: the code has "
            "changed since, or it walks a set of texts: then set PYTHONHASHSEED=0 for both"
        )
    return SimulationFailed(
        seed, problems, _replay(f"{seed}:{run.trace}"), run.trace, run.simulation.notes
    )


def _replay(seed: str) -> str:
    """Give the line for a shell that runs a seed again."""
    settings = [f"{SEED}={seed}"]
    hashes = os.environ.get("PYTHONHASHSEED", "")
    if hashes.isdigit():
        settings.insert(0, f"PYTHONHASHSEED={hashes}")
    test = ""
    if "pytest" in sys.modules:  # a program that a test has started has the variable too
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    words = ["-m", "pytest", test] if test else sys.orig_argv[1:]
    return " ".join([*settings, "python", shlex.join(words)])


# -- one seed ------------------------------------------------------------------------------------


class _Run:
    """One seed, and what came of it."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.problems: list[str] = []
        self.crashes = self.disk_errors = self.steps = 0
        self.now = EPOCH

    @property
    def trace(self) -> str:
        return self.simulation.trace


class _Sums:
    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._lives = self._crashes = self._disk_errors = self._steps = 0
        self._seconds = 0.0

    def add(self, run: _Run) -> None:
        self._answers.update(run.simulation.counts)
        self._lives += run.simulation.life
        self._crashes += run.crashes
        self._disk_errors += run.disk_errors
        self._steps += run.steps
        self._seconds += run.now - EPOCH

    def told(self, traces: dict[int, str]) -> Simulated:
        return Simulated(
            seeds=len(traces),
            lives=self._lives,
            crashes=self._crashes,
            disk_errors=self._disk_errors,
            answers=dict(self._answers),
            steps=self._steps,
            seconds=self._seconds,
            traces=traces,
        )


def _run(program: Program, seed: int, lives: int, faults: Faults, *, logs: bool) -> _Run:
    """Live through a seed."""
    random = Random(seed)
    wal_bytes = random.choice((64 * 1024 * 1024, 60_000))
    with temporary_disk(random, wal_bytes) as disk, _logging(logs):
        run = _Run(Simulation(seed, disk))
        lost = random.choice((0.0, 0.1, 0.4)) if faults.lost_answers else 0.0
        for _ in range(random.randrange(1, lives + 1)):
            _live(program, run, disk, random, faults, lost=lost, quiet=False)
            if run.problems:
                return run
            disk.restart()
        _live(program, run, disk, random, faults, lost=0.0, quiet=True)
        if not disk.made and not run.problems:
            raise UsageError(
                "the engine of engine_of is not on the simulated machine: make it with "
                "store=simulation.store and ports=simulation.ports"
            )
        run.disk_errors = len(disk.failed)
    return run


@contextmanager
def _logging(shown: bool) -> Generator[None]:
    """Let the engine be silent about faults that are meant to be, unless a seed is replayed."""
    logger = logging.getLogger("foldline")
    before = logger.level
    if not shown:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _live(
    program: Program,
    run: _Run,
    disk: Disk,
    random: Random,
    faults: Faults,
    *,
    lost: float,
    quiet: bool,
) -> None:
    loop = SimulatedLoop(draw_schedule(random), STEPS_MAX)
    crashes = not quiet and faults.crashes and random.random() < 0.8
    wrong = random.choice((0, 0, -3_600, 3_600)) if faults.clock_jumps and not quiet else 0
    slow = random.choice((0.001, 0.001, 0.02, 1.0)) if faults.slow_disk and not quiet else 0.001
    if crashes:
        disk.crash_at = random.randrange(1, random.choice((60, 400, 400, 1_500)))
        disk.only_killed = random.random() < 0.5
    if not quiet and faults.disk_errors:
        disk.write_failures = random.choice((0.0, 0.0, 0.0, 0.01))
        disk.sync_failures = random.choice((0.0, 0.0, 0.0, 0.02))
        disk.failing = random.choice(("", "log.db", ".views."))
    clock = WallClock(loop, run.now + wrong)
    ports = simulated_ports(disk, loop, random, clock=clock, seconds=slow)
    run.simulation.begin(loop, clock, ports, quiet=quiet, lost=lost)
    process = Process(
        program,
        run.simulation,
        disk,
        loop,
        crashes=crashes,
        stays=None if crashes or random.random() < 0.5 else random.expovariate(1 / 0.1),
        lingers=random.choice((0.0, 0.0, 600.0, 7 * 86_400.0)),
    )
    _execute(run, disk, loop, process)
    run.now = clock.now() / 1e6 - wrong
    if not loop.dead:
        disk.only_killed = random.random() < 0.5
    bury(loop)


def _execute(run: _Run, disk: Disk, loop: SimulatedLoop, process: Process) -> None:
    """Run a life to its end, and note what became of it."""
    disk.on_crash = loop.crash
    failed = len(disk.failed)
    task = loop.create_task(process.main())
    task.add_done_callback(lambda _: loop.stop())
    note, refused = run.simulation.note, list[str]()
    try:
        with fence(logs=True) as refused:
            loop.run_forever()
    except DeadLock as error:
        run.problems.append(f"life {run.simulation.life} comes to no end: {error}")
    for failure in disk.failed[failed:]:
        note(f"disk: {failure}")
    if refused:
        run.problems.append(f"it reached for the real world: {refused[0]}")
    run.problems += process.problems
    if loop.dead:
        note(f"the {'process' if disk.only_killed else 'power'} is gone")
        run.crashes += 1
    elif not run.problems:
        run.problems += _of_the_end(run, disk, task, loop)
        note("it ended in order")
    run.steps += loop.steps
    run.simulation.end()
    disk.dead = disk.dead or not task.done()


def _of_the_end(run: _Run, disk: Disk, task: Any, loop: SimulatedLoop) -> list[str]:
    """Give what is wrong with how a life ended."""
    life, error = run.simulation.life, None if task.cancelled() else task.exception()
    found = [f"life {life}: an error that nobody saw: {each!r}" for each in loop.errors]
    if error is None:
        return found
    if isinstance(error, UsageError):
        raise error
    if run.simulation.is_quiet or not (disk.failed and isinstance(error, _DECLARED)):
        found.append(f"life {life} ended with {error!r}")
    return found
