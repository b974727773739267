"""A line to a server that is cut: before a request, in the middle of one, or before its answer.

Rules: it runs in the test's own loop. What it cuts is said beforehand, or drawn from a seed. A
connection that begins is never cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Literal

Fault = Literal["request", "half", "reply", "late"]
"""What is lost: a request, the second half of it, its reply; or the request comes late."""


class CutLine:
    """A proxy before a server on loopback."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.port = 0
        self._server_port = port
        self._random = random.Random(seed)
        self._next: list[Fault] = []
        self._rates: dict[Fault, float] = {}
        self.cuts: dict[Fault, int] = {"request": 0, "half": 0, "reply": 0, "late": 0}
        self._late: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_next(self, *faults: Fault) -> None:
        """Cut so with the next requests, one after the other, on whatever connection they come."""
        self._next += faults

    def cut_often(self, **rates: float) -> None:
        """Cut this share of all requests; none from here on without."""
        self._rates = {fault: rates[fault] for fault in self.cuts if fault in rates}

    def release_late(self) -> None:
        """Let what was held back arrive at the server."""
        for release in self._late:
            release()
        self._late.clear()

    def drawn(self) -> Fault | None:
        """Give what happens to a request."""
        if self._next:
            return self._next.pop(0)
        for fault, rate in self._rates.items():
            if self._random.random() < rate:
                return fault
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stand between a client and the server until either has gone."""
        try:
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        await _Connection(self, (reader, writer), server).run()


class _Connection:
    """One connection through the proxy."""

    def __init__(
        self,
        line: CutLine,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._line = line
        self._client_reader, self._client = client
        self._server_reader, self._server = server
        self._loses_reply = False
        self._begun = 0
        self._holds = False

    async def run(self) -> None:
        tasks = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._client.transport.abort()
            if not self._holds:
                self._server.transport.abort()
            for task in tasks:
                task.cancel()

    async def _requests(self) -> None:
        while data := await self._client_reader.read(1 << 20):
            # What begins with a letter is a message behind the beginning; B binds, Q queries.
            fault = self._line.drawn() if data[:1] in b"BQ" and self._begun else None
            self._begun += 1
            if fault is None or fault == "reply":
                self._loses_reply = fault == "reply"
                self._server.write(data)
                await self._server.drain()
                continue
            self._line.cuts[fault] += 1
            if fault == "half":
                self._server.write(data[: len(data) // 2])
                await self._server.drain()
            elif fault == "late":
                self._holds = True
                self._line._late.append(partial(self._release, data))
            return

    def _release(self, data: bytes) -> None:
        self._server.write(data)
        self._server.close()

    async def _replies(self) -> None:
        while data := await self._server_reader.read(1 << 20):
            if self._loses_reply:
                self._line.cuts["reply"] += 1
                return
            self._client.write(data)
            await self._client.drain()


@asynccontextmanager
async def cut_line(port: int, seed: int = 0) -> AsyncIterator[CutLine]:
    """Listen before the server on `port`; give the line, whose own `port` is to be used."""
    line = CutLine(port, seed)
    listening = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.port = listening.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        listening.close()
        line.release_late()
