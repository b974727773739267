"""Calls on the link that writes views, which run to their end whoever gives up waiting for them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

from engine import StoreFailed
from tests.support.postgres import Server
from tests.support.tallies import tallied
from tests.support.waiting import until


async def test_what_fails_when_nobody_waits_any_more_is_told_to_nobody(postgres: Server) -> None:
    """As where a former owner ends its projections, and the log is another one's."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with tallied(postgres.url(postgres.new_schema())) as engine:
        lane: Any = cast("Any", engine)._wiring.views._lane
        begun, goes = asyncio.Event(), asyncio.Event()

        async def fail(_: object) -> None:
            begun.set()
            await goes.wait()
            raise StoreFailed("another one has the log", written=False)

        asking = asyncio.ensure_future(lane.run(fail))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        running = len(lane._running)
        goes.set()
        await until(lambda: len(lane._running) < running)
        del asking
        gc.collect()

    assert told == []
