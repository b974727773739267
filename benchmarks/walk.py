"""`walk`: from a command to its durable receipt, in a closed loop, beside the floors and the peers.

Floors: the bare actor loop over the same store; the same rows in the same batches through bare
APSW, without actors, in batches of as many rows as there are clients, which is the most that a
closed loop can bring together (with one client: one fsynced insert after the other). `--telemetry`
measures instead what OpenTelemetry costs: each mode beside the engine without one. `--decisions`
measures what replies, claims and encrypted fields cost, beside events alone. `--store postgresql`
measures a log in PostgreSQL, whose server is started for it; with `--beside`, what it loses beside
an open transaction of somebody else, or beside a synchronous standby.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from . import beside, closed_loop, decided, dynamodb_log, floor_rows, peers, postgres, umadb_log
from .scenario import Cell, Scenario
from .systems import DURABLE, System, engine_system, floor_system
from .watched import MODES

__all__ = ["add_options", "scenario"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--clients", type=int, nargs="+", help="default: 1 32 256 1000")
    stores = ("sqlite", "postgresql", "umadb", "dynamodb")
    parser.add_argument("--store", choices=stores, default="sqlite")
    parser.add_argument("--telemetry", action="store_true", help="what OpenTelemetry costs")
    parser.add_argument(
        "--decisions", action="store_true", help="what replies, claims and encrypted fields cost"
    )
    neighbours, seconds = [*beside.NEIGHBOURS], beside.SECONDS
    parser.add_argument("--beside", nargs="+", choices=neighbours, help="of PostgreSQL only")
    parser.add_argument("--open-seconds", type=float, help=f"of a snapshot, default {seconds:g}")
    peers.add_option(parser)


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    if options.store == "postgresql":
        return _on_postgres(options)
    if options.store == "umadb":
        given = (umadb_log.umadb_system, umadb_log.measure_client, umadb_log.DURABLE)
        return _elsewhere("UmaDB", *given, options)
    if options.store == "dynamodb":
        given = (dynamodb_log.dynamodb_system, dynamodb_log.measure_client, dynamodb_log.DURABLE)
        return _elsewhere("DynamoDB", *given, options)
    clients: Sequence[int] = options.clients or ([1, 32] if options.quick else [1, 32, 256, 1000])
    found = (
        peers.Found([], [], {})
        if options.telemetry or options.decisions
        else peers.find(options.peers)
    )
    cells: list[Cell] = []
    for durable, count in itertools.product((False, True), clients):
        group = _group(durable, count)
        if options.decisions:
            cells += _decided_cells(group, durable, count, options.seconds)
        elif options.telemetry:
            cells += _watched_cells(group, durable, count, options.seconds)
        else:
            cells += _cells(group, durable, count, options.seconds, found.systems)
    return Scenario(
        "walk",
        "from a command to its durable receipt, closed loop",
        {
            "durability": DURABLE,
            "work": "create an order, adjust it nine times, begin the next; one event a command",
            "keyed": "with key, correlation and principal",
            "writer apart": "the log is written by a process of its own (?writer=process)",
            "floor (rows in batches)": "of as many rows as there are clients",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
            **found.configurations,
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
        found.left_out,
    )


def _on_postgres(options: argparse.Namespace) -> Scenario:
    """Give the cells of a log in PostgreSQL, beside the one in SQLite, in the same run."""
    if options.beside:
        return _beside(options)
    found = peers.find(options.peers, "postgresql")
    cells: list[Cell] = []
    for count in options.clients or ([1, 32] if options.quick else [1, 32, 256, 1000]):
        cells += _postgres_cells(count, options.seconds, found.systems)
    return Scenario(
        "walk",
        "from a command to its durable receipt in PostgreSQL, closed loop",
        {
            "durability": f"{postgres.DURABLE}; {DURABLE}",
            "work": "create an order, adjust it nine times, begin the next; one event a command",
            "keyed": "with key, correlation and principal",
            "floor (the same statement)": "without actors, in batches of half as many rows as "
            "there are clients, which is what a closed loop brings together",
            "engine keyed, SQLite": "with a thread that writes, in the same rounds",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
            **found.configurations,
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
        found.left_out,
    )


def _elsewhere(
    name: str,
    system_of: Callable[..., System],
    measure_client: Callable[[int, float, Path], dict[str, float]],
    durable: str,
    options: argparse.Namespace,
) -> Scenario:
    """Give the cells of a log in another server, beside the one in SQLite, in the same run."""
    cells: list[Cell] = []
    for count in options.clients or ([1, 32] if options.quick else [1, 32, 256]):
        group = f"{name.lower()}, {'1 client' if count == 1 else f'{count:,} clients'}"
        floor, beside_it = "floor (the bare client)", "engine keyed, SQLite"
        cells.append(
            Cell(group, floor, partial(measure_client, max(1, count // 2), options.seconds), ())
        )
        on_file = msgspec.structs.replace(engine_system(durable=True, keyed=True), name=beside_it)
        measured = [system_of(keyed=keyed) for keyed in (False, True)]
        for system in (on_file, *measured):
            work = closed_loop.MANY_ORDERS
            run = partial(closed_loop.measure, system, work, count, options.seconds)
            against = (floor,) if system is on_file else (floor, beside_it)
            cells.append(Cell(group, system.name, run, against))
    return Scenario(
        "walk",
        f"from a command to its durable receipt in {name}, closed loop",
        {
            "durability": f"{durable}; {DURABLE}",
            "floor (the bare client)": "in batches of half as many events as there are clients",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
    )


def _postgres_cells(count: int, seconds: float, rivals: Sequence[System]) -> Iterator[Cell]:
    group = f"postgresql, {'1 client' if count == 1 else f'{count:,} clients'}"
    floor, beside_it = "floor (the same statement)", "engine keyed, SQLite"

    def cell(name: str, system: System, against: Sequence[str]) -> Cell:
        run = partial(closed_loop.measure, system, closed_loop.MANY_ORDERS, count, seconds)
        return Cell(group, name, run, against)

    batch = max(1, count // 2)
    yield Cell(group, floor, partial(postgres.measure_statement, batch, seconds))
    yield cell(beside_it, engine_system(durable=True, keyed=True), (floor,))
    for rival in rivals:
        yield cell(rival.name, rival, ())
    against = (floor, beside_it, *(rival.name for rival in rivals))
    for keyed in (False, True):
        system = postgres.postgres_system(keyed=keyed)
        yield cell(system.name, system, against)


def _beside(options: argparse.Namespace) -> Scenario:
    """Give the cells of a log in PostgreSQL with and without what it is beside."""
    opened = options.open_seconds or (options.seconds if options.quick else beside.SECONDS)
    clients = options.clients or [32 if options.quick else 256]
    return Scenario(
        "walk",
        "from a command to its durable receipt in PostgreSQL, closed loop, and beside what",
        {
            "durability": postgres.DURABLE,
            "work": "create an order, adjust it nine times, begin the next; one event a command",
            "keyed": "with key, correlation and principal",
            "snapshot": f"REPEATABLE READ, open while clients write for {opened:g} s before they "
            "are timed; they write for as long without it",
            "standby": "synchronous, on the same cores and disk",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
        },
        closed_loop.COLUMNS,
        "commands",
        beside.cells(options.beside, clients, options.seconds, opened),
        [],
    )


def _group(durable: bool, clients: int) -> str:
    who = "1 client" if clients == 1 else f"{clients:,} clients"
    return f"{'sqlite' if durable else 'memory'}, {who}"


def _cells(
    group: str, durable: bool, clients: int, seconds: float, others: Sequence[System]
) -> list[Cell]:
    def cell(system: System, against: Sequence[str] = ()) -> Cell:
        run = partial(closed_loop.measure, system, closed_loop.MANY_ORDERS, clients, seconds)
        return Cell(group, system.name, run, against)

    floor = floor_system(durable=durable)
    floors = [cell(floor)]
    if durable:
        name = "floor (one fsynced insert)" if clients == 1 else "floor (rows in batches)"
        floors.append(Cell(group, name, partial(floor_rows.measure, clients, seconds)))
    rivals = [cell(peer) for peer in others] if durable else []
    if clients == 1:
        floors.reverse()  # a single client waits for the disk: judged by the insert first of all
    against = [reference.name for reference in (*floors, *rivals)]
    engines = [
        cell(engine_system(durable=durable, keyed=keyed), against) for keyed in (False, True)
    ]
    if durable:
        engines.append(cell(engine_system(durable=True, keyed=True, apart=True), against))
    return [*floors, *engines, *rivals]


def _decided_cells(group: str, durable: bool, clients: int, seconds: float) -> list[Cell]:
    plain = decided.decided_system("off", durable=durable)
    cells: list[Cell] = []
    for mode in decided.MODES:
        system = decided.decided_system(mode, durable=durable)
        run = partial(closed_loop.measure, system, closed_loop.MANY_ORDERS, clients, seconds)
        cells.append(Cell(group, system.name, run, () if mode == "off" else (plain.name,)))
    return cells


def _watched_cells(group: str, durable: bool, clients: int, seconds: float) -> list[Cell]:
    cells: list[Cell] = []
    for mode in ("off", *MODES):
        system = engine_system(durable=durable, keyed=False, telemetry=mode)
        run = partial(closed_loop.measure, system, closed_loop.MANY_ORDERS, clients, seconds)
        cells.append(Cell(group, mode, run, () if mode == "off" else ("off",)))
    return cells
