"""Sends a command again that was safely not run, or whose key finds out what became of it.

Rules: sent again is what had no room, was voided or met another writer, and nothing was written;
and with a key what nobody knows the outcome of. Everything else is an answer. Once an outcome was
unknown, only an answer that knows the key says that nothing was run: any other leaves it unknown.
The deadline counts from the call and is kept. Waits are by the engine's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, Final

from .errors import (
    Conflict,
    DefinitionError,
    EngineError,
    KeyReused,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    Voided,
    WrongVersion,
)
from .middleware import Middleware
from .model.given import shown
from .model.messages import Envelope, Receipt
from .runtime.bell import Bell
from .runtime.ports import Ports, jumps_of

__all__ = ["Retry"]

_PASSING: Final = (Overloaded, Conflict, Voided)
"""What may be over soon; nothing was written."""
_KNOW_THE_KEY: Final = (KeyReused, OutcomeUnknown, Rejected, WrongVersion)
"""What the engine answers only if it has not found the key, or does not know either."""
_TIMES_MAX: Final = 100


class Retry(Middleware):
    """Sends a command again if that is safe: `Engine(middleware=[Retry(3)])`.

    - `times`: how often at most, beside the first time.
    - `first_seconds`: the wait before the first time; each further wait is twice as long.
    - `most_seconds`: the longest wait.

    Sent again are Overloaded, Conflict and Voided, and OutcomeUnknown if the command has a key. No
    wait begins that a deadline would not outlast: then the last answer is raised. Commands of
    `execute_many` are not sent again, since others behind them would go first.
    """

    repeats = True
    """Whether it may call `go_on` more than once."""

    def __init__(
        self,
        times: int,
        *,
        first_seconds: float = 0.05,
        most_seconds: float = 2.0,
    ) -> None:
        """Take how often; raises DefinitionError for numbers that make no sense."""
        if type(times) is not int or not 1 <= times <= _TIMES_MAX:
            raise DefinitionError(
                f"Retry({shown(times)}): give how often, from 1 to {_TIMES_MAX}, as a whole number"
            )
        given: tuple[object, ...] = first_seconds, most_seconds
        if not all(type(each) in (int, float) for each in given) or not (
            0 < first_seconds <= most_seconds < 1e6
        ):
            raise DefinitionError(
                f"Retry waits {first_seconds!r:.20} s first and {most_seconds!r:.20} s at most: "
                f"give seconds above 0, the first no more than the most"
            )
        self._times = times
        self._first, self._most = first_seconds, most_seconds
        self._clock = Ports().clock

    def of_engine(self, ports: Ports) -> Retry:
        """Give one that waits by the engine's clock."""
        own = copy(self)
        own._clock = ports.clock
        return own

    async def execute(
        self, envelope: Envelope, go_on: Callable[[Envelope], Awaitable[Receipt[Any]]]
    ) -> Receipt[Any]:
        """Do as `Middleware.execute` says, several times where that is safe."""
        begun, pause = self._clock.monotonic(), self._first
        doubt: OutcomeUnknown | None = None
        for left in range(self._times, -1, -1):
            try:
                return await go_on(envelope)
            except EngineError as error:
                if isinstance(error, OutcomeUnknown) and envelope.key is not None:
                    doubt = error
                    may = True
                else:
                    may = isinstance(error, _PASSING)
                if not (may and left and self._has_time(envelope, begun, pause)):
                    told = _answer(error, doubt)
                    if told is error:
                        raise
                    raise told from error
            await self._wait(pause)
            pause = min(2 * pause, self._most)
        raise AssertionError("the last time returns or raises")

    def _has_time(self, envelope: Envelope, begun: float, pause: float) -> bool:
        """Tell whether a deadline outlasts a wait."""
        deadline = envelope.deadline
        return deadline is None or self._clock.monotonic() - begun + pause < deadline

    async def _wait(self, seconds: float) -> None:
        """Wait by the clock, also where a test moves it."""
        until, bell = self._clock.monotonic() + seconds, Bell()
        end = jumps_of(self._clock, bell.set)
        try:
            while (left := until - self._clock.monotonic()) > 0:
                bell.clear()
                try:
                    async with asyncio.timeout(left):
                        await bell.wait()
                except TimeoutError:
                    continue
        finally:
            end()


def _answer(error: EngineError, doubt: OutcomeUnknown | None) -> EngineError:
    """Give what a caller is told: not that nothing was run, where an earlier try may have been."""
    if doubt is None or isinstance(error, _KNOW_THE_KEY):
        return error
    return doubt
