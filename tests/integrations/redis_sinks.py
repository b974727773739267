"""A real Redis server, sinks that deliver to it, and a process that is killed between two steps."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TooLate

from engine import Delivery, Engine, Limits, Ports, Projection, Query, Sink, Views, answers
from tests.support.counters import Added, Counter

READY_SECONDS = 60
INSTALL = "there is no redis-server: install it with `apt-get install -y redis-server`"


class RedisServer:
    """One server in a folder, on a port of the loopback; what it has is there after a kill."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, on the port that it had, and see that it is this one that answers."""
        self.port = self.port or _free_port()
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always", "logfile": ""}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._process = await asyncio.create_subprocess_exec(
            self._program, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            log = b""
            while b"Ready to accept connections" not in log:
                line = await self._process.stdout.readline()
                assert line, f"the server ended:\n{log.decode()}"
                log += line
        async with client_of(self.url) as client:
            told: Mapping[str, object] = await client.info("server")
        assert told["process_id"] == self._process.pid, "another server has this port"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncGenerator[RedisServer]:
    """Give a server that runs; skip the test where none is installed, or fail in CI."""
    program = shutil.which("redis-server")
    if program is None:
        assert os.environ.get("CI") != "true", INSTALL
        pytest.skip(INSTALL)
    server = RedisServer(folder, program)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def client_of(url: str) -> Redis:
    """Give a client that leaves it to the sink to try again."""
    return Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0))


ADD_ONCE = """
redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
if tonumber(redis.call('HGET', KEYS[1], 'position') or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'position', ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'total', ARGV[2])
"""


class Totals(Sink, name="outside", version=1, slices=2):
    """Keeps a total per counter, which no delivery counts in twice."""

    transient = (NoConnection, TooLate, OSError)

    async def deliver(self, batch: Sequence[Delivery[Added]], redis: Redis) -> None:
        async with redis.pipeline(transaction=False) as commands:
            for delivery in batch:
                key = f"total:{delivery.meta.id}"
                commands.eval(ADD_ONCE, 1, key, delivery.position, delivery.event.amount)
            await commands.execute()


class Copied(Sink, name="outside", version=1):
    """Appends to a Redis stream, which refuses a position that it has."""

    transient = (NoConnection, TooLate, OSError)

    async def deliver(self, batch: Sequence[Delivery[Added]], redis: Redis) -> None:
        async with redis.pipeline(transaction=False) as commands:
            for delivery in batch:
                fields = {"counter": delivery.meta.id, "amount": delivery.event.amount}
                commands.xadd("copy", fields, id=f"{delivery.position}-0")  # type: ignore[arg-type]
            for answer in await commands.execute(raise_on_error=False):
                if isinstance(answer, Exception) and not _has_it(answer):
                    raise answer


def _has_it(answer: Exception) -> bool:
    return isinstance(answer, ResponseError) and "equal or smaller" in str(answer)


class Delivered(Query[None]):
    pass


def sinking(
    sink: type[Projection], client: Redis, store: str, ports: Ports | None = None
) -> Engine:
    @answers(projections=[sink])
    async def delivered(query: Delivered, views: Views) -> None:
        return None

    return Engine(
        [Counter],
        projections=[sink],
        answers=[delivered],
        store=store,
        resources={Redis: client},
        ports=ports,
        limits=Limits(sink_events=10),
    )


async def deliver_and_die(store: str, url: str, hit: int) -> None:
    """Be killed when so many deliveries have come through, before the checkpoint moves."""
    hits = 0

    def die(name: str) -> None:
        nonlocal hits
        hits += name == "sink.delivered"
        if hits == hit:
            os.kill(os.getpid(), signal.SIGKILL)

    async with client_of(url) as client, sinking(Totals, client, store, Ports(failpoint=die)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(deliver_and_die(sys.argv[1], sys.argv[2], int(sys.argv[3])))
