"""A log whose counters a projection sums, and what the command says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine.__main__ import main
from tests.support.processes import ran
from tests.support.sums import AILING, add, summing
from tests.support.waiting import until

DONE, FAILED, NOT_YET, UNKNOWN = 0, 1, 3, 4


def fill(path: Path, *counters: str, named: str = "parking", ailing: str = "") -> None:
    """Write a log, fold it, and leave it at rest."""

    async def write() -> None:
        async with summing(named, f"sqlite:{path}") as engine:
            position = await add(engine, *counters)
            if named == "parking" or not ailing:
                # No query waits for a sink.
                await until(lambda: engine.statistics().projectors["sums"].position >= position)
            else:
                await until(lambda: engine.statistics().projectors["sums"].failure is not None)

    AILING.update(ailing)
    asyncio.run(write())
    AILING.clear()


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path | int) -> tuple[int, str, str]:
    """Run the command in this process."""
    status = main(["projections", *map(str, arguments)])
    told = capfd.readouterr()
    return status, told.out, told.err


def listed(path: Path) -> dict[str, Any]:
    """Give how the one projection stands."""
    status, out, err = ran("list", path, "--json")
    assert (status, err) == (DONE, "")
    found: dict[str, Any] = msgspec.json.decode(out)
    return found


def views(path: Path, *statements: str) -> Sequence[Any]:
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def decided(path: Path) -> list[str]:
    return [kind for (kind,) in views(path, "SELECT kind FROM decisions ORDER BY number")]
