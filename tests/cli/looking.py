"""Logs of counters for the commands that look at a log."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import apsw
import msgspec
import pytest

from engine import Engine, Ports
from engine.__main__ import main
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Counter, Empty

START = datetime(2026, 1, 31, 8, 5, tzinfo=UTC)


SECOND = 1_000_000


def counters_in(path: Path, clock: ManualClock | None = None) -> Engine:
    return Engine([Counter], store=f"sqlite:{path}", ports=Ports(clock=clock or ManualClock(START)))


async def fill(path: Path, events: int) -> None:
    """Write a log of three streams, two event types, some keys, a second between the events."""
    clock = ManualClock(START)
    async with counters_in(path, clock) as engine:
        for number in range(events):
            stream = f"c-{number % 3}"
            await engine.execute(
                Empty(stream) if number % 4 == 3 else Add(stream, 1_000 + number),
                key=f"k-{number}" if number % 2 else None,
                correlation=f"part-{number % 5}" if number % 5 else None,
                principal="ann" if number % 3 else None,
            )
            clock.advance(1)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def outside(path: Path, *statements: str, guarded: bool = True) -> None:
    """Run statements as a shell does; where not `guarded`, no trigger of the log keeps anything."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, int(guarded))
        for statement in statements:
            connection.execute(statement).fetchall()


START_US = round(START.timestamp() * SECOND)


def positions(out: str) -> list[int]:
    return [msgspec.json.decode(line)["position"] for line in out.splitlines()]
