"""The entrance: whether a call may come in, that is, whether the engine runs, here.

Rules: an engine is used in the event loop and in the process in which it was started, between its
start and its end. Whatever else is refused at once, with a message that says who must do what. It
changes nothing, and knows nothing of what the call is about. Every command comes through here: what
lets it in asks the system nothing, and what refuses it takes its time.
"""

from __future__ import annotations

import asyncio
import os
from typing import NoReturn

from ..errors import Closed, UsageError
from ..runtime.loops import running_loop
from .supervisor import Life

__all__ = ["Entrance", "this_process"]

_process = os.getpid()
"""This process. A fork is told of by the interpreter, and asking costs a call of the system."""


class Entrance:
    """The entrance of one engine."""

    def __init__(self, life: Life) -> None:
        """Take what tells the engine's state, and what ended it if it failed."""
        self._life = life
        self._opened: dict[str, tuple[asyncio.AbstractEventLoop, int]] = {}
        """Where it was started: loop and process."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def open(self) -> None:
        """Let calls come in from this loop and this process, and from no other for ever.

        Raises UsageError where that was done before, and without a loop of asyncio.
        """
        here = running_loop("an engine"), _process
        # One step, also where two threads start one engine: the first has it.
        if self._life.state != "new" or self._opened.setdefault("here", here) is not here:
            raise UsageError("an engine is started once: make a new Engine for the next start")
        self._loop, self._process = here

    def check(self) -> asyncio.AbstractEventLoop:
        """Give the loop, or raise what tells the caller why the engine cannot be used here."""
        loop = self._loop
        try:
            if (
                loop is not None
                and self._life.state == "running"
                and self._process == _process
                and asyncio.get_running_loop() is loop
            ):
                return loop
        except RuntimeError:
            pass  # no loop runs here, or the stack is used up: told apart below
        return self._check_loop(self.loop())

    def check_end(self) -> None:
        """Raise UsageError where the engine cannot be ended from here; it may have failed."""
        if not self._opened:
            raise UsageError("the engine has not been started, and does not end")
        self._check_loop(self._check_process())

    def _check_loop(self, expected: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RecursionError:
            raise  # the caller's stack is used up
        except RuntimeError:
            loop = None
        if loop is not expected:
            if not expected.is_running():
                raise UsageError(
                    "this engine was started in another event loop, which does not run now: call "
                    "it in that loop. In pytest, give the fixture of the engine and its tests one "
                    "loop, as by `loop_scope` of pytest-asyncio. Nothing was run."
                )
            raise UsageError(
                "this engine runs in another event loop, or is used from another thread: call it "
                "from the loop in which it was started, or through `engine.portal()`"
            )
        return expected

    def loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop in which the engine runs; raise what prevents its use in this process."""
        if self._life.state != "running":
            self._refuse_state()
        return self._check_process()

    def _check_process(self) -> asyncio.AbstractEventLoop:
        loop, process = self._opened["here"]
        if process != _process:
            raise UsageError(
                f"this engine was started in process {process} and is used in {_process}, "
                f"after a fork: start an engine of its own in each process"
            )
        return loop

    @property
    def has_forked(self) -> bool:
        """Whether this process has forked from the one in which the engine was started."""
        return bool(self._opened) and self._opened["here"][1] != _process

    @property
    def loop_of_start(self) -> asyncio.AbstractEventLoop:
        """The event loop in which it was started."""
        return self._opened["here"][0]

    def is_elsewhere(self) -> bool:
        """Tell whether it was started in another event loop than the one that runs here."""
        return bool(self._opened) and asyncio.get_running_loop() is not self.loop_of_start

    def is_ending(self) -> bool:
        """Tell whether the engine has begun to stop, or has failed: it takes no more commands."""
        return self._life.state in ("stopping", "stopped", "failed")

    def _refuse_state(self) -> NoReturn:
        if self._life.state in ("new", "starting"):
            raise UsageError("the engine has not been started: use it inside `async with engine:`")
        if self._life.state == "failed":
            error = Closed("the engine has failed and runs no more commands; start a new one")
            raise error from self._life.failed
        raise Closed("the engine is stopping or has stopped: nothing was run")


def this_process() -> int:
    """Give the number of this process, without a call of the system."""
    return _process


def _note_fork() -> None:
    global _process
    _process = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
