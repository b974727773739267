"""`hot`: all clients send to one aggregate, beside the same clients on orders of their own.

An engine without pipelining takes one command per fsync here, and one with optimistic retries fewer
than one. The engine's cells are ratios to its own `walk` of the same round, first of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from . import closed_loop, peers
from .closed_loop import MANY_ORDERS, ONE_ORDER, Work
from .scenario import Cell, Scenario
from .systems import DURABLE, System, engine_system, floor_system

__all__ = ["add_options", "scenario"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--clients", type=int, help="default: 256")
    peers.add_option(parser)


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    found = peers.find(options.peers)
    clients: int = options.clients or (32 if options.quick else 256)
    cells: list[Cell] = []
    for durable in (False, True):
        group = f"{'sqlite' if durable else 'memory'}, {clients:,} clients"
        cells += _cells(group, durable, clients, options.seconds, found.systems if durable else [])
    return Scenario(
        "hot",
        "from a command to its durable receipt, closed loop, all clients on one aggregate",
        {
            "durability": DURABLE,
            "work": "hot: adjust one order; walk: orders of each client's own; one event a command",
            "keyed": "with key, correlation and principal",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
            **found.configurations,
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
        found.left_out,
    )


def _cells(
    group: str, durable: bool, clients: int, seconds: float, others: Sequence[System]
) -> list[Cell]:
    def cell(what: str, work: Work, system: System, against: Sequence[str] = ()) -> Cell:
        run = partial(closed_loop.measure, system, work, clients, seconds)
        return Cell(group, f"{what}: {system.name}", run, against)

    floor = cell("hot", ONE_ORDER, floor_system(durable=durable))
    rivals = [cell("hot", ONE_ORDER, peer) for peer in others]
    cells = [floor]
    for keyed in (False, True):
        system = engine_system(durable=durable, keyed=keyed)
        walk = cell("walk", MANY_ORDERS, system)
        against = [walk.name, floor.name, *(rival.name for rival in rivals)]
        cells += [walk, cell("hot", ONE_ORDER, system, against)]
    return [*cells, *rivals]
