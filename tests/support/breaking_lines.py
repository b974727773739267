"""A way to a server on loopback that breaks when a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Line:
    """A way to a server that breaks when so many bytes have gone through it."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.port = 0
        self.left: int | None = None
        """Bytes until it breaks, in the direction of the server; None for never."""
        self.cuts = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._silent: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections through it."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def silence(self) -> None:
        """Let all connections through it say nothing more to either end, and not end."""
        self._silent.update(self._writers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, forth]
        answers = asyncio.ensure_future(self._answer(back, writer))
        try:
            while data := await reader.read(65_536):
                if writer in self._silent:
                    continue
                if self.left is not None:
                    part, self.left = data[: self.left], self.left - len(data)
                    if self.left <= 0:
                        forth.write(part)
                        await forth.drain()
                        self.left, self.cuts = None, self.cuts + 1
                        break
                forth.write(data)
                await forth.drain()
        except OSError:
            pass
        finally:
            answers.cancel()
            for end in (writer, forth):
                end.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if writer in self._silent:
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        if writer not in self._silent:
            writer.transport.abort()


@asynccontextmanager
async def line_to(port: int) -> AsyncGenerator[Line]:
    """Give a way to a server on loopback."""
    line = Line(port)
    async with await asyncio.start_server(line.serve, "127.0.0.1", 0) as listening:
        line.port = listening.sockets[0].getsockname()[1]
        yield line
