"""The server of this process: whether it has begun to stop, and letting it stop.

Rules: ASGI has no word for either. Uvicorn, under gunicorn too, handles SIGTERM by a method of its
server, which has `should_exit`; of another server nothing is known, and nothing is done to it.
Nothing here imports a server.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from ..engine import Engine

__all__ = ["server_is_stopping", "stop_server", "stopping_with"]

LOOK_SECONDS: Final = 0.25
"""How often somebody looks whether the server must stop, or has begun to."""


def server_is_stopping() -> bool:
    """Say whether the server of this process has begun to stop, if that can be known.

    Give `event_stream(stopping=...)` for a server of which it cannot.
    """
    return getattr(_server(), "should_exit", False) is True


def stop_server() -> bool:
    """Let the server of this process begin to stop, where `server_is_stopping` can know it.

    Gives whether there is such a server: another one continues.
    """
    server = _server()
    if not isinstance(getattr(server, "should_exit", None), bool):
        return False
    server.should_exit = True
    return True


def _server() -> Any:
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


@asynccontextmanager
async def stopping_with(
    engine: Engine, stop: Callable[[], object] = stop_server
) -> AsyncGenerator[None]:
    """Let the server stop if the engine fails, so that a supervisor starts both again.

    For the lifespan of an app: `async with make_engine() as engine, stopping_with(engine): yield`.
    Uvicorn is stopped; give a `stop` that begins to stop another server, as FastStream's
    `app.exit`. It is called once; what it returns is awaited if that can be.
    """
    stopping = asyncio.create_task(_stop_with(engine, stop))
    try:
        yield
    finally:
        stopping.cancel()


async def _stop_with(engine: Engine, stop: Callable[[], object]) -> None:
    while engine.failed is None:  # noqa: ASYNC110 - of who has failed nothing rings a bell
        await asyncio.sleep(LOOK_SECONDS)
    stopped = stop()
    if inspect.isawaitable(stopped):
        await stopped
