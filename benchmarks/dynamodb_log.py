"""The engine with its log in DynamoDB, and the floor of it: the bare client, without actors.

Rules: an emulator is started here for each cell, in a process of its own on the same machine: so
the ratio of the two tells something, and no figure of them is one of AWS. The floor makes
transactions of one size, one after the other, with events as the engine writes them, on the
condition that nothing came since. What a cell acknowledged is counted in the table.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, Final

import engine
from engine.stores.dynamodb.form import SEQUENCER, event_key
from engine.stores.dynamodb.parts import ITEMS_MAX
from tests.support.dynamodb_server import REGION, DynamoServer

from .histogram import Histogram
from .scenario import Wrong
from .systems import System, Target, commits_of, send_of
from .workload import BenchmarkOrder

__all__ = ["DURABLE", "dynamodb_system", "measure_client"]

DURABLE: Final = "an emulator of DynamoDB, MiniStack 1.4: in memory, on this machine, in Python"
_PAYLOAD: Final = json.dumps({"item": "mouse", "quantity": 3})
_METADATA: Final = json.dumps(
    {"key": "benchmark/1234567", "correlation": "benchmark", "principal": "client"}
)


@contextlib.contextmanager
def _server(folder: Path) -> Generator[DynamoServer]:
    server = DynamoServer(folder / "dynamodb")
    server.start()
    try:
        yield server
    finally:
        server.close()


async def _position(server: DynamoServer) -> int:
    client = await server.client()
    item = await client.get(SEQUENCER)
    await client.close()
    return int(item["position"]["N"]) if item is not None else 0


def dynamodb_system(*, keyed: bool) -> System:
    """Give the engine; keyed, each command has a key, a correlation and a principal."""
    found: dict[Path, int] = {}

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        with _server(folder) as server:
            url = server.store_url("lease=250", port=server.inner)
            async with engine.Engine([BenchmarkOrder], store=url, views="memory:") as running:
                yield Target(send_of(running, keyed=keyed), lambda: commits_of(running))
            found[folder] = await _position(server)

    return System(f"engine {'keyed' if keyed else 'bare'}", opened, found.__getitem__)


def measure_client(batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Make transactions of so many events by the client, one after the other."""
    with _server(folder) as server:
        return asyncio.run(_measure_client(server, min(batch, ITEMS_MAX - 1), seconds))


async def _measure_client(server: DynamoServer, batch: int, seconds: float) -> dict[str, float]:
    store = server.store("lease=250", port=server.inner)
    await store.open(engine.Ports())  # makes the table, and the item that is changed
    table, head, times = store.address.table, 0, Histogram()
    made: Any = importlib.import_module("aiobotocore.session")
    session, endpoint = made.get_session(), f"http://127.0.0.1:{server.inner}"
    async with session.create_client("dynamodb", REGION, endpoint_url=endpoint) as client:

        async def append() -> int:
            condition = {
                "TableName": table,
                "Key": SEQUENCER,
                "UpdateExpression": "SET #position = :after",
                "ConditionExpression": "#position = :before",
                "ExpressionAttributeNames": {"#position": "position"},
                "ExpressionAttributeValues": {
                    ":before": {"N": str(head)},
                    ":after": {"N": str(head + batch)},
                },
            }
            puts = [_put(table, head + number) for number in range(1, batch + 1)]
            await client.transact_write_items(TransactItems=[{"Update": condition}, *puts])
            return head + batch

        warm = time.perf_counter() + seconds / 4
        while time.perf_counter() < warm:
            head = await append()
        before = head
        started = time.perf_counter()
        while (begin := time.perf_counter()) < started + seconds:
            head = await append()
            times.record(time.perf_counter() - begin)
        took = time.perf_counter() - started
    await store.close()
    if (there := await _position(server)) != head:
        raise Wrong(f"{head:,} events were appended, and {there:,} are there")
    return {"commands": (head - before) / took, **times.milliseconds(), "events": batch}


def _put(table: str, position: int) -> dict[str, Any]:
    numbers = {"event_version": 1, "recorded": 1_764_446_400_000_000, "checksum": 4_294_967_295}
    item = {
        **event_key(f"order:{position:032x}", 1),
        **{name: {"N": str(number)} for name, number in numbers.items()},
        "position": {"N": str(position)},
        "name": {"S": "order-adjusted"},
        "payload": {"S": _PAYLOAD},
        "metadata": {"S": _METADATA},
    }
    condition = "attribute_not_exists(pk)"
    return {"Put": {"TableName": table, "ConditionExpression": condition, "Item": item}}
