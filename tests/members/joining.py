"""Engines of one process that share a log, and what they are asked in these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from engine import Engine, MembershipStatistics
from tests.support.counters import Counter
from tests.support.tallies import Tallies, get_tallies, get_tally

T = TypeVar("T")


def joined(path: Path, *, store: str | None = None, **options: Any) -> Engine:
    """Give an engine of counters and their tallies that shares its log."""
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=store or f"sqlite:{path}/log.db",
        join=True,
        **options,
    )


async def some(path: Path, count: int, stack: AsyncExitStack, **options: Any) -> list[Engine]:
    """Give so many engines, the first of which owns the log; all end with the stack."""
    engines = [joined(path, **options) for _ in range(count)]
    for engine in engines:
        await stack.enter_async_context(engine)
    assert [part(engine).role for engine in engines] == ["owner"] + ["member"] * (count - 1)
    return engines


def part(engine: Engine) -> MembershipStatistics:
    """Give an engine's part in the ownership."""
    found = engine.statistics().membership
    assert found is not None
    return found


async def both(engines: list[Engine], ask: Callable[[Engine], Awaitable[T]]) -> tuple[Any, Any]:
    """Ask the owner and a member for the same; give what each gave or raised."""
    given = [await asyncio.gather(ask(engine), return_exceptions=True) for engine in engines[:2]]
    return given[0][0], given[1][0]
