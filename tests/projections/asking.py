"""How other processes ask an engine for something, and how a test waits for its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw

from engine import Engine
from engine.projections.operations import Status
from engine.stores.contract.requests import Arguments, Request
from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.support.sums import add, summing, sums
from tests.support.waiting import until


@asynccontextmanager
async def filled(
    release: str, path: Path, *counters: str, **options: Any
) -> AsyncGenerator[Engine]:
    async with summing(release, f"sqlite:{path}", **options) as engine:
        if counters:
            await sums(engine, at=await add(engine, *counters))
        yield engine


def ask(path: Path, kind: str, name: str = "sums", **arguments: Any) -> int:
    with SqliteOperations(str(path)) as outside:
        return outside.ask(kind, name, Arguments(**arguments))


def request(path: Path, number: int) -> Request:
    with SqliteOperations(str(path), readonly=True) as outside:
        return outside.request(number)


async def answered(path: Path, number: int) -> Request:
    """Wait for an answer."""
    await until(lambda: request(path, number).answered is not None)
    return request(path, number)


async def asked(path: Path, kind: str, **arguments: Any) -> tuple[str, str]:
    """Ask from outside and wait for the answer."""
    found = await answered(path, ask(path, kind, **arguments))
    return found.state, found.answer


def tables(path: Path, *statements: str) -> list[Any]:
    """Do something to the views' file behind everybody's back."""
    with closing(apsw.Connection(str(path.with_suffix(".views.db")))) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


async def status(engine: Engine) -> Status:
    return await engine.projections.status("sums")
