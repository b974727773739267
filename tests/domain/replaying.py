"""`python -m domain.web --replay`, as a test has it: the parent's process, and where it serves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integrations.serving import Server

__all__ = ["Replayed", "replaying"]

ROOT = Path(__file__).parents[2]

Replayed = Server


@asynccontextmanager
async def replaying(seconds: float | None, *options: str) -> AsyncGenerator[Replayed]:
    """Serve a replay, or the demo without one; end it as an operator does."""
    demo = ["--demo"] if seconds is None else ["--replay", str(seconds)]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "domain.web", *demo, "--port", "0", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    served = Replayed(process)
    try:
        await served.until_ready()
        yield served
    finally:
        await served.end()
