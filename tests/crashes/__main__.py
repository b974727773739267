"""`python -m tests.crashes kills --trials N`: real processes that die; what was promised must hold.

`python -m tests.crashes power --trials N`: a real file system that loses power; it needs root.
`python -m tests.crashes members`: processes that share a log, of which some die; with
`--store postgresql` as on machines of their own, whose network is cut and server restarted.
With `--seconds 600 --seed N` it is one trial that goes on for so long; with `--spread` each of them
owns a part of the log in PostgreSQL.
`python -m tests.crashes turns --seconds 120 --store postgresql --join shared`: one of them comes or
goes every two seconds, and no caller may notice.
`python -m tests.crashes postgres`: a PostgreSQL server whose connections break and which dies.
`python -m tests.crashes patroni --packages FOLDER`: a cluster whose leader goes in three ways,
under one engine, and under processes that share the log in three ways (`--join` names some).
`python -m tests.crashes views --trials 200`: so many engines killed in the middle of batches of
views, their server again and again meanwhile; then so many servers killed under one engine.
`postgres` ends with some of both.
`python -m tests.crashes archive`: closed streams that are moved while the power goes.
The exit status is 1 where a promise was broken, and 77 where this machine cannot do it.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import msgspec

from .archive import trial as archive_trial
from .judge import judge
from .kills import run_kills
from .members_trial import main as run_members
from .members_turns import main as run_turns
from .patroni import ALL as JOINS
from .patroni import main as run_patroni
from .patroni_cluster import why_not as why_not_patroni
from .postgres import faults_of
from .postgres import main as run_postgres
from .postgres_servers import main as run_postgres_servers
from .postgres_views import main as run_postgres_views
from .power import own_mounts, run_power, why_not
from .trial import exit_after, write

CANNOT = 77
KINDS = ("kills", "power", "archive", "postgres", "views", "members", "turns", "patroni")
TURNS_SECONDS = 120.0
ROUNDS = 10
"""Deaths and other disturbances of one trial of members."""
SHOWN = 5
"""Findings of one trial that are printed."""


class Verdict(msgspec.Struct):
    """What became of one seed."""

    seed: int
    problems: list[str]
    ends: list[str]
    receipts: int
    events: int


def judged(options: argparse.Namespace, seed: int, folder: Path) -> Verdict:
    """Run one trial and judge it."""
    if options.what == "archive":
        problems = archive_trial(seed, folder / f"archive-{seed}")
        return Verdict(seed, problems, ["archive"], 0, 0)
    if options.what == "kills":
        story = run_kills(seed, folder)
    else:
        story = run_power(seed, folder, lying=options.lying)
    receipts = {told.operation for told in story.told if told.what == "receipt"}
    events = len(story.images[-1].log) if story.images else 0
    return Verdict(seed, judge(story), story.ends, len(receipts), events)


def work(options: argparse.Namespace, seeds: Sequence[int], folder: Path, pipe: int) -> None:
    """Run trials one after the other, and write their verdicts into the pipe."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    gc.freeze()
    if options.what == "power":
        own_mounts()
    for seed in seeds:
        write(pipe, msgspec.json.encode(judged(options, seed, folder)) + b"\n")


class Workers:
    """Processes that run trials side by side; forked before this one has any other thread."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._pids: list[int] = []
        self._pipes: list[int] = []
        seeds = range(options.first, options.first + options.trials)
        for job in range(min(options.jobs, options.trials)):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                exit_after(partial(work, options, seeds[job :: options.jobs], folder), writing)
            os.close(writing)
            self._pids.append(pid)
            self._pipes.append(reading)

    def verdicts(self) -> Iterator[Verdict]:
        """Give what they find, as they find it."""
        rest = dict.fromkeys(self._pipes, b"")
        while rest:
            for pipe in select.select(list(rest), [], [])[0]:
                some = os.read(pipe, 1 << 20)
                if not some:
                    del rest[pipe]
                    continue
                *lines, rest[pipe] = (rest[pipe] + some).split(b"\n")
                yield from (msgspec.json.decode(line, type=Verdict) for line in lines)

    def end(self) -> None:
        """End those that still run, with what they have started, and wait for them."""
        for pipe in self._pipes:
            os.close(pipe)
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def run(options: argparse.Namespace) -> int:
    """Run the trials and print what broke; give how many seeds did."""
    began = time.perf_counter()
    died: Counter[str] = Counter()
    lives = receipts = events = bad = done = 0
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    workers = Workers(options, folder)
    try:
        for verdict in workers.verdicts():
            done += 1
            lives += len(verdict.ends)
            receipts += verdict.receipts
            events += verdict.events
            died.update(end.partition(" #")[0] for end in verdict.ends)
            if verdict.problems:
                bad += 1
                tell(options, verdict)
                if options.stop:
                    break
    finally:
        workers.end()
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - began
    for end, count in sorted(died.items()):
        print(f"{count:6} {end}")
    print(
        f"{done} trials, {bad} bad; {lives} lives, {receipts} commands acknowledged, {events} "
        f"events; {seconds:.1f} s, {done / seconds:.1f} trials/s"
    )
    if done < options.trials and not options.stop:
        print(f"{options.trials - done} trials did not come to their end")
        return 1
    return bad


def tell(options: argparse.Namespace, verdict: Verdict) -> None:
    """Print what was found, and how to see it again."""
    print(f"seed {verdict.seed}: {len(verdict.problems)} problems; its lives: {verdict.ends}")
    for problem in verdict.problems[:SHOWN]:
        print(f"    {problem}")
    lying = " --lying" if options.lying else ""
    print(
        f"    again: python -m tests.crashes {options.what} --trials 1 "
        f"--first {verdict.seed}{lying}",
        flush=True,
    )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--trials", type=int, default=100, help="for postgres, parts in 100")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--wire", choices=("tcp", "nats"), default="tcp", help="between members in PostgreSQL"
    )
    parser.add_argument("--spread", action="store_true", help="each member owns a part of the log")
    parser.add_argument("--persons", action="store_true", help="members: with personal data")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of one trial of members")
    parser.add_argument("--packages", default="", help="a folder that has Patroni and psycopg")
    parser.add_argument(
        "--join", action="append", choices=JOINS, help="patroni, turns: who writes the log"
    )
    parser.add_argument("--seconds", type=float, default=0, help="of the one trial of members")
    parser.add_argument("--first", "--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--stop", action="store_true", help="end at the first bad seed")
    parser.add_argument(
        "--lying", action="store_true", help="power: let syncs do nothing; what follows is a loss"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    if options.what == "postgres":
        broken = run_postgres(faults_of(options.trials), options.first)
        return run_views(2 * options.trials, options.trials // 3, options.first) or broken
    if options.what == "views":
        return run_views(options.trials, options.trials, options.first)
    if options.what == "members":
        in_server = options.store == "postgresql"
        trials = 1 if options.seconds else options.trials
        return run_members(
            trials,
            options.rounds,
            options.first,
            postgres=in_server,
            on_nats=in_server and options.wire == "nats",
            is_spread=in_server and options.spread,
            with_persons=options.persons,
            seconds=options.seconds,
        )
    if options.what == "turns":
        join = (options.join or JOINS[1:])[0]
        postgres = options.store == "postgresql"
        return run_turns(options.seconds or TURNS_SECONDS, options.first, join, postgres=postgres)
    if options.what == "patroni":
        if why := why_not_patroni(options.packages):
            print(f"no cluster can run here: {why}")
            return CANNOT
        return run_patroni(options.packages, options.join or JOINS)
    why = why_not() if options.what == "power" else ""
    if why:
        print(f"the power cannot be cut here: {why}")
        return CANNOT
    return 1 if run(options) else 0


def run_views(engines: int, servers: int, first: int) -> int:
    """Kill engines and servers in the middle of batches of views."""
    broken = run_postgres_views(engines, max(1, engines // 20), first)
    return run_postgres_servers(servers, first) or broken


def interrupted(*_: object) -> NoReturn:
    """Leave as at the end, so that nothing stays behind."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
