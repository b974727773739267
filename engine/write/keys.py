"""Command keys: which commands an aggregate has executed lately, and what it answered.

A key names one command to one aggregate. Within the window (the keyed commands that ended in the
last W versions of the stream) the same key gets the first receipt again and writes nothing; with
another content it is an error. A command's own events never push its key out, however many they
are. The window is a function of the stream alone: replay, passivation and restart end with the same
one. There is no index of keys in the store: key, fingerprint, reply and number of events stand in
the metadata of the command's first event. A command that wrote no event leaves no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final, cast
from uuid import UUID, uuid5

import msgspec

from ..errors import UsageError

__all__ = ["UNKNOWN", "KeyRecord", "KeyWindow", "id_from_key"]

UNKNOWN: Final = -1
"""In place of a fingerprint that was erased with a person: any command fits it."""
_NAMESPACE = UUID("5f1d9c9e-6d0c-5c57-9a8e-1f2d0a6b7c43")


def id_from_key(key: str) -> str:
    """Give the id of a new aggregate for a caller's key, the same one for the same key.

    Use it with an HTTP `Idempotency-Key` on a POST that creates something: the repeated request
    meets the same aggregate, and its key there. UUID version 5 (RFC 9562), as 36 characters.
    Raises UsageError for a key that is not a text, as None is where a request has none.
    """
    if not isinstance(cast("object", key), str):
        raise UsageError(
            f"id_from_key takes the key of a request, not {type(key).__name__}: a request without "
            f"an Idempotency-Key is to be refused, as idempotency_key(..., required=True) does"
        )
    return str(uuid5(_NAMESPACE, key))


class KeyRecord(msgspec.Struct, gc=False):
    """What is remembered of one executed command."""

    fingerprint: int
    first: int
    """Version of its first event, which has the key."""
    version: int
    """Version of its last event, as in its receipt; by it the record leaves the window."""
    position: int
    """Position of its last event; 0 until that is durable."""
    reply: bytes | None = None
    """What its handler replied, encoded, where its command declares a reply."""
    parties: Sequence[tuple[str, int, int]] = ()
    """Of a joint decision: the streams that it was about, as its metadata has them."""


class KeyWindow:
    """The keyed commands of one aggregate that still count, by key."""

    __slots__ = ("_held_max", "_records", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._held_max = window + window // 8
        self._records: dict[str, KeyRecord] = {}

    def __len__(self) -> int:
        """Give the number of keys held, those included that have left the window a moment ago."""
        return len(self._records)

    def find(self, key: str, version: int) -> KeyRecord | None:
        """Give the record of `key` if it counts for a stream that is at `version`."""
        record = self._records.get(key)
        if record is None or record.version <= version - self._window:
            return None
        return record

    def records(self, version: int) -> list[tuple[str, KeyRecord]]:
        """Give the keys that count for a stream at `version`, and their records, oldest first."""
        oldest = version - self._window
        return [(key, record) for key, record in self._records.items() if record.version > oldest]

    def forget_behind(self, version: int) -> None:
        """Let go of the keys of commands that end behind a version, as they were not stored."""
        records = self._records
        for key in [key for key, record in records.items() if record.version > version]:
            del records[key]

    def remember(self, key: str, record: KeyRecord) -> None:
        """Add a command, in the order of versions; let go of what has left the window."""
        records = self._records
        if key in records:
            # A key that had left the window comes again: its place is by its new version.
            del records[key]
        records[key] = record
        if len(records) <= self._held_max:
            return
        oldest = record.version - self._window
        # Many at a time: to find its first entry a dict walks over all that were taken before it.
        left = list(takewhile(lambda held: records[held].version <= oldest, records))
        for held in left:
            del records[held]
