"""Clients that write in a closed loop: each sends its next command when the last is durable.

Rules: whatever is not a receipt ends the run with its error; so the number that is given is the
number of acknowledged commands, of one event each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

from .workload import AdjustOrder, OpenOrder, commands_of

__all__ = ["CLIENTS", "Commands", "clients", "write", "write_for"]

CLIENTS = 256

Commands = Iterator[OpenOrder | AdjustOrder]
Execute = Callable[..., Awaitable[Any]]
Client = Callable[[Commands], Coroutine[Any, Any, None]]


def clients(count: int = CLIENTS, first: int = 0) -> list[Commands]:
    """Give the commands of so many clients, each without end and about orders of its own."""
    return [commands_of(first + number) for number in range(count)]


async def write(execute: Execute, commands: Sequence[Commands], count: int) -> float:
    """Write exactly so many commands; give the seconds that it took."""
    left = count

    async def client(mine: Commands) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await execute(next(mine))

    begin = time.perf_counter()
    await _together(client, commands)
    return time.perf_counter() - begin


async def write_for(
    execute: Execute, commands: Sequence[Commands], seconds: float
) -> tuple[int, float]:
    """Write for so long, and one command each at least; give how many, and the seconds it took."""
    begin = time.perf_counter()
    count = 0

    async def client(mine: Commands) -> None:
        nonlocal count
        while True:
            await execute(next(mine))
            count += 1
            if time.perf_counter() - begin >= seconds:
                return

    await _together(client, commands)
    return count, time.perf_counter() - begin


async def _together(client: Client, commands: Sequence[Commands]) -> None:
    async with asyncio.TaskGroup() as group:
        for mine in commands:
            group.create_task(client(mine))
