"""What an engine on PostgreSQL writes beside: an open transaction of somebody else, or a standby.

Rules: the same engine writes for as long without it, in the same rounds. An open snapshot keeps the
server from taking away what was changed since it was taken, so what it costs grows with the time
that it is open: the clients write for all of that time, and the end of it is measured. A standby is
on the same cores and the same disk, and each commit waits until it has it on disk too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.support.postgres import connected, postgres_server, wheel_programs

from . import closed_loop
from .postgres import postgres_system, server
from .scenario import Cell
from .systems import System, Target

__all__ = ["NEIGHBOURS", "SECONDS", "cells"]

SECONDS: Final = 60.0
"""How long a snapshot is open before anything is measured."""
STANDBY: Final = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


@contextlib.asynccontextmanager
async def _snapshot(system: System, folder: Path) -> AsyncGenerator[Target]:
    """Open the engine, and behind it a transaction that reads one state until the end."""
    async with system.open(folder) as target:
        connection: Any = await connected(server())
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await connection.execute("SELECT count(*) FROM pg_class")
            yield target
            await connection.execute("COMMIT")
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def _standby(system: System, folder: Path) -> AsyncGenerator[Target]:
    """Start a standby that each commit waits for, and then the engine."""
    with postgres_server(wheel_programs(), follows=server()):
        server().sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        try:
            server().sql("SELECT pg_reload_conf()")
            _wait_for_standby()  # nothing else is in this loop yet
            async with system.open(folder) as target:
                yield target
        finally:
            server().sql("ALTER SYSTEM RESET synchronous_standby_names")
            server().sql("SELECT pg_reload_conf()")


def _wait_for_standby() -> None:
    while server().sql(STANDBY) != "1":
        time.sleep(0.05)


NEIGHBOURS: Final = {"snapshot": _snapshot, "standby": _standby}
"""What a system is opened beside, by the word for it."""


def cells(
    neighbours: Sequence[str], clients: Sequence[int], seconds: float, before: float
) -> list[Cell]:
    """Give the cells: the engine alone, and beside each, where it writes for `before` seconds."""
    found: list[Cell] = []
    alone = postgres_system(keyed=True)
    for count in clients:
        who = "1 client" if count == 1 else f"{count:,} clients"
        for neighbour in neighbours:
            warm = before if neighbour == "snapshot" else seconds / 4
            told = f"a snapshot open for {before:g} s" if neighbour == "snapshot" else "a standby"
            group = f"postgresql, {who}, {neighbour}"
            beside = msgspec.structs.replace(alone, open=partial(NEIGHBOURS[neighbour], alone))
            for name, system, against in (
                (alone.name, alone, ()),
                (f"{alone.name}, beside {told}", beside, (alone.name,)),
            ):
                work = closed_loop.MANY_ORDERS
                run = partial(closed_loop.measure, system, work, count, seconds, warm=warm)
                found.append(Cell(group, name, run, against))
    return found
