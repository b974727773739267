"""Whether the shop is well, for who keeps it running.

Rules: alive is whoever answers; ready is who runs commands and keeps every view up. Health is told
to everybody; the engine's numbers are for inside.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .bodies import Health
from .requests import answered, engine_of

__all__ = ["alive", "ready", "statistics"]


async def alive(_: Request) -> Response:
    """Tell that the process answers."""
    return Response(status_code=204)


async def ready(request: Request) -> Response:
    """Tell whether commands are run and every view is kept up."""
    engine = engine_of(request)
    states = {name: p.state for name, p in engine.statistics().projectors.items()}
    fit = engine.failed is None and "stopped" not in states.values()
    return answered(200 if fit else 503, Health(engine.statistics().state, states))


async def statistics(request: Request) -> Response:
    """Give the engine's numbers; keep them from the outside world."""
    return answered(200, engine_of(request).statistics())
