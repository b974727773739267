"""`transfers`: a command that two aggregates decide together, beside one that a single one decides.

Each client moves a cent between two accounts, drawn at random; all have been opened before. The
engine's own `walk` runs in the same rounds, and so do deposits into the same accounts, which one
account decides alone. With `--hot`, one account is in every transfer: it stands still from one
commit to the next, so that this is as slow as the disk.

What a cell leaves is opened again: two events a transfer, as much money as before, no conflict.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

import engine
from engine import Aggregate, Command, Event, Id, Rejected, To, applies, decides, handles

from . import closed_loop
from .closed_loop import MANY_ORDERS, Work
from .scenario import Cell, Scenario, Wrong
from .systems import DURABLE, Target, commits_of, engine_system, send_of

__all__ = ["add_options", "scenario"]

ACCOUNTS: Final = 10_000
_OPENING: Final = 1_000_000


class Deposited(Event, name="deposited", gc=False):
    """Money came."""

    cents: int


class Withdrawn(Event, name="withdrawn", gc=False):
    """Money went."""

    cents: int


class Deposit(Command, gc=False):
    """Pay in."""

    account: Id
    cents: int


class Transfer(Command, gc=False):
    """Move money."""

    source: Id
    target: Id
    cents: int


class Account(Aggregate, kind="account"):
    """Has money."""

    cents: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        """Take it."""
        return Deposited(command.cents)

    @applies
    def deposited(self, event: Deposited) -> None:
        """Have it."""
        self.cents += event.cents

    @applies
    def withdrawn(self, event: Withdrawn) -> None:
        """Have it no more."""
        self.cents -= event.cents


@decides
def transfer(
    command: Transfer, source: Account, target: Account
) -> list[To[Withdrawn | Deposited]]:
    """Move it, if it is there."""
    if source.cents < command.cents:
        raise Rejected("too-little-money", "there is not so much")
    return [To(source, Withdrawn(command.cents)), To(target, Deposited(command.cents))]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--clients", type=int, help="default: 256")
    parser.add_argument("--accounts", type=int, help=f"default: {ACCOUNTS}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    clients: int = options.clients or (32 if options.quick else 256)
    accounts: int = options.accounts or (200 if options.quick else ACCOUNTS)
    cells: list[Cell] = []
    for durable in (False, True):
        group = f"{'sqlite' if durable else 'memory'}, {clients:,} clients"
        cells += _cells(group, durable, clients, accounts, options.seconds)
    return Scenario(
        "transfers",
        "from a command to its durable receipt, closed loop, decided by two aggregates",
        {
            "durability": DURABLE,
            "work": f"a cent from one of {accounts:,} accounts to another, two events a command",
            "walk": "orders of each client's own; one event a command",
            "hot": "one account is in every transfer",
            "keyed": "with key, correlation and principal",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
    )


def _cells(
    group: str, durable: bool, clients: int, accounts: int, seconds: float
) -> Iterator[Cell]:
    walk = engine_system(durable=durable, keyed=True)
    run = partial(closed_loop.measure, walk, MANY_ORDERS, clients, seconds)
    yield Cell(group, "walk", run)
    works: dict[str, Callable[[int], Iterator[Any]]] = {
        "deposits": partial(_deposits, accounts),
        "transfers": partial(_transfers, accounts),
        "transfers, one account in all": partial(_hot, accounts),
    }
    for name, commands_of in works.items():
        measured = partial(_measure, durable, accounts, commands_of, clients, seconds)
        yield Cell(group, name, measured, ("walk",))


def _deposits(accounts: int, client: int) -> Iterator[Deposit]:
    draw = random.Random(client)
    while True:
        yield Deposit(f"a-{draw.randrange(accounts)}", 1)


def _transfers(accounts: int, client: int) -> Iterator[Transfer]:
    draw = random.Random(client).random  # cheap: what is drawn is no part of the engine's work
    while True:
        source = int(draw() * accounts)
        target = (source + 1 + int(draw() * (accounts - 1))) % accounts
        yield Transfer(f"a-{source}", f"a-{target}", 1)


def _hot(accounts: int, client: int) -> Iterator[Transfer]:
    draw = random.Random(client)
    while True:
        yield Transfer(f"a-{draw.randrange(1, accounts)}", "a-0", 1)


def _measure(
    durable: bool,
    accounts: int,
    commands_of: Callable[[int], Iterator[Any]],
    clients: int,
    seconds: float,
    folder: Path,
) -> dict[str, float]:
    path = folder / "engine.db"
    store = f"sqlite:{path}" if durable else "memory:"
    figures, answers = engine.run(_run, store, accounts, commands_of, clients, seconds)
    if durable and commands_of.func is not _deposits:  # type: ignore[attr-defined]
        _check(path, accounts, answers)
    return figures


async def _run(
    store: str,
    accounts: int,
    commands_of: Callable[[int], Iterator[Any]],
    clients: int,
    seconds: float,
) -> tuple[dict[str, float], int]:
    async with engine.Engine([Account], decisions=[transfer], store=store) as running:
        openings = (Deposit(f"a-{n}", _OPENING) for n in range(accounts))
        async for answer in running.execute_many(openings, window=1_000):
            assert isinstance(answer, engine.Receipt), answer
        before = commits_of(running)
        target = Target(send_of(running, keyed=True), lambda: commits_of(running))
        rate, times, answers = await closed_loop.drive(
            target, Work((), commands_of), clients, seconds
        )
        after = target.commits()
        if running.statistics().journal.conflicts:
            raise Wrong("one engine had conflicts with itself")
    events = (after.events - before.events) / (after.commits - before.commits)
    return {"commands": rate, **times.milliseconds(), "events": events}, answers


def _check(path: Path, accounts: int, answers: int) -> None:
    """Raise Wrong unless each answered transfer is there with both its events."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found: Sequence[tuple[str, int]] = connection.execute(
            "select t.name, count(*) from events e join event_types t on t.number = e.type "
            "group by t.name order by t.name"
        ).fetchall()
    finally:
        connection.close()
    expected = [("deposited", accounts + answers), ("withdrawn", answers)]
    if list(found) != expected:
        raise Wrong(f"{answers:,} transfers were answered, and the log has {found}")
