"""Timers in a log: commands for a later time, each set, replaced and dropped by one stream.

Rules: a timer is known by the stream that set it and by its name, and stands there once at most. It
is set, replaced and dropped in the transaction that appends the events which say so. It is taken
away in the transaction of its own command's events: a request that says `FiredTimer` is written
only if the timer still stands as it was read, so that a timer that was dropped or replaced has no
effect any more, and none has two. A timer whose command writes nothing is taken away by
`Store.settle_timers`. One that an operator has cancelled stands parked: the log goes on to say that
it was set, and he may let it be fired after all. What stands in a store's table follows from the
log, but for that: the metadata of events names each change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import msgspec

from ...errors import UsageError
from .requests import Arguments

__all__ = [
    "BEGINNING",
    "FOREVER",
    "NO_TIMERS",
    "DropTimer",
    "DuePlace",
    "FiredTimer",
    "SetTimer",
    "SettledTimer",
    "TimerBook",
    "TimerGone",
    "TimerKey",
    "WaitingTimer",
    "check_stands",
    "find_timer",
    "may_replace",
    "no_timer_text",
    "settled_as",
    "timer_target",
]

TimerKey: TypeAlias = tuple[str, str]
"""Stream and name of a timer."""
DuePlace: TypeAlias = tuple[int, int, str, str]
"""Where a timer stands among those that are due: time of its next try, position, stream, name."""

FOREVER: Final = 2**63 - 1
"""A time behind all others."""
BEGINNING: Final[DuePlace] = (-1, 0, "", "")
"""The place before all others."""
NO_TIMERS: Final[Mapping[TimerKey, int]] = {}
_PAGE: Final = 100


class SetTimer(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Let a command wait for a time, in place of what the stream has set by that name."""

    stream: str
    """One of the streams that the request writes to."""
    name: str
    due: int
    """When, in µs since 1970-01-01 UTC."""
    command: str
    """The stored name of its class."""
    payload: bytes
    """The command as JSON; no store looks at it."""
    metadata: bytes
    """What travels with it, as an event's metadata; empty for nothing."""


class DropTimer(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Take a timer away, if the stream has one by that name."""

    stream: str
    """One of the streams that the request writes to."""
    name: str


class FiredTimer(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Take the timer away whose command this is, or refuse the request if it does not stand."""

    stream: str
    """That set it; of whatever request."""
    name: str
    position: int
    """Of the timer, which says which setting of that name it is."""


class WaitingTimer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A timer that stands."""

    stream: str
    name: str
    due: int
    """When its command was to be run, in µs since 1970-01-01 UTC."""
    position: int
    """Of the first event of its stream in the request that set it."""
    version: int
    """Of the same event in its stream."""
    command: str
    """Empty where stream or name are damaged: nothing could take it away, so it is not run."""
    payload: bytes
    metadata: bytes
    next: int
    """When it is tried next; as `due` unless it has failed."""
    attempts: int = 0
    """How often it has failed."""
    parked: bool = False
    """Whether it is tried no more until somebody asks for it."""
    cause: str = ""
    """Why it failed last, or who has cancelled it."""

    @property
    def key(self) -> TimerKey:
        """What it is known by."""
        return self.stream, self.name

    @property
    def cancelled(self) -> bool:
        """Whether an operator has cancelled it: then it stands parked, and has not failed."""
        return self.parked and not self.attempts

    @property
    def place(self) -> DuePlace:
        """Where it stands among those that are due."""
        return self.next, self.position, self.stream, self.name


class SettledTimer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What becomes of a timer whose command has written nothing; of no effect if it is gone."""

    stream: str
    name: str
    position: int
    """Of the timer that is meant: another one by that name is left alone."""
    next: int | None = None
    """When it is tried again; None where it is done and taken away."""
    attempts: int = 0
    parked: bool = False
    cause: str = ""


class TimerGone(msgspec.Struct, frozen=True, gc=False):
    """The request was not written: the timer whose command it is was dropped, replaced or fired."""

    extra: int
    """The place of that in its `extras`."""


class TimerBook:
    """Which timers stand, while the requests of a batch are judged one by one."""

    def __init__(self, standing: Mapping[TimerKey, int]) -> None:
        """Take the positions of those that the batch has fired, as far as they stand."""
        self._before = standing
        self.changes: dict[TimerKey, WaitingTimer | None] = {}
        """What stands behind the batch in place of what stood before; None for nothing."""

    def refusal(self, extras: Sequence[object]) -> TimerGone | None:
        """Give why a request cannot be what a timer led to; None if it can, or is none."""
        for place, extra in enumerate(extras):
            if type(extra) is FiredTimer and self._position(extra) != extra.position:
                return TimerGone(place)
        return None

    def apply(self, extras: Iterable[object], firsts: Mapping[str, tuple[int, int]]) -> None:
        """Change what a request changes.

        `firsts` has position and version of the first event of each of its streams.
        """
        for extra in extras:
            if type(extra) is SetTimer:
                self.changes[extra.stream, extra.name] = WaitingTimer(
                    extra.stream,
                    extra.name,
                    extra.due,
                    *firsts[extra.stream],
                    extra.command,
                    extra.payload,
                    extra.metadata,
                    extra.due,
                )
            elif type(extra) is DropTimer or type(extra) is FiredTimer:
                self.changes[extra.stream, extra.name] = None

    def _position(self, fired: FiredTimer) -> int | None:
        key = fired.stream, fired.name
        if key in self.changes:
            changed = self.changes[key]
            return None if changed is None else changed.position
        return self._before.get(key)


def may_replace(timer: WaitingTimer | None) -> bool:
    """Tell whether what a batch leaves may take the place of a timer that stood before it.

    A stream that had no event before its request had no timer: most are set as something begins.
    """
    return timer is None or timer.version > 1


def settled_as(timer: WaitingTimer, settled: SettledTimer) -> WaitingTimer | None:
    """Give what stands of a timer that was settled; None for nothing."""
    if settled.next is None:
        return None
    return msgspec.structs.replace(
        timer,
        next=settled.next,
        attempts=settled.attempts,
        parked=settled.parked,
        cause=settled.cause,
    )


def timer_target(stream: str, name: str) -> str:
    """Give what an audit calls a timer; no projection can have such a name."""
    return f"timer {name} of {stream}"


def no_timer_text(stream: str, name: str) -> str:
    """Say that a timer does not stand."""
    return (
        f"{stream!r:.100} has no timer {name!r:.100}: it was fired, or cancelled by its aggregate, "
        f"or never set. Nothing was done"
    )


class TimerPages(Protocol):
    """What gives pages of timers, in the order of streams and names."""

    def read_timers(self, after: TimerKey, *, timers_max: int) -> Sequence[WaitingTimer]:
        """Give those behind a stream and a name."""
        ...


def check_stands(log: TimerPages, arguments: Arguments) -> None:
    """Raise UsageError if the timer does not stand that a request is about."""
    stream, name = arguments.stream or "", arguments.timer or ""
    after = stream, ""
    while page := log.read_timers(after, timers_max=_PAGE):
        if any(timer.key == (stream, name) for timer in page):
            return
        after = page[-1].key
        if after > (stream, name):
            break
    raise UsageError(no_timer_text(stream, name))


async def find_timer(
    read: Callable[[TimerKey, int], Awaitable[Sequence[WaitingTimer]]], stream: str, name: str
) -> WaitingTimer | None:
    """Give the timer that a stream has by a name, from pages in the order of streams and names."""
    after = stream, ""
    while page := await read(after, _PAGE):
        for timer in page:
            if timer.key >= (stream, name):
                return timer if timer.key == (stream, name) else None
        after = page[-1].key
    return None
