"""The engine with its log in UmaDB, and the floor of it: the bare client, without actors.

Rules: a server is started here for each cell, on the same machine and disk as everything else. The
floor sends batches of one size, one after the other, with events as the engine writes them, on the
condition that nothing came since. What a cell acknowledged is counted by another client.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import engine
from engine.stores.umadb.calls import umadb
from engine.stores.umadb.form import AHEAD
from tests.support.umadb_server import UmadbServer

from .histogram import Histogram
from .scenario import Wrong
from .systems import System, Target, commits_of, send_of
from .workload import BenchmarkOrder

__all__ = ["DURABLE", "measure_client", "umadb_system"]

DURABLE: Final = "UmaDB 0.7: synchronous mode, as it is by itself; on this machine"
_PAYLOAD: Final = json.dumps({"item": "mouse", "quantity": 3}).encode()
_METADATA: Final = json.dumps(
    {"key": "benchmark/1234567", "correlation": "benchmark", "principal": "client"}
)


@contextlib.contextmanager
def _server(folder: Path) -> Any:
    server = UmadbServer(folder / "umadb")
    server.start()
    try:
        yield server
    finally:
        server.close()


def umadb_system(*, keyed: bool) -> System:
    """Give the engine; keyed, each command has a key, a correlation and a principal."""
    found: dict[Path, int] = {}

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        with _server(folder) as server:
            url = server.store_url("lease=9")
            async with engine.Engine([BenchmarkOrder], store=url, views="memory:") as running:
                yield Target(send_of(running, keyed=keyed), lambda: commits_of(running))
            found[folder] = (server.client().head() or AHEAD) - AHEAD

    return System(f"engine {'keyed' if keyed else 'bare'}", opened, found.__getitem__)


def measure_client(batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Append batches of so many events by the client, one after the other."""
    module, times, head = umadb(), Histogram(), 0
    with _server(folder) as server:
        client = server.client()

        def append() -> int:
            numbers = "12 1 1764446400000000 0 4294967295"
            events = [
                module.Event(
                    "order-adjusted",
                    _PAYLOAD,
                    [f"stream=order:{number:032x}"],
                    uuid.UUID(int=head + number),
                    {"foldline": numbers, "metadata": _METADATA},
                )
                for number in range(batch)
            ]
            condition = module.AppendCondition(module.Query(), head or None)
            tracking = module.TrackingInfo("floor", head + 1)
            appended: int = client.append(events, condition, tracking)
            return appended

        warm = time.perf_counter() + seconds / 4
        while time.perf_counter() < warm:
            head = append()
        before = head
        started = time.perf_counter()
        while (begin := time.perf_counter()) < started + seconds:
            head = append()
            times.record(time.perf_counter() - begin)
        took = time.perf_counter() - started
        if client.head() != head:
            raise Wrong(f"{head:,} events were appended, and {client.head():,} are there")
    return {"commands": (head - before) / took, **times.milliseconds(), "events": batch}
