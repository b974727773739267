"""The entrance: whether a call may come in, that is, whether the engine runs, here.

Rules: an engine is used in the event loop and in the process in which it was started, between its
start and its end. Whatever else is refused at once, with a message that says who must do what. It
changes nothing, and knows nothing of what the call is about.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from .errors import Closed, UsageError
from .supervisor import State

__all__ = ["Entrance"]


class Entrance:
    """The entrance of one engine."""

    def __init__(
        self, state: Callable[[], State], failed: Callable[[], BaseException | None]
    ) -> None:
        """Take what tells the engine's state, and what ended it if it failed."""
        self._state = state
        self._failed = failed
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Let calls come in from this loop and this process."""
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def check(self) -> asyncio.AbstractEventLoop:
        """Give the loop, or raise what tells the caller why the engine cannot be used here."""
        expected = self.loop()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not expected:
            raise UsageError(
                "this engine runs in another event loop, or is used from another thread: call it "
                "from the loop in which it was started, or through `engine.portal()`"
            )
        return expected

    def loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop in which the engine runs; raise what prevents its use in this process."""
        if self._state() != "running":
            self._refuse_state()
        if os.getpid() != self._process:
            raise UsageError(
                f"this engine was started in process {self._process} and is used in "
                f"{os.getpid()}, after a fork: start an engine of its own in each process"
            )
        assert self._loop is not None
        return self._loop

    def _refuse_state(self) -> None:
        if self._state() in ("new", "starting"):
            raise UsageError("the engine has not been started: use it inside `async with engine:`")
        if self._state() == "failed":
            error = Closed("the engine has failed and runs no more commands; start a new one")
            raise error from self._failed()
        raise Closed("the engine is stopping or has stopped: nothing was run")
