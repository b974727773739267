"""An app of live streams: as Starlette, FastAPI and plain ASGI make them, over one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from engine import Engine, Query, Views, answers
from engine.integrations.asgi import EngineMiddleware
from engine.integrations.event_stream import event_stream, last_event
from tests.support.counters import Add, Counter
from tests.support.tallies import GetTally, Tallies, get_tally


class Large(Query[tuple[int, str]]):
    """A tally in an answer that no buffer of a connection holds many of."""

    counter: str


@answers
async def get_large(query: Large, views: Views) -> tuple[int, str]:
    row = await views.get(Tallies.rows, query.counter)
    return (0 if row is None else row.total, "x" * 500_000)


class _Running:
    engine: Engine


running = _Running()


def authorize(principal: str | None, action: str, message: Any) -> bool:
    return principal != "eve"


@asynccontextmanager
async def lifespan(app: Any) -> AsyncGenerator[None]:
    engine = Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_large],
        store="sqlite:live.db",
        authorize=authorize,
    )
    async with engine:
        running.engine = engine
        yield
    print("drained", flush=True)


async def add(request: Request) -> Response:
    receipt = await running.engine.execute(Add(request.path_params["counter"], 1))
    return Response(receipt.token)


async def live(request: Request) -> Any:
    query = request.query_params
    watched = running.engine.watch(
        GetTally(request.path_params["counter"]),
        at=last_event(request.headers, query.get("at")),
        principal=query.get("principal"),
    )
    return await event_stream(watched, heartbeat_seconds=float(query.get("heartbeat", "15")))


async def large(request: Request) -> Any:
    return await event_stream(running.engine.watch(Large(request.path_params["counter"])))


async def feed(request: Request) -> Any:
    query, seen = request.query_params, last_event(request.headers)
    return await event_stream(
        running.engine.feed(
            0 if seen is None else seen.position,
            names=[query["name"]] if "name" in query else None,
            follow=True,
            principal=query.get("principal"),
        ),
        heartbeat_seconds=float(query.get("heartbeat", "15")),
    )


async def numbers(request: Request) -> Response:
    found = running.engine.statistics()
    return Response(msgspec.json.encode({"watchers": found.live.watchers}))


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Answer without any framework, and without reading the request."""
    stream = await event_stream(running.engine.watch(GetTally("plain")))
    await stream(scope, receive, send)


fast = FastAPI()


@fast.get("/{counter}")
async def fast_live(counter: str) -> StreamingResponse:
    stream = await event_stream(running.engine.watch(GetTally(counter)))
    return StreamingResponse(stream, headers=stream.headers)


async def stop(request: Request) -> Response:
    """End the engine under the streams."""
    asyncio.get_running_loop().call_soon(running.engine._wiring.supervisor._stop_asked.set)
    return Response(b"")


app = Starlette(
    routes=[
        Route("/counters/{counter}", add, methods=["POST"]),
        Route("/live/{counter}", live),
        Route("/large/{counter}", large),
        Route("/feed", feed),
        Route("/numbers", numbers),
        Route("/stop", stop, methods=["POST"]),
        Mount("/plain", plain),
        Mount("/fast", fast),
    ],
    middleware=[Middleware(EngineMiddleware, body_seconds=0.5)],
    lifespan=lifespan,
)
