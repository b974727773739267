"""The console of an engine of notes, as a browser's tests are served it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from engine import Retention
from engine.integrations.console import Console
from tests.console.consoling import AILING, Note, Write, Written, caught_up, make_engine

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
"""What would run, if anything of the log became markup."""


RULES = [
    Retention(Note, [Written], archive_after=timedelta(0), erase_after=timedelta(0)),
]


class App:
    """Starlette, with an engine that has parked events, in a folder of its own."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app = self._make()
        await self._app(scope, receive, send)

    def _make(self) -> Starlette:
        engine = make_engine(f"sqlite:{Path(os.environ['NOTES']) / 'notes.db'}")

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            async with engine:
                await _fill(engine)
                yield

        console = Console(
            engine, title=f"Notes {HOSTILE}", principal_of=lambda _: "ann", rules=RULES
        )
        return Starlette(lifespan=lifespan, routes=[Mount("/ops", console)])


async def _fill(engine: Any) -> None:
    AILING.update(f"bad-{n}" for n in range(60))
    AILING.add(HOSTILE)
    for n in range(3):
        await engine.execute(Write("n-1", f"text {n} of the first note"), principal="bob")
    hostile = Write(HOSTILE, HOSTILE, HOSTILE, "signed")
    await engine.execute(hostile, principal=HOSTILE, correlation=HOSTILE)
    async for _ in engine.execute_many(Write(f"bad-{n}", f"bad {n}") for n in range(60)):
        pass
    await caught_up(engine)


app = App()
