"""How events are shown: a table for people, JSON lines for programs.

Rules: times are UTC in ISO 8601 with microseconds. What people wrote, payloads and headers, is
shown only when asked for. Whatever could move a terminal's cursor is written as an escape. Columns
grow with what they have shown, so that a table can go on for ever. The names of the JSON fields
stay; new ones may be added.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from ..errors import Damaged
from ..model.codec import UNDECODABLE, Metadata, decode_metadata
from ..model.stored import ENCODING_JSON, StoredEvent
from .printing import escaped
from .tables import Column, Table, numbers

__all__ = ["FIELDS", "JsonLines", "Layout", "TableLines", "time_text"]

FIELDS: Final = (
    "position, recorded, stream, version, event, event_version, key, correlation, causation, "
    "principal; with --payload also encoding, headers and payload (JSON as it is, anything else "
    "as hexadecimal text). What an event does not have is null."
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class JsonLines:
    """One JSON object a line."""

    def __init__(self, *, payload: bool) -> None:
        self._payload = payload

    def lines(self, stored: StoredEvent) -> Iterator[str]:
        """Give the line of an event."""
        metadata = decode_metadata(stored)
        shown: dict[str, Any] = {
            "position": stored.position,
            "recorded": time_text(stored.recorded),
            "stream": stored.stream,
            "version": stored.version,
            "event": stored.name,
            "event_version": stored.event_version,
            "key": metadata.key,
            "correlation": metadata.correlation,
            "causation": metadata.causation,
            "principal": metadata.principal,
        }
        if self._payload:
            shown["encoding"] = stored.encoding
            shown["headers"] = metadata.headers
            shown["payload"] = _payload(stored)
        yield escaped(msgspec.json.encode(shown).decode())


class TableLines:
    """Columns, with a heading above the first event.

    They are plain on a terminal too: what rich lays out has an end, and a log may have none.
    """

    def __init__(self, *, payload: bool) -> None:
        self._payload = payload
        texts = [Column(name) for name in ("EVENT", "KEY", "PRINCIPAL", "CORRELATION")]
        begin = [*numbers(POSITION=0), Column("RECORDED"), Column("STREAM"), *numbers(VERSION=0)]
        self._table = Table(*begin, *texts)
        self._begun = False

    def lines(self, stored: StoredEvent) -> Iterator[str]:
        """Give the lines of an event."""
        metadata = decode_metadata(stored)
        self._table.rows.clear()
        self._table.add(*_cells(stored, metadata), notes=self._notes(stored, metadata))
        if not self._begun:
            self._begun = True
            yield self._table.heading()  # the first event fits its columns
        yield from self._table.lines()

    def _notes(self, stored: StoredEvent, metadata: Metadata) -> Iterator[str]:
        if self._payload:
            if metadata.headers:
                yield "headers " + msgspec.json.encode(metadata.headers).decode()
            yield msgspec.json.encode(_payload(stored)).decode()


Layout = JsonLines | TableLines


def _cells(stored: StoredEvent, metadata: Metadata) -> Iterator[str]:
    yield str(stored.position)
    yield time_text(stored.recorded)
    yield stored.stream
    yield str(stored.version)
    yield f"{stored.name} v{stored.event_version}"
    for text in (metadata.key, metadata.principal, metadata.correlation):
        yield text or ""


def time_text(recorded: int) -> str:
    """Give "2026-01-31T08:05:00.000000Z" for µs since 1970-01-01 UTC."""
    try:
        time = _EPOCH + timedelta(microseconds=recorded)
    except OverflowError:
        return f"{recorded} µs"
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _payload(stored: StoredEvent) -> Any:
    """Give the payload as a value that JSON can show in one line."""
    if stored.encoding != ENCODING_JSON:
        return stored.payload.hex()
    try:
        # As it stands, number by number, in one line.
        text = stored.payload.decode()  # which JSON's own reader does not look at
        return msgspec.Raw(msgspec.json.format(text, indent=-1).encode())
    except UNDECODABLE as error:
        raise Damaged(stored.position, f"the payload of {stored.name} is no JSON") from error
