"""Requests: what another process asks to be done with a projection or a timer, and its answer.

Rules: a request waits in the views' file until somebody does it, and is done at most once: it is
marked as begun, synced, before anything is done, and a crash in between leaves it *unknown*, never
done again. An answer is *done*, *refused* (nothing was changed) or *unknown* (look, then ask again:
every kind may be asked for twice). This file knows no async, file or clock.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from ...model.texts import is_text

__all__ = [
    "ANSWER_CHARACTERS_MAX",
    "AT_REST",
    "ENDED_TEXT",
    "KINDS",
    "POSITION_MAX",
    "REQUESTS_KEPT",
    "REQUESTS_OPEN_MAX",
    "TIMER_KINDS",
    "Arguments",
    "Outcome",
    "Request",
    "RequestState",
    "RequestStore",
    "refusal_of",
    "refused_position",
]

RequestState: TypeAlias = Literal["waiting", "begun", "done", "refused", "unknown"]

TIMER_KINDS: Final = ("fire-timer", "cancel-timer")
"""What can be asked for of a timer; the request's projection is its `timer_target`."""
KINDS: Final = (
    *("pause", "resume", "reset", "rebuild", "cancel", "drop", "retry", "skip"),
    *TIMER_KINDS,
)
"""What can be asked for. A later release may ask for more."""
AT_REST: Final = frozenset(KINDS) - {"rebuild", "retry", *TIMER_KINDS}
"""What needs none of the application's code, and so no engine."""
REQUESTS_KEPT: Final = 1_000
"""Requests that a file keeps; the oldest answered ones go."""
REQUESTS_OPEN_MAX: Final = 100
"""Requests that may wait in a file."""
ANSWER_CHARACTERS_MAX: Final = 2_000
POSITION_MAX: Final = 2**63 - 1
"""What SQL can hold."""

ENDED_TEXT: Final = (
    "whoever did this ended before it could answer, and it is not done again. Look whether it was "
    "done (`list`, `decisions`), and ask again if not: asking twice does no harm"
)


class Arguments(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes with a request."""

    reason: str = ""
    key: str | None = None
    """Of parked events; for "retry"."""
    position: int | None = None
    """Of an event; for "skip"."""
    stream: str | None = None
    """That has set a timer; for "fire-timer" and "cancel-timer"."""
    timer: str | None = None
    """The name of that timer."""


class Request(msgspec.Struct, frozen=True):
    """What somebody asked for."""

    number: int
    kind: str
    projection: str
    """Its name, or the `timer_target` of a timer."""
    arguments: Arguments | None
    """None where they cannot be read."""
    asked: int
    """When, in µs since 1970-01-01 UTC."""
    principal: str | None
    state: RequestState = "waiting"
    answer: str = ""
    answered: int | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request."""

    state: RequestState
    text: str


def refusal_of(kind: str, arguments: Arguments | None) -> str | None:
    """Say why nobody here can do what is asked, or give None; nothing was done of it then."""
    if kind not in KINDS or arguments is None:
        return f"this release does not know {kind!r} so: what goes with it cannot be read"
    for what in ("reason", "key", "stream", "timer"):
        if not is_text(getattr(arguments, what) or ""):
            return f"the {what} is no text: half of a character is in it"
    if kind in TIMER_KINDS and not (arguments.stream and arguments.timer):
        return "a timer has a stream and a name, and one of these was not given"
    return refused_position(arguments.position) if kind == "skip" else None


def refused_position(position: object) -> str | None:
    """Say why something is no position of an event, or give None."""
    if position is None:
        return "no position was given to skip"
    if type(position) is not int or not 1 <= position <= POSITION_MAX:
        return f"{position!r:.40} is no position of an event: they are whole numbers from 1 on"
    return None


class RequestStore(Protocol):
    """Where an engine finds what others ask for. Raises StoreFailed and StoreRefused."""

    async def change_count(self) -> int | None:
        """Give a number that changes when another process has committed; None where none can."""
        ...

    async def take_request(self) -> Request | None:
        """Give the first request without an answer; one that waited is now begun, synced.

        It comes as it was found: "begun" is one that somebody began who has ended since.
        """
        ...

    async def put_back_request(self, number: int) -> None:
        """Let a request that was taken wait again: nothing of it was done."""
        ...

    async def answer_request(self, number: int, outcome: Outcome) -> None:
        """Say what became of a request that has no answer yet, synced."""
        ...
