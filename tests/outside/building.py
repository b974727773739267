"""Builds from outside, and the engine that serves meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw

from engine import Engine
from engine.outside.build import Ending, OutsideBuild
from engine.stores.urls import open_backend
from tests.support.sums import RELEASES, add, summing, sums

BUILT = "tests.support.sums:tenfold"


@asynccontextmanager
async def serving(path: Path, *counters: str, named: str = "stopping") -> AsyncGenerator[Engine]:
    """Run a release that has folded what it wrote."""
    async with summing(named, f"sqlite:{path}") as engine:
        if counters:
            await sums(engine, at=await add(engine, *counters))
        yield engine


def beside(path: Path, named: str = "tenfold") -> OutsideBuild:
    """Give the build of a later release."""
    return OutsideBuild(RELEASES[named], summing(named).registry, open_backend(path))


async def build(path: Path, named: str = "tenfold") -> Ending:
    async with beside(path, named) as building:
        return await building.run(lambda _: None)


def views(path: Path, *statements: str) -> list[Any]:
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def builds(path: Path) -> list[tuple[int, int, str]]:
    return views(path, "SELECT number, version, state FROM builds ORDER BY number")
