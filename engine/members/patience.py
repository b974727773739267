"""Commands of a stream that find the engine full: they wait for their turn, and keep their order.

Rules: they are sent one after the other, so that none overtakes the one that waits before it. Who
sends one command, and not a stream, is told at once that the engine is full, and never waits here.
Each is told once what became of it. How many wait is bounded by whoever lets them in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from ..errors import Overloaded
from ..model.messages import Envelope, Receipt
from ..runtime.futures import retrieve
from ..runtime.safely import as_error
from ..write.bulk import Send

__all__ = ["Patience"]

_REST_SECONDS: Final = 0.005
"""Between two tries at an engine that is full."""

Make: TypeAlias = Callable[[], Envelope]
Tell: TypeAlias = Callable[["asyncio.Future[Receipt] | Exception"], None]


class Patience:
    """One line of such commands."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[tuple[Make, Tell]] = deque()
        self._task: asyncio.Task[None] | None = None

    def take(self, make: Make, tell: Tell) -> asyncio.Task[None] | None:
        """Send what `make` gives, as soon as it can be; `tell` its answer to come, or its error.

        Gives the task that does so, if it was begun for this one.
        """
        self._waiting.append((make, tell))
        if self._task is not None and not self._task.done():
            return None
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(retrieve)
        return self._task

    async def _run(self) -> None:
        while self._waiting:
            make, tell = self._waiting[0]
            try:
                sent = self._send(make())
                answer = sent if isinstance(sent, asyncio.Future) else await sent
            except Overloaded:
                await asyncio.sleep(_REST_SECONDS)
                continue
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # of a class of the host's, whatever it is
                self._waiting.popleft()
                tell(as_error(error))
                continue
            self._waiting.popleft()
            tell(answer)
