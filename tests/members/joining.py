"""Engines of one process that share a log, and what they are asked in these tests."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from engine import Engine, MembershipStatistics, Receipt
from tests.support.counters import Counter
from tests.support.tallies import Tallies, get_tallies, get_tally

T = TypeVar("T")
Process = asyncio.subprocess.Process


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


@asynccontextmanager
async def running(log: str, listen: str = "") -> AsyncGenerator[Process]:
    """Run a process that owns a log."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.members.child", log, listen],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.wait_for(process.wait(), 60)


def nowhere(_: str) -> list[str]:
    """Give no folder of an owner, in the place of what a member of another machine finds."""
    return []


async def answers(sent: list[asyncio.Task[Receipt[Any]]]) -> list[Receipt[Any] | BaseException]:
    """Give what each was answered, within a time in which each must be."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*sent, return_exceptions=True)
