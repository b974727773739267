"""Claims in a log: unique values, each held by one stream, that an append takes and releases.

Rules: a claim is a name and a value, and one stream at most holds it. It is taken and released in
the transaction that appends the events which say so. A stream takes what it holds already, and
releases what it does not hold, without an effect. Requests of a batch are judged in their order, so
one may take what an earlier one releases. A request that is refused changes no claim. What stands
in a store's table follows from the log alone: the metadata of events names each change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

__all__ = [
    "NO_CLAIMS",
    "ClaimBook",
    "ClaimChange",
    "ClaimKey",
    "ClaimTaken",
    "HeldClaim",
    "ReleaseClaim",
    "TakeClaim",
]

ClaimKey: TypeAlias = tuple[str, str]
"""Name and value of a claim."""


class TakeClaim(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Let a stream hold a value, or refuse the request if another stream holds it."""

    name: str
    value: str
    stream: str
    """One of the streams that the request writes to."""


class ReleaseClaim(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Let a stream hold a value no more."""

    name: str
    value: str
    stream: str
    """One of the streams that the request writes to."""


class HeldClaim(msgspec.Struct, frozen=True, gc=False):
    """A claim that is held."""

    name: str
    value: str
    stream: str
    """Which holds it."""
    position: int
    """Of the first event for that stream, in the request that took it."""


class ClaimTaken(msgspec.Struct, frozen=True, gc=False):
    """The request was not written: another stream holds what it takes."""

    extra: int
    """The place of that in its `extras`."""


class ClaimChange(msgspec.Struct, frozen=True, gc=False):
    """What a batch does to one claim, from its beginning to its end."""

    before: str | None
    """The stream that held it; None for none."""
    after: str | None
    position: int
    """Of the first event for the stream that changed it last, in the request that did."""


NO_CLAIMS: Final[Mapping[ClaimKey, str]] = {}


class ClaimBook:
    """Who holds the claims that a batch names, while its requests are judged one by one."""

    def __init__(self, holders: Mapping[ClaimKey, str]) -> None:
        self._before = holders
        self.changes: dict[ClaimKey, ClaimChange] = {}

    def refusal(self, extras: Sequence[object]) -> ClaimTaken | None:
        """Give why a request cannot have what it takes; None if it can."""
        for place, extra in enumerate(extras):
            if type(extra) is TakeClaim:
                holder = self._holder((extra.name, extra.value))
                if holder is not None and holder != extra.stream:
                    return ClaimTaken(place)
        return None

    def apply(self, extras: Iterable[object], position: int) -> None:
        """Change what a request changes for a stream whose first event is at `position`."""
        for extra in extras:
            if type(extra) is TakeClaim:
                key = extra.name, extra.value
                if self._holder(key) is None:
                    self._change(key, extra.stream, position)
            elif type(extra) is ReleaseClaim:
                key = extra.name, extra.value
                if self._holder(key) == extra.stream:
                    self._change(key, None, position)

    def _holder(self, key: ClaimKey) -> str | None:
        change = self.changes.get(key)
        return self._before.get(key) if change is None else change.after

    def _change(self, key: ClaimKey, after: str | None, position: int) -> None:
        self.changes[key] = ClaimChange(self._before.get(key), after, position)
