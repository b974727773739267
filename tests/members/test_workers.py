"""Web workers that share one log, in a file and on a server: `python -m domain.web --workers 3`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from engine import Receipt
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend
from tests.domain.goods import ORDER
from tests.support.postgres import Server

ROOT = Path(__file__).parents[2]
ORDERS = 40
CLIENTS = 6
PAGES = 4


@asynccontextmanager
async def serving(store: str, workers: int) -> AsyncGenerator[str]:
    """Serve the shop by so many workers; give its address."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "domain.web", "--store", store],
        *["--workers", str(workers), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    draining = None
    try:
        address, ready = "", 0
        while ready < workers:
            line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
            assert line, "the server has ended"
            found = re.search(r"running on (http://[\d.:]+)", line)
            address = found.group(1) if found else address
            ready += "Application startup complete" in line
        draining = asyncio.create_task(process.stderr.read())
        yield address
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
        if draining is not None:
            await draining


def owner_of(store: str) -> int:
    found = open_backend(store).outside(Ports()).writer()
    assert found is not None
    return found


async def made(address: str, number: int) -> Receipt:
    """Make an order; send it again, with its key, until a worker has answered."""
    while True:
        # A connection of its own: each may come to another worker.
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            with suppress(httpx.TransportError):
                answer = await client.post(
                    "/orders", json=ORDER, headers={"Idempotency-Key": f'"{number}"'}
                )
                if answer.status_code != 503:
                    assert answer.status_code == 201, answer.text
                    return Receipt.from_token(answer.headers["foldline-receipt"])


async def look_on(address: str, orders: int) -> None:
    """Watch a live page until it shows so many orders; go on as a browser, whoever is killed."""
    last: dict[str, str] = {}
    while True:
        # A connection of its own: each may come to another worker.
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            with suppress(httpx.TransportError):
                async with client.stream("GET", "/live/overview", headers=last) as page:
                    assert page.status_code in (200, 503), page.status_code
                    async for line in page.aiter_lines():
                        name, _, value = line.partition(": ")
                        if name == "id":
                            last = {"Last-Event-ID": value}
                        if name == "data" and json.loads(value).get("pending") == orders:
                            return


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give where the workers' log is."""
    if request.param == "file":
        return f"sqlite:{tmp_path}/shop.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema())


async def test_workers_share_a_log_and_go_on_when_its_owner_is_killed(store: str) -> None:
    async with serving(store, 3) as address:
        numbers = iter(range(ORDERS))
        receipts: dict[int, Receipt] = {}

        async def client() -> None:
            for number in numbers:
                receipts[number] = await made(address, number)
                if number == ORDERS // 2:
                    owner = await asyncio.to_thread(owner_of, store)
                    os.kill(owner, signal.SIGKILL)

        pages = [asyncio.create_task(look_on(address, ORDERS)) for _ in range(PAGES)]
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

        assert sorted(receipt.position for receipt in receipts.values()) == [*range(1, ORDERS + 1)]
        async with asyncio.timeout(60):
            await asyncio.gather(*pages)
        again = [await made(address, number) for number in range(0, ORDERS, 7)]
        assert again == [receipts[number] for number in range(0, ORDERS, 7)]
        async with httpx.AsyncClient(base_url=address, timeout=60) as asking:
            for receipt in receipts.values():
                order = receipt.stream.removeprefix("order:")
                shown = await asking.get(f"/orders/{order}", params={"at": receipt.token})
                assert shown.status_code == 200, shown.text
