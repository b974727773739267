"""Sends a stream of commands through a bounded window, and gives their answers in order.

Rules: at most `window` commands are in the engine at a time; an answer that is an error is given
and not raised; a full engine slows the stream down and loses nothing. It knows the engine only as
a function that takes an envelope and gives the future of its answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import TypeAlias

from .errors import EngineError, Overloaded, UsageError
from .messages import Command, Envelope, Receipt
from .supervisor import retrieve

__all__ = ["Commands", "run_many"]

_SENT_PER_TURN = 32
"""Commands sent before the event loop gets its turn."""

Commands: TypeAlias = Iterable[Envelope | Command] | AsyncIterable[Envelope | Command]


async def run_many(
    commands: Commands,
    window: int,
    send: Callable[[Envelope], Awaitable[asyncio.Future[Receipt]]],
) -> AsyncGenerator[Receipt | EngineError, None]:
    """Give the answers to `commands` in their order; see `Engine.execute_many`."""
    if window < 1:
        raise UsageError(f"window is {window}: give at least 1")
    outstanding: deque[asyncio.Future[Receipt]] = deque()
    try:
        async for number, command in _numbered(commands):
            if number % _SENT_PER_TURN == 0:
                # The caller may read a file in between: filling the window is not to hold up all.
                await asyncio.sleep(0)
            envelope = command if isinstance(command, Envelope) else Envelope(command=command)
            if len(outstanding) >= window:
                yield await _answer(outstanding.popleft())
            while True:
                try:
                    outstanding.append(await send(envelope))
                except Overloaded as overloaded:
                    if outstanding:
                        yield await _answer(outstanding.popleft())
                        continue
                    yield overloaded
                except EngineError as error:
                    # Its place in the order is behind what is outstanding.
                    while outstanding:
                        yield await _answer(outstanding.popleft())
                    yield error
                break
        while outstanding:
            yield await _answer(outstanding.popleft())
    finally:
        for future in outstanding:
            # The caller stopped asking; the commands run all the same, unanswered.
            future.add_done_callback(retrieve)


async def _numbered(commands: Commands) -> AsyncIterator[tuple[int, Envelope | Command]]:
    number = 0
    if isinstance(commands, AsyncIterable):
        async for command in commands:
            number += 1
            yield number, command
    else:
        for command in commands:
            number += 1
            yield number, command


async def _answer(future: asyncio.Future[Receipt]) -> Receipt | EngineError:
    try:
        return await future
    except EngineError as error:
        return error
