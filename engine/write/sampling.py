"""Without debug mode: finds handlers that change the state, by looking at some decisions.

Rules: the first decisions of each command are looked at, and a few of those that follow. A state is
written down before its handler runs, and compared afterwards. A difference fails the command, and
from then on each decision of that command is looked at. A deque is told apart by its items. What
else JSON cannot hold is told apart by its identity alone: its `__repr__` and `__eq__` are never
called. A state that cannot be written down is not looked at: debug mode copies it instead
(`proving`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import msgspec

from ..errors import EngineError, HandlerFailed, Rejected
from ..model.aggregate import Aggregate, CommandHandler
from ..model.messages import Command

__all__ = ["Caught", "Samples", "decide_and_look"]

_FIRST: Final = 16
"""Decisions of each command that are looked at before the others."""
_EVERY: Final = 1024
"""One of so many is looked at afterwards, so that large states cost little."""
_ALWAYS: Final = -(1 << 62)


def _told_apart(value: object) -> object:
    return list(cast("deque[object]", value)) if type(value) is deque else id(value)


_encode: Final = msgspec.json.Encoder(enc_hook=_told_apart).encode


class Caught(Exception):
    """Carries a failure out of a handler that is the engine's own, as that it changes the state."""

    def __init__(self, failure: EngineError) -> None:
        """Take what the caller is told."""
        super().__init__(str(failure))
        self.failure = failure


class Samples:
    """Which decisions are looked at, in one kind of aggregate of one engine."""

    def __init__(self) -> None:
        """Begin with the first decision of each command."""
        self._counts: dict[type[Command], int] = {}

    def take(self, command: type[Command]) -> bool:
        """Count a decision; return whether it is looked at."""
        count = self._counts[command] = self._counts.get(command, 0) + 1
        return count <= _FIRST or not count % _EVERY

    def keep(self, command: type[Command]) -> None:
        """Look at each decision of a command from now on."""
        self._counts[command] = _ALWAYS


def decide_and_look(
    handler: CommandHandler, states: Sequence[Aggregate], decide: Callable[[], Any], found: Samples
) -> Any:
    """Run a handler; raise `Caught` if it has changed one of the states. An async one is awaited.

    Raises what the handler raises, unless it changed a state before.
    """
    before = [_written(state) for state in states]

    def look() -> None:
        for state, text in zip(states, before, strict=True):
            if text is not None and (now := _written(state)) != text:
                found.keep(handler.command)
                raise Caught(_failure(handler, text, now))

    if handler.is_async:
        return _await_and_look(decide, look)
    try:
        returned = decide()
    except Rejected:
        look()
        raise
    look()
    return returned


async def _await_and_look(decide: Callable[[], Awaitable[Any]], look: Callable[[], None]) -> Any:
    try:
        returned = await decide()
    except Rejected:
        look()
        raise
    look()
    return returned


def _written(state: Aggregate) -> bytes | None:
    """Give a state as JSON; None where that cannot be."""
    try:
        return _encode(state)
    except Exception:  # too deep, too large a number, a key that JSON has not
        return None


def _failure(handler: CommandHandler, before: bytes, now: bytes | None) -> HandlerFailed:
    return HandlerFailed(
        f"{handler.decide.__qualname__} changed the state, at {_where(before, now)}: a handler "
        f"returns events, and only appliers change the state. Nothing was written. Mend the "
        f"handler; Engine(debug=True) looks at each decision, and this engine at some of them."
    )


def _where(before: bytes, now: bytes | None) -> str:
    """Give the name of the first field that differs, where it can be told."""
    with suppress(Exception):  # a state that is an array as JSON, or none any more
        was, is_ = msgspec.json.decode(before), msgspec.json.decode(now or b"")
        return next(f".{name}" for name, value in is_.items() if was.get(name) != value)
    return "a field"
