"""The demo behind the page: the replay, and a process that may be killed from it.

Rules: there is nothing of it but where the shop was started so, and only requests from this machine
may kill. What was acknowledged is noted where a kill cannot reach it, before the next life is asked
whether its log has all of it. The process is killed by SIGKILL, like by `kill -9`: nothing in it is
let finish.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine import Closed, Engine, Receipt
from engine.integrations.asgi import BadRequest

from ..importer.acknowledgements import Acknowledgements
from ..importer.invoices import SAMPLE, Invoices
from ..importer.proof import Found, LoggedKeys, acknowledged_in, keys_of
from ..importer.text_file import TextFile
from .replay import Replay, ReplayState, Step, schedule
from .requests import answered

__all__ = ["Demo", "DemoState", "is_loopback"]


class DemoState(msgspec.Struct, frozen=True):
    """What the page is told of the process behind it."""

    process: int
    life: int
    """1 for the first process, and one more after each kill; 0 where there is no demo."""
    killable: bool
    replay: ReplayState | None
    proof: Found | None
    """The log, as this process found it, compared with what was acknowledged before."""


class Demo:
    """What one life of the process does besides serving."""

    def __init__(self, life: int, acks: Path, seconds: float | None, *, killable: bool) -> None:
        self._life = life
        self._acks = acks
        self._seconds = seconds
        self._killable = killable
        self._replay: Replay | None = None
        self._proof: Found | None = None

    @asynccontextmanager
    async def playing(self, engine: Engine) -> AsyncGenerator[None]:
        """Compare the log with what was acknowledged, and send orders while the block runs."""
        logged = await keys_of(engine)
        if self._life > 1:
            with self._acks.open() as lines:
                self._proof = logged.compare(dict(acknowledged_in(lines)))
        with Acknowledgements(self._acks) as acks:
            playing = asyncio.create_task(self._play(engine, logged, acks.add))
            try:
                yield
            finally:
                playing.cancel()
                with suppress(asyncio.CancelledError, Closed):
                    await playing

    async def _play(
        self, engine: Engine, logged: LoggedKeys, acknowledged: Callable[[str, Receipt], None]
    ) -> None:
        if self._seconds is None:
            return
        # In a thread, since to read two weeks of invoices takes a while.
        steps = await asyncio.to_thread(_steps, self._seconds)
        self._replay = Replay(steps, self._seconds)
        await self._replay.play(engine, logged, acknowledged)

    async def show(self, request: Request) -> Response:
        """Tell which process answers, how far the replay is, and what a kill left."""
        state = DemoState(
            os.getpid(),
            self._life,
            self._killable,
            None if self._replay is None else self._replay.state,
            self._proof,
        )
        return answered(200, state)

    async def kill(self, request: Request) -> Response:
        """Kill this process, as `kill -9` does; another one takes its place."""
        if not self._killable or request.client is None or not is_loopback(request.client.host):
            raise BadRequest(403, "not-here", "only the demo's own machine may kill its process")
        # Whoever gets no answer may send it again, and does not mean the next process then.
        if request.query_params.get("life") != str(self._life):
            raise BadRequest(409, "other-life", f"this is life {self._life}: say so by ?life=")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives that")


async def no_demo(_: Request) -> Response:
    """Tell that there is no demo."""
    return answered(200, DemoState(0, 0, killable=False, replay=None, proof=None))


def is_loopback(host: str) -> bool:
    """Tell whether an address, or a name, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _steps(seconds: float) -> Sequence[Step]:
    with TextFile(SAMPLE) as file:
        return schedule(list(Invoices(file)), seconds)
