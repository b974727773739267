"""Several owners behind a PgBouncer whose server restarts: all that was sent goes through, once."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Final

import pytest

from engine import Engine
from tests.support.counters import Add, Counter
from tests.support.pgbouncer import pooler
from tests.support.postgres import Server, postgres_server, wheel_programs

_STRANGERS: Final = 500
_PROTOCOL: Final = 196_608


@pytest.fixture
def server() -> Iterator[Server]:
    with postgres_server(wheel_programs()) as started:
        yield started


async def test_all_that_was_sent_meanwhile_is_run_once(server: Server) -> None:
    with pooler(server, size=20) as port:
        log = server.url("foldline", "lease=2", port=port)
        async with asyncio.timeout(90), AsyncExitStack() as stack:
            engines = [Engine([Counter], store=log, join="spread") for _ in range(2)]
            for engine in engines:
                await stack.enter_async_context(engine)
            await asyncio.gather(*(engines[n % 2].execute(Add(f"c{n}", 1)) for n in range(8)))
            await asyncio.to_thread(server.stop)
            sent = [
                asyncio.create_task(engines[n % 2].execute(Add(f"c{n % 8}", 1), key=str(n)))
                for n in range(40)
            ]
            await asyncio.gather(*(told_of_a_stranger(port) for _ in range(_STRANGERS)))
            await asyncio.to_thread(server.start)

            receipts = await asyncio.gather(*sent)

            assert sorted(receipt.position for receipt in receipts) == list(range(9, 49))
            states = [await engines[0].state(Counter, f"c{n}") for n in range(8)]
            assert [state.total for state in states] == [6] * 8


async def told_of_a_stranger(port: int) -> None:
    """Have the pooler refuse somebody, of whom it says more than a pipe takes in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = struct.pack(">i", _PROTOCOL) + b"user\0" + b"x" * 60 + b"\0database\0postgres\0\0"
    writer.write(struct.pack(">i", len(body) + 4) + body)
    await reader.read()
    writer.close()
