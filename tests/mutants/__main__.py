"""`python -m tests.mutants`: plants each bug in a copy of the tree; shows which test catches it.

A mutant is a TOML file beside this one: the promise or rule that it breaks, the file, the text that
is replaced (it must stand there exactly once, so that a mutant cannot rot unseen) and what replaces
it, and the tests that are run. A mutant is caught when those tests fail, by an assertion or by
their time; one that names no tests is hunted by the simulation. What fails before a test begins,
such as an import, catches nothing: the mutant is broken. First the same tests are run on an
unchanged copy, and must pass: otherwise a broken test would pass for a sharp one. `--passed` leaves
this out, for whoever has just run the tests of this tree; that they pass in a copy was seen when
they were recorded.

`catches.json` holds the test, or the seed, that caught each mutant last. That alone is run first,
which takes a third of the time. If it lets the mutant through, all of the mutant's tests are run.
`--record` writes the file, and `--all` runs as if there were none.

`--due` plants only some, for whoever runs this after each few commits (`tests.mutants.due`).

With `--seeds N` the simulation alone hunts every mutant that it can see, those marked `simulated`,
and the seeds are counted. The exit status is 1 if any mutant survives.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from tests.mutants.due import due
from tests.mutants.workshop import Run, Workshop, make_model

T = TypeVar("T")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CATCHES = HERE / "catches.json"
PASSED = 0
"""The exit status of pytest where all that was asked for has passed."""
SEEDS_WITHOUT_TESTS = 1_000
"""How many seeds hunt a mutant that names no tests."""
MUTANT_SECONDS = {"test_seconds_max": 20, "seconds_max": 120}
"""A mutant may hang the tests; a hang that long is a catch."""
UNCHANGED_SECONDS = {"test_seconds_max": 120, "seconds_max": 1_800}
"""All tests together, without any mutant, where a hang is none of theirs."""


class Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One planted bug."""

    breaks: str
    """The promise or rule, in words."""
    promise: int
    """Its number in docs/reference/promises.md."""
    file: str
    old: str
    new: str
    tests: list[str]
    """What pytest is given: files or node ids; nothing for a mutant that only seeds find."""
    simulated: bool = False
    """Whether the simulation is expected to find it."""
    postgres: bool = False
    """Whether that is the one over a modelled PostgreSQL server."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a mutant."""

    name: str
    mutant: Mutant
    caught_by: str
    """The first failing test; empty where the mutant survived."""
    because: str = ""
    """What that test failed by, in a line."""
    problem: str = ""
    """Why the mutant says nothing: its text is not there, or its tests fail without it."""
    seeds: int = 0
    """How many seeds it took to find it, where the simulation did."""


def load(names: list[str]) -> dict[str, Mutant]:
    """Read the mutants, or those of them whose names contain one of `names`."""
    found = {
        path.stem: msgspec.convert(tomllib.loads(path.read_text()), Mutant)
        for path in sorted(HERE.glob("*.toml"))
    }
    if not names:
        return found
    return {stem: m for stem, m in found.items() if any(name in stem for name in names)}


def touches(mutant: Mutant, files: list[str]) -> bool:
    """Tell whether a mutant, or a test of it, is of one of these files."""
    return mutant.file in files or any(t.partition("::")[0] in files for t in mutant.tests)


def choose_due(mutants: dict[str, Mutant]) -> dict[str, Mutant]:
    """Leave those that what changed lately may let through, and a part of the others in turn."""
    here, catches = HERE.relative_to(ROOT).as_posix(), load_catches()
    files = {
        name: [
            f"{here}/{name}.toml",
            mutant.file,
            *(test.partition("::")[0] for test in [*mutant.tests, catches.get(name, "")]),
        ]
        for name, mutant in mutants.items()
    }
    chosen = due(files, ROOT)
    print(f"{len(chosen)} of {len(mutants)} mutants are due")
    return {name: mutant for name, mutant in mutants.items() if name in chosen}


def load_catches() -> dict[str, str]:
    """Read which test, or which seed, caught which mutant last."""
    return msgspec.json.decode(CATCHES.read_bytes(), type=dict[str, str])


def record(outcomes: list[Outcome]) -> None:
    """Write which test, or which seed of the simulation, caught which mutant."""
    kept = load([])
    caught = {name: test for name, test in load_catches().items() if name in kept}
    caught |= {
        outcome.name: catch
        for outcome in outcomes
        if (catch := catch_of(outcome.caught_by)) is not None
    }
    text = msgspec.json.encode(dict(sorted(caught.items())))
    CATCHES.write_bytes(msgspec.json.format(text, indent=1) + b"\n")


def catch_of(caught_by: str) -> str | None:
    """Give the test that caught a mutant, without its parameters, or the seed; None without."""
    seed = re.match(r"seed \d+", caught_by)
    catch = seed[0] if seed else re.split(r"\[| by ", caught_by)[0]
    return catch if seed or "::" in catch else None


def seed_of(tests: list[str]) -> int | None:
    """Give the seed that is to hunt a mutant in place of tests, where a record names one."""
    seed = re.fullmatch(r"seed (\d+)", tests[0]) if tests else None
    return int(seed[1]) if seed else None


def plant(shop: Workshop, name: str, mutant: Mutant, seeds: int = 0) -> Outcome:
    """Plant one bug in a copy and run its tests, or so many seeds of the simulation."""
    text = (shop.folder / mutant.file).read_text()
    count = text.count(mutant.old)
    if count != 1:
        return Outcome(name, mutant, "", problem=f"its text stands {count} times in {mutant.file}")
    with shop.changed(mutant.file, text.replace(mutant.old, mutant.new)):
        seed = seed_of(mutant.tests)
        if seeds or not mutant.tests or seed is not None:
            count = 1 if seed is not None else seeds or SEEDS_WITHOUT_TESTS
            found, caught_by = simulate(shop, seed or 0, count, postgres=mutant.postgres)
            return Outcome(name, mutant, caught_by, seeds=found)
        return judge(name, mutant, shop.run(mutant.tests, **MUTANT_SECONDS))


def judge(name: str, mutant: Mutant, run: Run) -> Outcome:
    """Tell by how its tests ended what became of a mutant: only a test that failed catches it."""
    if run.status == PASSED:
        return Outcome(name, mutant, "")
    # A fixture that fails is an error of its test; an error without a test is none of its own. What
    # a failed test leaves behind may end pytest itself with another status.
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)(?: - (.*))?", run.output, re.MULTILINE)
    if failed:
        return Outcome(name, mutant, failed[1], failed[2] or "")
    if run.status < 0 or "Timeout (" in run.output:
        return Outcome(name, mutant, f"{run.begun or 'pytest'} by a hang or a death ({run.status})")
    return Outcome(
        name, mutant, "", problem=f"pytest ended with {run.status}: {run.output[-1_000:]}"
    )


def shown(output: str) -> str:
    """Shorten what pytest printed to where it tells what failed, or hung."""
    begin = max(output.find("Timeout ("), output.find("short test summary"), 0)
    return output[begin:][:2_000] if begin else output[-2_000:]


def simulate(shop: Workshop, first: int, seeds: int, *, postgres: bool) -> tuple[int, str]:
    """Simulate a copy; give how many seeds it took to find the bug, and what showed it."""
    command = [sys.executable, "-m", "tests.simulation", "--jobs", "1"]
    command += ["--first", str(first), "--seeds", str(seeds), "--stop"]
    command += ["--postgres"] if postgres else []
    done = subprocess.run(
        command, cwd=shop.folder, env=shop.environment, capture_output=True, text=True
    )
    if done.returncode == 0:
        return 0, ""
    found = re.search(r"^seed (\d+): .*\n *(.*)", done.stdout, re.MULTILINE)
    if found is None:
        return 1, f"an end of its own: {done.stderr[-300:]}"
    return int(found[1]) - first + 1, f"seed {found[1]}: {found[2][:100]}"


def tell_seeds(outcomes: list[Outcome]) -> None:
    """Sum up what the simulation found, and how soon."""
    seeds = sorted(outcome.seeds for outcome in outcomes if outcome.seeds)
    if seeds:
        middle = statistics.median(seeds)
        print(f"found by seeds: {len(seeds)} of {len(outcomes)}; median {middle:g}, all {seeds}")


def check_unchanged(shops: Shops, mutants: dict[str, Mutant]) -> str:
    """Run all tests of the mutants on unchanged copies, side by side; give what failed."""
    tested = (m.tests for m in mutants.values() if seed_of(m.tests) is None)
    tests = sorted({test for tests in tested for test in tests})
    parts = [part for n in range(shops.count) if (part := tests[n :: shops.count])]

    def check(shop: Workshop, part: list[str]) -> str:
        run = shop.run(part, **UNCHANGED_SECONDS)
        return "" if run.status == PASSED else shown(run.output)

    return "\n".join(filter(None, shops.map(check, parts)))


def report(outcome: Outcome) -> None:
    """Print what became of a mutant."""
    verdict = f"caught by {outcome.caught_by}" if outcome.caught_by else "SURVIVED"
    if outcome.problem:
        verdict = f"BROKEN: {outcome.problem}"
    print(f"{outcome.name} (promise {outcome.mutant.promise}: {outcome.mutant.breaks})")
    print(f"    {verdict}{f' ({outcome.because})' * bool(outcome.because)}", flush=True)


class Shops:
    """Workshops side by side: each call takes one that is free."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        self.count = count
        self._free: queue.SimpleQueue[Workshop] = queue.SimpleQueue()
        model = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutant-")))
        make_model(model)
        for _ in range(count):
            self._free.put(stack.enter_context(Workshop(model)))
        self._pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(count))

    def map(self, call: Callable[..., T], *values: Iterable[Any]) -> Iterator[T]:
        """Call for each of the values; give what comes, in their order."""

        def in_one(*each: Any) -> T:
            shop = self._free.get()
            try:
                return call(shop, *each)
            finally:
                self._free.put(shop)

        return self._pool.map(in_one, *values)


def hunt(
    shops: Shops, mutants: dict[str, Mutant], seeds: int, *, passed: bool = False
) -> Iterator[Outcome]:
    """Plant mutants side by side; raise `RuntimeError` if their tests fail without any."""
    failed = "" if seeds or passed else check_unchanged(shops, mutants)
    if failed:
        raise RuntimeError(f"the tests fail without any mutant: {failed}")
    yield from shops.map(partial(plant, seeds=seeds), mutants, mutants.values())


def hunt_by_catches(shops: Shops, mutants: dict[str, Mutant], *, passed: bool) -> Iterator[Outcome]:
    """Try the test that caught each mutant last, then all tests of those that it let through."""
    catches = load_catches()
    quick = {
        name: replace(m, tests=[catches[name]]) for name, m in mutants.items() if name in catches
    }
    caught: set[str] = set()
    try:
        for outcome in hunt(shops, quick, 0, passed=passed):
            if outcome.caught_by:
                caught.add(outcome.name)
                yield outcome
    except RuntimeError as error:  # a test that was renamed; run all tests of each mutant
        print(error, flush=True)
    others = {name: m for name, m in mutants.items() if name not in caught}
    yield from hunt(shops, others, 0, passed=passed)


def begin(
    mutants: dict[str, Mutant], jobs: int, seeds: int, *, by_catches: bool, passed: bool
) -> Iterator[Outcome]:
    """Make the workshops, and hunt the mutants in them."""
    with ExitStack() as stack:
        shops = Shops(jobs, stack)
        if seeds or not by_catches:
            yield from hunt(shops, mutants, seeds)
        else:
            yield from hunt_by_catches(shops, mutants, passed=passed)


def main() -> int:
    """Run the mutants and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all mutants without")
    parser.add_argument(
        "--of", nargs="+", metavar="FILE", help="only mutants of these files or of tests in them"
    )
    parser.add_argument(
        "--due", action="store_true", help="only what changed lately, and a part by turns"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="as many at once; tests wait a lot"
    )
    parser.add_argument(
        "--seeds", type=int, default=0, help="let the simulation find them, in so many seeds"
    )
    parser.add_argument("--all", action="store_true", help="run all tests of each mutant at once")
    parser.add_argument(
        "--passed", action="store_true", help="the recorded tests have passed on this tree"
    )
    parser.add_argument("--record", action="store_true", help="write the catching tests down")
    options = parser.parse_args()
    mutants = load(options.names)
    if options.of is not None:
        mutants = {name: m for name, m in mutants.items() if touches(m, options.of)}
        if not mutants:
            print("no mutant is of these files")
            return 0
    if options.due:
        mutants = choose_due(mutants)
    if options.seeds and not options.names:
        mutants = {name: mutant for name, mutant in mutants.items() if mutant.simulated}
    outcomes: list[Outcome] = []
    try:
        for outcome in begin(
            mutants,
            options.jobs,
            options.seeds,
            by_catches=not options.all,
            passed=options.passed and not options.record,
        ):
            report(outcome)
            outcomes.append(outcome)
            if options.record:  # at once: a whole run takes long, and may be ended
                record([outcome])
    except RuntimeError as error:
        print(error)
        return 1
    survivors = sum(not outcome.caught_by for outcome in outcomes)
    if options.seeds:
        tell_seeds(outcomes)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants caught")
    return 1 if survivors or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
