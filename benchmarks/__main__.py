"""`python -m benchmarks SCENARIO`: runs a scenario and prints its figures with their conditions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from . import cold, machine, walk


def main() -> None:
    """Read the command line and run."""
    options = _parser().parse_args()
    folder = Path(options.folder)
    conditions = machine.describe(folder)
    print("; ".join(f"{name} {value}" for name, value in conditions.items()))
    if options.scenario == "cold":
        _run_cold(options, conditions, folder)
    else:
        _run_walk(options, conditions, folder)


def _run_cold(options: argparse.Namespace, conditions: dict[str, str], folder: Path) -> None:
    print(f"sqlite: WAL, synchronous=FULL; {options.rounds} rounds, without and with in turn.")
    found = cold.measure(options.events, options.rounds, folder)
    resident = cold.measure_memory(folder)
    print(cold.table(found, resident))
    if options.json:
        report = {"conditions": conditions, "cold": found, "resident": resident}
        Path(options.json).write_bytes(msgspec.json.encode(report))


def _run_walk(options: argparse.Namespace, conditions: dict[str, str], folder: Path) -> None:
    print(
        "sqlite: WAL, synchronous=FULL, one file per cell, floor and engine alike; "
        "memory: nothing is kept. Closed loop; one event per command; "
        f"{options.rounds} rounds of {options.seconds:g} s per cell, medians."
    )
    cells = (walk.watched_cells if options.telemetry else walk.cells)(options.clients)
    rounds: list[list[walk.Measured]] = []
    for number in range(1, options.rounds + 1):
        measured: list[walk.Measured] = []
        for cell in cells:
            if sys.stderr.isatty():
                where = f"round {number}: {cell.store} {cell.clients} {cell.name}"
                print(f"\r{where:60}", end="", file=sys.stderr)
            measured.append(walk.measure(cell, options.seconds, folder))
        rounds.append(measured)
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    print((walk.watched_table if options.telemetry else walk.table)(rounds))
    if options.json:
        report = {"conditions": conditions, "rounds": rounds}
        Path(options.json).write_bytes(msgspec.json.encode(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    walk_parser = scenarios.add_parser("walk", help="command to durable receipt, closed loop")
    walk_parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 32, 256, 1000], help="clients of each cell"
    )
    walk_parser.add_argument("--seconds", type=float, default=2.0, help="length of one cell")
    walk_parser.add_argument("--rounds", type=int, default=5, help="times that each cell runs")
    walk_parser.add_argument(
        "--telemetry", action="store_true", help="what OpenTelemetry costs, on beside off"
    )
    cold_parser = scenarios.add_parser("cold", help="first answer of cold aggregates, and memory")
    cold_parser.add_argument(
        "--events", type=int, nargs="+", default=[1, 100, 1_000, 10_000, 100_000], help="per stream"
    )
    cold_parser.add_argument("--rounds", type=int, default=5, help="times that each is asked")
    for each in (walk_parser, cold_parser):
        each.add_argument("--folder", default=".", help="where the files are made: the disk")
        each.add_argument("--json", help="write every run to this file")
    return parser


if __name__ == "__main__":
    main()
