"""A way to DynamoDB that answers otherwise than the service, as often as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web


class Moody:
    """A way to the service that answers otherwise than it, as often as a test says."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.port = 0
        self.operation = "TransactWriteItems"
        self.moods: list[str] = []
        """What happens to the next calls: `lost` (done, no answer), `cut` (not done, none), or
        what the service says instead of doing it."""
        self.seen: list[str] = []
        """The tokens of the calls."""
        self.lines: set[Any] = set()
        self.forgotten: set[Any] = set()
        """Connections that say nothing more, as behind a firewall that forgot them."""
        self.ended = asyncio.Event()
        self.expired = ""
        """An access key whose time is over."""

    async def serve(self, asked: web.Request) -> web.StreamResponse:
        self.lines.add(asked.transport)
        if asked.transport in self.forgotten:
            self.seen.append("forgotten")
            await self.ended.wait()
        body, target = await asked.read(), asked.headers.get("X-Amz-Target", "")
        mood = ""
        if target.endswith(f".{self.operation}"):
            self.seen.append(json.loads(body).get("ClientRequestToken", ""))
            mood = self.moods.pop(0) if self.moods else ""
        if self.expired and self.expired in asked.headers["Authorization"]:
            mood = "400 ExpiredTokenException"
        if mood in ("", "lost"):
            url = f"http://127.0.0.1:{self._port}/"
            async with (
                ClientSession() as session,
                session.post(url, data=body, headers=asked.headers) as answer,
            ):
                told = await answer.read()
                status, kind = answer.status, answer.headers["Content-Type"]
            if not mood:
                return web.Response(body=told, status=status, headers={"Content-Type": kind})
        if mood in ("lost", "cut"):
            assert asked.transport is not None
            asked.transport.abort()
            return web.Response()
        status_text, _, code = mood.partition(" ")
        told_json: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}"}
        if "," in code:
            told_json["__type"], _, reason = code.partition(",")
            told_json["CancellationReasons"] = [{"Code": reason}, {"Code": "None"}]
        return web.Response(
            body=json.dumps(told_json).encode(),
            status=int(status_text),
            headers={"Content-Type": "application/x-amz-json-1.0"},
        )


@asynccontextmanager
async def moody(port: int) -> AsyncGenerator[Moody]:
    made = Moody(port)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{any:.*}", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    made.ended.set()
    await runner.cleanup()
