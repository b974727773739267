"""`cold`: how long an aggregate takes to answer first that is not in memory, and what it holds.

Logs are written with streams of several lengths, by a kind that keeps snapshots and by one that
does not. Each round opens an engine on each in turn and asks one cold aggregate of each length;
the figure is the median over the rounds. Then many short streams are loaded, and what each of them
holds in memory is traced, beside the engine's own estimate.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec

import engine

from .workload import AdjustOrder, BenchmarkOrder, OpenOrder

__all__ = ["Cold", "Resident", "measure", "measure_memory", "table"]

SNAPSHOT_EVERY = 100
RESIDENT = 5_000


class KeptOrder(BenchmarkOrder, kind="benchmark-order", snapshot_every=SNAPSHOT_EVERY):
    """The same order with snapshots."""


class Cold(msgspec.Struct, frozen=True):
    """One cold aggregate's first answer."""

    snapshots: bool
    events: int
    milliseconds: float


class Resident(msgspec.Struct, frozen=True):
    """What one resident aggregate holds, in bytes."""

    traced: float
    """All that loading it allocated and kept."""
    estimated: int
    """`statistics().aggregates.bytes_each`: actor, state and keys."""


def measure(lengths: Sequence[int], rounds: int, folder: Path) -> list[Cold]:
    """Give every measurement of all rounds."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        kinds = {
            f"sqlite:{Path(place) / 'plain.db'}": BenchmarkOrder,
            f"sqlite:{Path(place) / 'kept.db'}": KeptOrder,
        }
        for store, kind in kinds.items():
            engine.run(_write, kind, store, {str(length): length for length in lengths})
        found: list[Cold] = []
        for _ in range(rounds):
            for store, kind in kinds.items():
                found += engine.run(_ask, kind, store, lengths)
    return found


def measure_memory(folder: Path) -> Resident:
    """Load many orders of one event each, and see what they hold."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = f"sqlite:{Path(place) / 'many.db'}"
        engine.run(_write, BenchmarkOrder, store, {f"order-{n}": 1 for n in range(RESIDENT)})
        return engine.run(_load, store)


async def _write(kind: type[engine.Aggregate], store: str, orders: dict[str, int]) -> None:
    async with engine.Engine([kind], store=store) as shop:
        for name, events in orders.items():
            adjustments = [AdjustOrder(name, "lantern", n) for n in range(1, events)]
            async for answer in shop.execute_many([OpenOrder(name, "lantern", 1), *adjustments]):
                assert isinstance(answer, engine.Receipt), answer


async def _ask(kind: type[engine.Aggregate], store: str, lengths: Sequence[int]) -> list[Cold]:
    found: list[Cold] = []
    async with engine.Engine([kind], store=store) as shop:
        for length in lengths:
            begin = time.perf_counter()
            await _look(shop, str(length))
            milliseconds = (time.perf_counter() - begin) * 1e3
            found.append(Cold(kind is KeptOrder, length, milliseconds))
        restored = sum(length >= SNAPSHOT_EVERY for length in lengths)
        assert shop.statistics().aggregates.restored == (restored if kind is KeptOrder else 0)
    return found


async def _look(shop: engine.Engine, name: str) -> None:
    # An order that is open cannot be opened: answered out of its state, with nothing to sync.
    with contextlib.suppress(engine.Rejected):
        await shop.execute(OpenOrder(name, "lantern", 1))


async def _load(store: str) -> Resident:
    async with engine.Engine([BenchmarkOrder], store=store) as shop:
        await _look(shop, "order-0")
        gc.collect()
        tracemalloc.start()
        for number in range(1, RESIDENT):
            await _look(shop, f"order-{number}")
        gc.collect()
        traced, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        numbers = shop.statistics().aggregates
    assert numbers.resident == RESIDENT
    return Resident(traced / (RESIDENT - 1), numbers.bytes_each)


def table(found: Sequence[Cold], resident: Resident) -> str:
    """Give the medians as text."""
    lines = [f"first answer of a cold aggregate, ms; snapshots every {SNAPSHOT_EVERY} events"]
    lines.append(f"{'events':>8}{'without':>12}{'with':>12}{'ratio':>9}")
    for events in sorted({cold.events for cold in found}):
        plain, kept = (
            statistics.median(
                cold.milliseconds
                for cold in found
                if cold.events == events and cold.snapshots is snapshots
            )
            for snapshots in (False, True)
        )
        lines.append(f"{events:>8,}{plain:>12.2f}{kept:>12.2f}{plain / kept:>8.1f}x")
    lines.append("")
    lines.append(
        f"memory of a resident aggregate with one event, of {RESIDENT:,}: "
        f"{resident.traced:,.0f} bytes traced, {resident.estimated:,} estimated by statistics()"
    )
    return "\n".join(lines)
