"""What a command can be sent to: the engine and the bare actor loop. Peers have files of theirs.

Rules: every system takes the same commands (`workload`) and answers each when it is on disk, where
it has one. `count` opens again, with a connection of its own, what a closed system left behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import apsw
import msgspec

import engine

from .floor import FloorEngine
from .scenario import Wrong
from .watched import telemetry_of
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder

__all__ = [
    "DURABLE",
    "Commits",
    "Send",
    "System",
    "Target",
    "check_count",
    "commits_of",
    "count_rows",
    "engine_system",
    "floor_system",
    "send_of",
]

DURABLE = "SQLite: WAL, synchronous=FULL, one fsync a commit, every system alike; memory: none"

Send = Callable[[OpenOrder | AdjustOrder, int], Awaitable[object]]
"""Takes a command and its number, which no other command of the run has; raises where it fails."""


class Commits(msgspec.Struct, frozen=True):
    """What was stored so far."""

    events: int
    commits: int


class Target(msgspec.Struct, frozen=True):
    """A system that is open."""

    send: Send
    commits: Callable[[], Commits]


class System(msgspec.Struct, frozen=True):
    """A system that can be opened in an empty folder, with a name for the table."""

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[Target]]
    count: Callable[[Path], int] | None
    """Events in the file that it left; None where it keeps nothing."""


def check_count(system: System, folder: Path, acknowledged: int, stored: int) -> None:
    """Raise Wrong unless what was acknowledged is what was stored, and what is in the file now."""
    found = stored if system.count is None else system.count(folder)
    if not acknowledged == stored == found:
        raise Wrong(
            f"{system.name} acknowledged {acknowledged:,} commands of one event each and says that "
            f"it stored {stored:,} events; opened again, it has {found:,}"
        )


def count_rows(path: Path) -> int:
    """Count the events in a file of the engine or the floor; raise Wrong where there are holes."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        count, last = connection.execute("select count(*), max(position) from events").fetchone()
    finally:
        connection.close()
    if count != (last or 0):
        raise Wrong(f"{path.name} has {count:,} events, the last one at position {last:,}")
    return int(count)


def _count_in(name: str) -> Callable[[Path], int]:
    return lambda folder: count_rows(folder / name)


def floor_system(*, durable: bool) -> System:
    """Give the bare actor loop (`floor`), over bare APSW or over nothing."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        floor = FloorEngine(str(folder / "floor.db") if durable else None)
        try:
            yield Target(
                lambda command, _: floor.execute(command),
                lambda: Commits(floor.position, floor.commits),
            )
        finally:
            floor.close()

    return System("floor (actor loop)", opened, _count_in("floor.db") if durable else None)


def engine_system(
    *, durable: bool, keyed: bool, telemetry: str = "off", apart: bool = False
) -> System:
    """Give the engine; keyed, each command has a key, a correlation and a principal.

    `telemetry` is "off" or a mode of `watched`, by which the system is then named. `apart`, its log
    is written by a process of its own.
    """

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        writer = "process" if apart else "thread"
        store = f"sqlite:{folder / 'engine.db'}?writer={writer}" if durable else "memory:"
        with telemetry_of(telemetry) as watching:
            made = engine.Engine([BenchmarkOrder], store=store, telemetry=watching)
            async with made as running:
                yield Target(send_of(running, keyed=keyed), lambda: commits_of(running))

    name = f"engine {'keyed' if keyed else 'bare'}{', writer apart' if apart else ''}"
    named = name if telemetry == "off" else telemetry
    return System(named, opened, _count_in("engine.db") if durable else None)


def send_of(running: engine.Engine, *, keyed: bool) -> Send:
    """Give how a command is sent to an engine."""
    return _keyed(running) if keyed else _bare(running)


def _bare(running: engine.Engine) -> Send:
    execute = running.execute
    return lambda command, _: execute(command)


def _keyed(running: engine.Engine) -> Send:
    execute = running.execute
    return lambda command, number: execute(
        command,
        key=f"benchmark/{number}",
        correlation="benchmark",
        principal="client",
    )


def commits_of(running: engine.Engine) -> Commits:
    """Give what an engine has stored so far."""
    numbers = running.statistics().journal
    return Commits(numbers.events, numbers.commits)
