"""Sends a stream of commands through a bounded window, and gives their answers in order.

Rules: at most `window` commands are in the engine at a time; an answer that is an error is given
and not raised; a full engine slows the stream down and loses nothing. What was sent is run, also
where who asks leaves or is cancelled, and where the source of the commands fails, the answers to
what it gave before are given first. It knows the engine only as a function that takes an envelope
and gives the future of its answer.
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
from contextlib import aclosing
from typing import TypeAlias

from ..errors import EngineError, InvalidInput, Overloaded, UsageError
from ..model.given import as_whole, shown
from ..model.messages import Command, Envelope, Receipt
from ..runtime.futures import is_being_cancelled, retrieve

__all__ = ["Commands", "check_many", "run_many"]

_SENT_PER_TURN = 32
"""Commands sent before the event loop gets its turn."""

Commands: TypeAlias = Iterable[Envelope | Command] | AsyncIterable[Envelope | Command]


def check_many(commands: object, window: object, *, is_async: bool = True) -> int:
    """Give the window of a stream of commands; raise UsageError for what is none."""
    if not isinstance(commands, Iterable) and not (
        is_async and isinstance(commands, AsyncIterable)
    ):
        raise UsageError(
            f"execute_many takes commands or envelopes one after the other, as a list or a "
            f"generator gives them, and not {shown(commands)}. Nothing was run."
        )
    try:
        return as_whole("window", window, 1)
    except InvalidInput:
        raise InvalidInput(
            f"window is {shown(window)}: give at least 1, as a whole number. Nothing was run."
        ) from None


async def run_many(
    commands: Commands,
    window: int,
    send: Callable[[Envelope], Awaitable[asyncio.Future[Receipt]]],
) -> AsyncGenerator[Receipt | EngineError, None]:
    """Give the answers to `commands` in their order; see `Engine.execute_many`."""
    window = check_many(commands, window)
    outstanding: deque[asyncio.Future[Receipt]] = deque()
    source = _Source(commands)
    try:
        async with aclosing(source.envelopes()) as envelopes:
            async for envelope in envelopes:
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
        if source.failure is not None:
            raise source.failure
    finally:
        for future in outstanding:
            # The caller stopped asking; the commands run all the same, unanswered.
            future.add_done_callback(retrieve)


class _Source:
    """Where the commands come from."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self.failure: BaseException | None = None
        """What it raised in place of its next command."""

    async def envelopes(self) -> AsyncGenerator[Envelope, None]:
        """Give them in order, until there are no more or the source fails."""
        number = 0
        try:
            async for command in _one_by_one(self._commands):
                number += 1
                if number % _SENT_PER_TURN == 0:
                    # The source may read a file: filling the window is not to hold up all.
                    await asyncio.sleep(0)
                yield command if isinstance(command, Envelope) else Envelope(command=command)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self.failure = error


async def _one_by_one(commands: Commands) -> AsyncIterator[Envelope | Command]:
    if isinstance(commands, AsyncIterable):
        async for command in commands:
            yield command
    else:
        for command in commands:
            yield command


async def _answer(future: asyncio.Future[Receipt]) -> Receipt | EngineError:
    try:
        # Who leaves takes no command along: those behind it would be run without it.
        return await (future if future.done() else asyncio.shield(future))
    except EngineError as error:
        return error
