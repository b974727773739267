"""`python -m tests.simulation --seeds N`: lives through seeds, and prints what broke.

`--ledger FILE` writes down what was run, and skips what the file says this code was run with. The
exit status is 1 where a promise was broken; each bad seed comes with the line that replays it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .ledger import Ledger, hash_of_code
from .points import EVERY, Every, places
from .sweep import (
    Finding,
    run_worlds,
    tell_nothing,
    try_duties_seed,
    try_joining_seed,
    try_mixing_seed,
    try_persons_seed,
    try_postgres_seed,
    try_seed,
    try_spread_seed,
)

SAVED_EVERY: Final = 500
_COMMAND: Final = "python -m tests.simulation"


def main() -> int:
    """Run what is asked for; 1 if any of it broke a promise."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings are walked in an order of their hashes: pinned, so that seeds replay.
        os.environ["PYTHONHASHSEED"] = "0"
        command = [sys.executable, "-m", __package__ or "", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
    tell_nothing()
    options = _options()
    if options.every:
        return max(_try_every(options, every) for every in options.every)
    return _sweep(options, _ledger(options.ledger))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, help="how many (200; of places: all)")
    parser.add_argument("--first", type=int, help="the first one (0; of places: 1)")
    parser.add_argument(
        "--every",
        action="append",
        choices=EVERY,
        help="not seeds, but every place of one small world: may be given several times",
    )
    parser.add_argument(
        "--postgres", action="store_true", help="seeds of engines over a modelled PostgreSQL server"
    )
    parser.add_argument(
        "--joining", action="store_true", help="seeds of engines that share a log on such a server"
    )
    parser.add_argument(
        "--spread", action="store_true", help="seeds of engines that each own a part of the log"
    )
    parser.add_argument(
        "--duties", action="store_true", help="seeds of engines that share a log's projections"
    )
    parser.add_argument(
        "--mixing",
        action="store_true",
        help="seeds that mix claims, joint decisions, reactions, processes and timers",
    )
    parser.add_argument(
        "--persons", action="store_true", help="seeds of people with personal data who are erased"
    )
    parser.add_argument("--step", type=int, default=1, help="of places: only every so many-th")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--stop", action="store_true", help="end at the first bad seed")
    parser.add_argument("--ledger", type=Path, help="a file of what was run, to go on from")
    parser.add_argument("--progress", action="store_true", help="say how far it is, on stderr")
    options = parser.parse_args()
    other = options.postgres or options.joining or options.spread or options.mixing
    other = other or options.duties or options.persons
    if other and (options.every or options.ledger):
        parser.error("this world goes with seeds alone: it has no places and no ledger")
    return options


def _ledger(path: Path | None) -> Ledger | None:
    return None if path is None else Ledger(path, hash_of_code(), platform.python_version())


def _sweep(options: argparse.Namespace, ledger: Ledger | None) -> int:
    first, count = options.first or 0, options.seeds if options.seeds is not None else 200
    seeds: Iterable[int] = range(first, first + count)
    if ledger is not None:
        seeds = ledger.left(first, count)
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    done, bad = 0, 0
    world, replay = try_seed, f"{_COMMAND} --seeds 1 --first"
    if options.postgres:
        world, replay = try_postgres_seed, f"{_COMMAND} --postgres --seeds 1 --first"
    if options.joining:
        world, replay = try_joining_seed, f"{_COMMAND} --joining --seeds 1 --first"
    if options.duties:
        world, replay = try_duties_seed, f"{_COMMAND} --duties --seeds 1 --first"
    if options.spread:
        world, replay = try_spread_seed, f"{_COMMAND} --spread --seeds 1 --first"
    if options.mixing:
        world, replay = try_mixing_seed, f"{_COMMAND} --mixing --seeds 1 --first"
    if options.persons:
        world, replay = try_persons_seed, f"{_COMMAND} --persons --seeds 1 --first"
    with contextlib.closing(run_worlds(world, seeds, options.jobs)) as findings:
        for finding in findings:
            done += 1
            counts.update(finding.counts)
            if finding.problems:
                bad += 1
                tell_bad(finding, replay)
            if ledger is not None:
                ledger.add(finding.number, bad=bool(finding.problems))
            if done % SAVED_EVERY == 0:
                _save(ledger, options.progress, done, began)
            if finding.problems and options.stop:
                break
    _save(ledger, options.progress, done, began)
    seconds = time.perf_counter() - began
    print(f"{done} seeds, {bad} bad, {done / seconds:.1f} seeds/s: {_told(counts)}")
    return 1 if bad else 0


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _try_every(options: argparse.Namespace, every: Every) -> int:
    began = time.perf_counter()
    count, world = places(every)
    first = options.first or 1
    last = count if options.seeds is None else min(count, first + options.seeds - 1)
    chosen = range(first, last + 1, options.step)
    counts: Counter[str] = Counter()
    bad = 0
    with contextlib.closing(run_worlds(world, chosen, options.jobs)) as findings:
        for finding in findings:
            counts.update(finding.counts)
            if finding.problems:
                bad += 1
                tell_bad(finding, f"{_COMMAND} --every '{every}' --seeds 1 --first")
                if options.stop:
                    break
    seconds = time.perf_counter() - began
    tried = f"{len(chosen)} of {count} places"
    print(f"every {every}: {tried}, {bad} bad, {seconds:.1f} s: {_told(counts)}")
    return 1 if bad else 0


def tell_bad(finding: Finding, replay: str) -> None:
    """Print what broke, and how to see it again."""
    count, number = len(finding.problems), finding.number
    print(f"seed {number}: {count} problems; replay: {replay} {number}")
    for problem in finding.problems[:4]:
        print(f"    {problem}")
    print(f"    {finding.swarm}", flush=True)


def _save(ledger: Ledger | None, progress: bool, done: int, began: float) -> None:
    if ledger is not None:
        ledger.save()
    if progress:
        rate = done / (time.perf_counter() - began)
        print(f"{done} seeds, {rate:.1f}/s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
