"""An event as it is kept: bytes and numbers, and the checksum over all that it means.

Rules: nothing here knows a store, a clock or a class of a host. A payload is not decoded. The
checksum covers all that an event means, and a changed bit anywhere in it is Damaged.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec

from ..errors import Damaged

__all__ = [
    "ENCODING_JSON",
    "LATER",
    "EventData",
    "EventType",
    "Snapshot",
    "StoredEvent",
    "checksum_of",
    "verify",
]

ENCODING_JSON = 0
"""The payload is JSON in UTF-8. Other encodings (encrypted, binary) get numbers of their own."""


LATER: Final = ""
"""Stands in `EventType.former` before the hashes of later forms, of which this is a former one."""


class EventType(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A type of event, as the log knows it."""

    name: str
    version: int
    schema_hash: str
    """Of the declared fields and types; the same version with another hash is refused."""
    former: tuple[str, ...] = ()
    """Hashes that it goes on from: a store that has one of them keeps this one instead, with the
    first event that comes with it. Not kept itself. One behind LATER stays as it is."""

    def renews(self, stored: str) -> bool | None:
        """Tell whether this hash replaces the one that is stored; None where it does not fit it."""
        if stored == self.schema_hash:
            return False
        if stored not in self.former:
            return None
        return LATER not in self.former[: self.former.index(stored)]


class EventData(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event on its way into the store."""

    type: EventType
    payload: bytes
    metadata: bytes = b""
    encoding: int = ENCODING_JSON
    tags: tuple[str, ...] = ()
    """What it is found by, each as `name:value`; they are in the payload too."""

    @property
    def size(self) -> int:
        """Bytes that it adds to a batch."""
        return len(self.payload) + len(self.metadata)


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event in the log."""

    position: int
    """Its place in the log, from 1 on."""
    stream: str
    """`kind:id` of its aggregate."""
    version: int
    """Its place in the stream, from 1 on."""
    name: str
    """The stored name of its type."""
    event_version: int
    """The version of its type."""
    recorded: int
    """When it was written, in µs since 1970-01-01 UTC."""
    payload: bytes
    """Its fields, encoded."""
    metadata: bytes
    """What travelled with its command, encoded; empty for nothing."""
    encoding: int
    """How both are encoded; a number of this release."""
    checksum: int
    """Of all this, with `recorded - behind` for the time."""
    behind: int = 0
    """By how many µs the clock of its writer was behind the event before it."""


class Snapshot(msgspec.Struct, frozen=True):
    """An aggregate's state at a version: a cache that its reader may distrust."""

    stream: str
    version: int
    position: int
    """Position of the event at `version`, and … """
    checksum: int
    """… its checksum: together they tie the snapshot to this history."""
    snapshot_version: int
    """The version of the state's meaning, by the aggregate's author."""
    state: bytes


def checksum_of(
    stream: str,
    version: int,
    name: str,
    event_version: int,
    recorded: int,
    encoding: int,
    payload: bytes,
    metadata: bytes,
) -> int:
    """Give the CRC-32 (as in zlib) over all that an event means, position excepted.

    The position is proved by contiguity. The time is included: otherwise a flipped bit there went
    unseen, and two histories that ran the same commands after a restored backup could not be told
    apart. It is the writer's own, `recorded - behind`: only the transaction that inserts an event
    knows the time of the one before, and the checksum is made before it. Lengths stand in the head,
    so that no byte can move from one field to the next.
    """
    told = (
        version,
        event_version,
        recorded,
        encoding,
        len(payload),
        len(metadata),
        name.encode(),
        stream.encode(),
        payload,
        metadata,
    )
    return crc32(b"%d %d %d %d %d %d %b %b\0%b%b" % told)


def verify(event: StoredEvent) -> None:
    """Raise Damaged if the event does not match its checksum."""
    actual = checksum_of(
        event.stream,
        event.version,
        event.name,
        event.event_version,
        event.recorded - event.behind,
        event.encoding,
        event.payload,
        event.metadata,
    )
    if actual != event.checksum:
        raise Damaged(
            event.position,
            f"{event.stream} version {event.version}, {event.name}: its checksum is {actual:#010x} "
            f"and should be {event.checksum:#010x}",
        )
