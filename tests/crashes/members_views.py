"""Compares projections that processes shared with their log, by SQL.

It knows nothing of the engine but how to let the projections come to the end of the log. Each row
has the number of its notebook's events and the sum of their positions: an event that was applied
twice, or left out, changes both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .members import engine_of

__all__ = ["differences"]

_PROJECTIONS: Final = ("whole", "sliced")


async def differences(url: str, log: str, sql: Callable[[str], list[list[str]]]) -> list[str]:
    """Let the projections come to the end, and give what they have otherwise than the log.

    `log` is the schema of the log, and `sql` gives the rows of a query as texts.
    """
    [[end]] = sql(f"SELECT max(position) FROM {log}.log")
    async with engine_of(url, "shared") as engine, asyncio.timeout(60):
        for name in _PROJECTIONS:
            while (await engine.projections.status(name)).position < int(end):
                await asyncio.sleep(0.1)
    fresh = f"SELECT split_part(stream, ':', 2), count(*), sum(position) FROM {log}.log GROUP BY 1"
    found: list[str] = []
    for name in _PROJECTIONS:
        kept = f'SELECT notebook, events, positions FROM "{log}_views".{name}_rows'
        wrong = sql(f"({kept} EXCEPT {fresh}) UNION ALL ({fresh} EXCEPT {kept})")
        if wrong:
            found.append(f"{name} has other rows than the log: {wrong[:5]}")
    return found
