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
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Protocol, TypeAlias

import msgspec

from ..errors import EngineError, InvalidInput, Overloaded, UsageError
from ..model.copying import own_copy
from ..model.given import as_headers, as_whole, shown
from ..model.messages import Command, Envelope, Receipt
from ..runtime.futures import is_being_cancelled, retrieve
from .mailbox import Sent

__all__ = ["Commands", "Send", "as_taken", "check_many", "enveloped", "run_many"]

_SENT_PER_TURN = 32
"""Commands sent before the event loop gets its turn."""

Commands: TypeAlias = Iterable[Envelope | Command] | AsyncIterable[Envelope | Command]


class Send(Protocol):
    """Sends an envelope into the engine."""

    def __call__(self, envelope: Envelope, /) -> Sent:
        """Send it; raises, now or as it is awaited, what `Engine.execute` raises."""
        ...


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
    commands: Commands, window: int, send: Send, check_usable: Callable[[], object]
) -> AsyncGenerator[Receipt | EngineError, None]:
    """Give the answers to `commands` in their order; see `Engine.execute_many`."""
    check_usable()
    window = check_many(commands, window)
    outstanding: deque[asyncio.Future[Receipt]] = deque()
    source = _Source(commands)
    number = 0
    try:
        while True:
            number += 1
            if number % _SENT_PER_TURN == 0:
                # The source may read a file: filling the window is not to hold up all.
                await asyncio.sleep(0)
            if len(outstanding) >= window:
                first = outstanding.popleft()
                yield _answer(first) if first.done() else await _wait(first)
            # What the source has given is sent before anybody can change it.
            envelope = source.take() if source.is_sync else await source.wait()
            if envelope is None:
                break
            while True:
                try:
                    sent = send(envelope)
                    outstanding.append(sent if isinstance(sent, asyncio.Future) else await sent)
                except Overloaded as overloaded:
                    if outstanding:
                        envelope = as_taken(envelope)
                        yield await _wait(outstanding.popleft())
                        continue
                    yield overloaded
                except EngineError as error:
                    # Its place in the order is behind what is outstanding.
                    while outstanding:
                        yield await _wait(outstanding.popleft())
                    yield error
                break
        while outstanding:
            yield await _wait(outstanding.popleft())
        if source.failure is not None:
            raise source.failure
    finally:
        for future in outstanding:
            # The caller stopped asking; the commands run all the same, unanswered.
            future.add_done_callback(retrieve)


def as_taken(envelope: Envelope) -> Envelope:
    """Give an envelope that its caller does not change any more, though it is sent only later.

    Where that cannot be had it stays as it is: whoever sends it says what is wrong with it.
    """
    headers, expected = envelope.headers, envelope.expected
    try:
        return msgspec.structs.replace(
            envelope,
            command=own_copy(envelope.command),
            headers=None if headers is None else as_headers(headers),
            expected={**expected} if isinstance(expected, Mapping) else expected,
        )
    except Exception:
        return envelope


def enveloped(given: Envelope | Command) -> Envelope:
    """Give what a source gave as an envelope."""
    return given if isinstance(given, Envelope) else Envelope(command=given)


class _Source:
    """Where the commands come from."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._now: Iterator[Envelope | Command] | None = None
        self._later: AsyncIterator[Envelope | Command] | None = None
        self.is_sync = not isinstance(commands, AsyncIterable)
        self.failure: BaseException | None = None
        """What it raised in place of its next command."""

    def take(self) -> Envelope | None:
        """Give the next one; None where there are no more, or the source has failed."""
        try:
            if self._now is None:
                assert isinstance(self._commands, Iterable)
                self._now = iter(self._commands)
            command = next(self._now)
        except StopIteration:
            return None
        except BaseException as error:  # as of a script that ends at a line that it cannot read
            self._fail(error)
            return None
        return enveloped(command)

    async def wait(self) -> Envelope | None:
        """Wait for the next one; None where there are no more, or the source has failed."""
        try:
            if self._later is None:
                assert isinstance(self._commands, AsyncIterable)
                self._later = aiter(self._commands)
            command = await anext(self._later)
        except StopAsyncIteration:
            return None
        except GeneratorExit:  # whoever waits here is closed
            raise
        except BaseException as error:
            self._fail(error)
            return None
        return enveloped(command)

    def _fail(self, error: BaseException) -> None:
        """Keep what the source raised, unless it is the end of the task that asks."""
        if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise error
        self.failure = error


def _answer(future: asyncio.Future[Receipt]) -> Receipt | EngineError:
    try:
        return future.result()
    except EngineError as error:
        return error


async def _wait(future: asyncio.Future[Receipt]) -> Receipt | EngineError:
    try:
        # Who leaves takes no command along: those behind it would be run without it.
        return await (future if future.done() else asyncio.shield(future))
    except EngineError as error:
        return error
