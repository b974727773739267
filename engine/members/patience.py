"""Commands of a stream that find the engine full: they wait for their turn, and keep their order.

Rules: they are sent one after the other, so that none overtakes the one that waits before it. The
first is sent at once, so that what comes behind it by another way does not overtake it either. Who
sends one command, and not a stream, is told at once that the engine is full, and never waits here.
Each is told once what became of it. How many wait is bounded by whoever lets them in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from ..errors import Overloaded
from ..model.messages import Receipt
from ..runtime.futures import retrieve
from ..runtime.safely import as_error
from ..write.mailbox import Sent

__all__ = ["Patience"]

_REST_SECONDS: Final = 0.005
"""Between two tries at an engine that is full."""

Post: TypeAlias = Callable[[], Sent]
Tell: TypeAlias = Callable[["asyncio.Future[Receipt] | Exception"], None]


class Patience:
    """One line of such commands."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Post, Tell]] = deque()
        self._task: asyncio.Task[None] | None = None

    def take(self, post: Post, tell: Tell) -> asyncio.Task[None] | None:
        """Send by `post`, as soon as that can be; `tell` the answer to come, or the error.

        Gives the task that does so, if it was begun for this one.
        """
        if not self._waiting:
            try:
                sent = post()
            except Overloaded:
                pass
            except BaseException as error:  # of a class of the host's, whatever it is
                tell(as_error(error))
                return None
            else:
                if isinstance(sent, asyncio.Future):
                    tell(sent)
                    return None
                post = _again([sent], post)
        self._waiting.append((post, tell))
        if self._task is not None and not self._task.done():
            return None
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(retrieve)
        return self._task

    @property
    def is_waiting(self) -> bool:
        """Whether one has not been sent yet."""
        return bool(self._waiting)

    async def _run(self) -> None:
        while self._waiting:
            post, tell = self._waiting[0]
            try:
                sent = post()
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


def _again(sent: list[Sent], post: Post) -> Post:
    """Give what was sent already, then send."""
    return lambda: sent.pop() if sent else post()
