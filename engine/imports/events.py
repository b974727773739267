"""What a mapping function takes and gives: an event of the source, and what it becomes here.

Rules: both are values. A source gives what it has and guesses nothing: what it does not know is
None. This file knows no source and no store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Values
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import msgspec

from ..model.decisions import UniqueValue
from ..model.messages import Event

__all__ = ["Imported", "Mapping", "Source", "SourceEvent"]


class SourceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as its source has it."""

    place: str
    """Where it stands, as errors name it: `line 17`, `seq_id 4711`."""
    data: Any = None
    """Its content, decoded from JSON; None if it is not JSON."""
    raw: bytes = b""
    """Its content as it is stored; for what is compressed or encrypted."""
    name: str | None = None
    """Its type, as the source calls it."""
    stream: str | None = None
    """The stream or aggregate that it belongs to, as the source names it."""
    version: int | None = None
    """Its place in its stream, from 1 on."""
    id: str | None = None
    """Its own id."""
    recorded: datetime | None = None
    """When it was stored, with a time zone."""
    metadata: Values[str, Any] = {}
    """What else stands with it, by name."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an event becomes here."""

    kind: str
    """Of its aggregate, as in `class Account(Aggregate, kind="account")`."""
    id: str
    """Of its aggregate."""
    event: Event
    """An instance of a class that this kind applies."""
    recorded: datetime | None = None
    """When it was recorded, with a time zone; None for the source's own time."""
    key: str | None = None
    """The command's key, for people: a command that comes again with it is a new one."""
    correlation: str | None = None
    causation: str | None = None
    principal: str | None = None
    headers: Values[str, str] | None = None
    """With it travels the event's own id of the source, as `old-id`, unless that is given here."""
    claims: Sequence[UniqueValue] = ()
    """Unique values that the aggregate holds from this event on, or no more."""


Mapping: TypeAlias = Callable[[SourceEvent], Imported | Sequence[Imported] | None]
"""Says what an event of the source becomes: one event, several in order, or none."""


class Source(Protocol):
    """Where events come from."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def __enter__(self) -> Self:
        """Open it; raise StoreRefused or StoreFailed."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        ...

    def events(self) -> Iterator[SourceEvent]:
        """Give all events in their order; each call begins with the first.

        Raises StoreRefused for one that cannot be read, with its place.
        """
        ...
