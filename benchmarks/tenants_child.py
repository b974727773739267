"""The process in which `tenants` opens engines: it counts bytes, and times openings.

It is run as `python -m benchmarks.tenants_child TENANTS OPEN_MAX FOLDER` and prints one JSON
object. Each tenant is made with one order. Then some are asked again, twice: closed ones first.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

import msgspec

import engine

from .memory_child import read_bytes
from .project import Summaries
from .scenario import Wrong
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder

AT_ONCE: Final = 8
ASKED: Final = 100
RESIDENT: Final = "resident set"
SMALL: Final = engine.Limits(resident_aggregates=1_000, loop_blocked_ms=60_000)


def main(count: int, open_max: int, folder: str) -> None:
    """Measure, and print the figures."""
    figures = engine.run(_measure, [f"t{n}" for n in range(count)], open_max, folder)
    print(msgspec.json.encode(figures).decode())


def _make(store: str) -> engine.Engine:
    return engine.Engine([BenchmarkOrder], projections=[Summaries], limits=SMALL, store=store)


async def _measure(names: Sequence[str], open_max: int, folder: str) -> dict[str, float]:
    tenants = engine.Tenants(_make, folder=folder, open_max=open_max, idle_seconds=86_400)
    async with tenants:
        before = read_bytes(RESIDENT)
        left = iter(names)
        await asyncio.gather(*(_open_all(tenants, left) for _ in range(AT_ONCE)))
        held = read_bytes(RESIDENT) - before
        # Those that were opened first are closed by now, if there are more than may be open.
        is_cold = len(names) > open_max
        asked = names[: min(ASKED, (len(names) - open_max) // 2 if is_cold else ASKED)]
        first = [await _adjust(tenants, name, 1) for name in asked]
        again = [await _adjust(tenants, asked[-1], version) for version in range(2, 102)]
        opened = tenants.statistics().opened
    if opened != len(names) + len(asked) * is_cold:
        raise Wrong(f"{opened:,} engines were opened, for {len(names):,} tenants")
    figures = {"resident": held / 1024**2, "each": held / 1024 / len(names)}
    figures["hit"] = median(again) * 1_000
    return figures | ({"open": median(first) * 1_000} if is_cold else {})


async def _open_all(tenants: engine.Tenants, left: Iterator[str]) -> None:
    for name in left:
        async with tenants.engine(name, create=True) as shop:
            await shop.execute(OpenOrder("o-1", "mouse", 1))


async def _adjust(tenants: engine.Tenants, name: str, version: int) -> float:
    """Change the order of a tenant; give how long that took."""
    begin = time.perf_counter()
    async with tenants.engine(name) as shop:
        receipt = await shop.execute(AdjustOrder("o-1", "mouse", version))
    if receipt.version != version + 1:
        raise Wrong(f"tenant {name} is at version {receipt.version}, and not {version + 1}")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
