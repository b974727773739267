"""A real uvicorn in a process of its own, on a port that the kernel gives."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

READY_SECONDS = 60


class Server:
    """One uvicorn process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""
        self.url = ""
        self.port = 0

    async def until_ready(self) -> None:
        assert self.process.stderr is not None
        async with asyncio.timeout(READY_SECONDS):
            while True:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"the server ended:\n{self.log}"
                self.log += line
                found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
                if found:
                    self.port = int(found[1])
                    self.url = f"http://127.0.0.1:{self.port}"
                    return

    async def end(self, how: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(how)
        assert self.process.stderr is not None
        rest = await self.process.stderr.read()
        self.log += rest.decode()
        return await self.process.wait()


@asynccontextmanager
async def server(
    app: str,
    folder: Path,
    *,
    options: Sequence[str] = (),
    python: str = sys.executable,
    **environment: str,
) -> AsyncGenerator[Server]:
    """Serve `module:app` of a folder; end it like an operator does."""
    process = await asyncio.create_subprocess_exec(
        *[python, "-m", "uvicorn", app, "--port", "0", "--app-dir", str(folder), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    served = Server(process)
    try:
        await served.until_ready()
        yield served
    finally:
        await served.end()


@asynccontextmanager
async def serving(app: str, folder: Path, python: str) -> AsyncGenerator[str]:
    """Serve an app with what an environment has installed, and nothing else; give its URL."""
    async with server(app, folder, python=python, PYTHONPATH="") as served:
        yield served.url
