"""Whether keys that are not where they should be are needed: by events that they have encrypted.

Rules: where a log has such events, its keys are not made anew in silence. What is written with new
ones would be lost as soon as somebody puts the right ones there. The log is read up to the first
such event, and only while the keys are not there. Whoever knows that they are lost says so by an
empty file. Nothing is decrypted here.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final, Protocol

from ..errors import EngineError, StoreRefused
from ..model.personal import SEALED
from ..model.stored import EventType, StoredEvent

__all__ = ["TypedSource", "refuse_lost_keys"]

_EVENTS: Final = 1_000
_BYTES: Final = 8 * 1024 * 1024
_MARK: Final = SEALED.encode()


class TypedSource(Protocol):
    """A log that can be read, and tells the types of what it has."""

    async def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored."""
        ...

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read as `Store.read_feed` does."""
        ...


async def refuse_lost_keys(missing: str | None, log: TypedSource, names: Set[str]) -> None:
    """Raise StoreRefused where keys are missing there that events of these names need."""
    if missing is None or names.isdisjoint(each.name for each in await log.event_types()):
        return
    try:
        position = await _first_sealed(log, names)
    except EngineError:
        return  # what cannot be read is told by whoever needs it
    if position is not None:
        raise StoreRefused(
            f"there are no keys at {missing}, and events of this log have personal fields, the "
            f"first of them at position {position}: put the log's own keys there, or name their "
            f"place as keys=. Nothing was changed. If they are lost for good, make an empty file "
            f"of that name, or an empty schema. New keys begin then, and these fields are lost"
        )


async def _first_sealed(log: TypedSource, names: Set[str]) -> int | None:
    after = 0
    while page := await log.read_feed(after, events_max=_EVENTS, bytes_max=_BYTES):
        for stored in page:
            if stored.name in names and _MARK in stored.payload:
                return stored.position
        after = page[-1].position
    return None
