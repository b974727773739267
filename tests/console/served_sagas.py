"""The console of an engine with process managers, as a browser's tests are served it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount

from engine import Engine
from engine.integrations.console import Console
from tests.kit.simulated_orders import Card, Order, Paying, Place

engine = Engine([Order, Card, Paying], store=f"sqlite:{Path(os.environ['NOTES']) / 'orders.db'}")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    async with engine:
        for number in (5, 10, 7):  # a bank that gets five or ten never answers
            await engine.execute(Place(f"o-{number}", number), key=f"place {number}")
        async for logged in engine.feed(names=["finished"], follow=True):
            if logged.meta.id == "o-7":
                break
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[Mount("/ops", Console(engine, title="Orders", principal_of=lambda _: "ann"))],
)
