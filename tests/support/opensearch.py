"""An emulator of OpenSearch for tests, and a gate before it that fails as real servers do.

The emulator (osmem) keeps all in memory, asks for no credentials and speaks no TLS: what it has is
gone with its process. The gate does what it cannot: it lets in who knows a password, encrypts,
answers in the server's place, and closes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.support.brokers import PASSWORD, USER, Broker

Answer = Callable[[str, str], web.Response | None]
"""Gives what is answered to a method and a path in the server's place; None for nothing."""


class OpenSearchServer(Broker):
    """The emulator, on a free port of the loopback."""

    scheme = "http"
    safe_scheme = "https"

    def command(self) -> Sequence[str]:
        found = importlib.util.find_spec("osmem_server")
        assert found is not None, "pip install osmem-server"
        assert found.origin is not None
        program = Path(found.origin).parent / "bin" / "osmem-server"
        return [str(program), "-no-stdin-watch", "-no-ja", "-addr", f"127.0.0.1:{self.port}"]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask it as a reader would; give the answer, or None where nothing is there."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{self.port}/{path}", json=body) as response,
        ):
            return None if response.status == 404 else await response.json()

    async def bulk(self, body: bytes) -> None:
        """Write as somebody did before."""
        url, headers = f"http://127.0.0.1:{self.port}/_bulk", {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            assert response.status == 200, await response.text()

    async def empty(self) -> None:
        """Remove all that it has."""
        for index in await self.ask("GET", "_cat/indices?format=json"):
            await self.ask("DELETE", index["index"])


class Gate:
    """Stands before the emulator."""

    def __init__(self, server: OpenSearchServer) -> None:
        self._server = server
        self.port = 0
        self.answer: Answer = lambda method, path: None
        self.asked: list[str] = []
        """Methods and paths that came."""
        self.seen: Callable[[str, bytes], Awaitable[None] | None] = lambda path, body: None
        """Is told of each request that goes on to the server, before it does."""
        self.loses = False
        """Whether the next answer of the server is lost, with the connection."""

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        known = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {known}":
            return web.Response(status=401, text="Unauthorized")
        answered = self.answer(request.method, request.path)
        if answered is not None:
            return answered
        url = f"http://127.0.0.1:{self._server.port}{request.path_qs}"
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        body = await request.read()
        waited = self.seen(request.path_qs, body)
        if waited is not None:
            await waited
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=body, headers=headers) as response,
        ):
            answer = web.Response(status=response.status, body=await response.read())
        if self.loses and request.transport is not None:
            self.loses = False
            request.transport.abort()
        return answer


@asynccontextmanager
async def gate_to(
    server: OpenSearchServer, certified: ssl.SSLContext | None = None, port: int = 0
) -> AsyncGenerator[Gate]:
    """Give a gate that is open."""
    gate = Gate(server)
    runner = web.ServerRunner(web.Server(gate.serve), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=certified)
    await site.start()
    gate.port = runner.addresses[0][1]
    try:
        yield gate
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)
