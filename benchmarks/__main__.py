"""`python -m benchmarks SCENARIO`: measures, and tells the figures with all their conditions.

    python -m benchmarks walk                  one scenario; `walk --help` tells its options
    python -m benchmarks all --json now.json   all of them
    python -m benchmarks --quick               all in a small size: does everything work?
    python -m benchmarks compare A.json B.json what became slower, by the ratios to the floors
    python -m benchmarks chart now.json now    now.svg and now.png

Rules: a scenario is a file of this package with `add_options(parser)` and `scenario(options)`, and
is imported when it is run. Exit status 0 says that every cell gave its figures and left behind what
it had acknowledged (of `compare`: no regression); nothing here fails because a figure is small.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import chart, compare, machine, peers, report, runner
from .scenario import Scenario

SCENARIOS: Final = {
    "walk": "walk",
    "hot": "hot",
    "open": "open_loop",
    "cold": "cold",
    "feed": "feed",
    "project": "project",
    "watch": "watch",
    "memory": "memory",
    "start": "start",
    "busy": "busy",
    "grow": "grow",
    "relay": "relay",
    "members": "members",
    "spread": "spread",
    "reactions": "reactions",
    "backup": "backup",
    "copy": "copy",
    "files": "files",
    "transfers": "transfers",
    "courses": "courses",
    "timers": "timers",
    "tenants": "tenants",
    "archive": "archive",
    "console": "console",
}
"""The file of each scenario, in the order in which `all` runs them."""
OTHERS: Final = {"compare": compare.main, "chart": chart.main}


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; give the exit status."""
    what, rest = _split(arguments)
    if what in OTHERS:
        return OTHERS[what](rest)
    if what == "all":
        names = list(SCENARIOS)
    elif what in SCENARIOS:
        names = [what]
    else:
        known = ", ".join([*SCENARIOS, "all", *OTHERS])
        print(f"there is no {what!r} here; there are: {known}\n\n{__doc__}", file=sys.stderr)
        return 2
    try:
        return _run(names, what, rest)
    except peers.PeerMissing as error:
        print(error, file=sys.stderr)
        return 2


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return "all", arguments


def _run(names: Sequence[str], what: str, rest: Sequence[str]) -> int:
    chosen = [(name, *_prepare(name, what, rest)) for name in names]
    results: list[report.Result] = []
    about = machine.describe(chosen[0][2].folder)
    for _, scenario, options in chosen:
        result = runner.run(
            scenario, rounds=options.rounds, warm_up=options.warm_up, folder=options.folder
        )
        results.append(result)
        print(report.table(result, about), end="\n\n", flush=True)
        if options.json:
            # After each: a later scenario that goes wrong takes nothing of this one with it.
            report.write(report.Report(about, results), options.json)
        if options.chart:
            chart.draw(report.Report(about, results), options.chart)
    return 0


def _prepare(name: str, what: str, rest: Sequence[str]) -> tuple[Scenario, argparse.Namespace]:
    """Read the command line for one scenario, and let the scenario make its cells."""
    module = importlib.import_module(f".{SCENARIOS[name]}", __package__)
    parser = _parser(f"python -m benchmarks {what}", module.__doc__ if what == name else __doc__)
    if what == name:
        module.add_options(parser)
        options = parser.parse_args(rest)
    else:
        options = parser.parse_args(rest)
        own = argparse.ArgumentParser()
        module.add_options(own)
        own.parse_args([], options)
    quick = options.quick
    options.rounds = options.rounds or (1 if quick else runner.FEWEST_ROUNDS)
    options.seconds = options.seconds or (0.1 if quick else 2.0)
    if options.warm_up is None:
        options.warm_up = 0 if quick else 1
    made: Scenario = module.scenario(options)
    return made, options


def _parser(prog: str, text: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    few, seconds = runner.FEWEST_ROUNDS, 2.0
    parser.add_argument("--rounds", type=_positive, help=f"of every cell, default {few}")
    parser.add_argument("--seconds", type=float, help=f"of a timed cell, default {seconds}")
    parser.add_argument("--warm-up", type=int, metavar="ROUNDS", help="not counted, default 1")
    parser.add_argument("--quick", action="store_true", help="1 round of everything, small")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where files are made, so: the disk"
    )
    parser.add_argument("--json", type=Path, help="keep every round here, for `compare`")
    parser.add_argument("--chart", type=Path, help="draw CHART.svg and CHART.png")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
