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
from .printing import escaped, plain

__all__ = ["FIELDS", "JsonLines", "Layout", "TableLines", "time_text"]

FIELDS: Final = (
    "position, recorded, stream, version, event, event_version, key, correlation, causation, "
    "principal; with --payload also encoding, headers and payload (JSON as it is, anything else "
    "as hexadecimal text). What an event does not have is null."
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEADINGS: Final = (
    "position",
    "recorded",
    "stream",
    "version",
    "event",
    "key",
    "principal",
    "correlation",
)
_NUMBERS: Final = ("position", "version")


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
    """Columns, with a heading above the first event."""

    def __init__(self, *, payload: bool) -> None:
        self._payload = payload
        self._widths: dict[str, int] = {}

    def lines(self, stored: StoredEvent) -> Iterator[str]:
        """Give the lines of an event."""
        metadata = decode_metadata(stored)
        if not self._widths:
            self._widths = {heading: len(heading) for heading in _HEADINGS}
            # The first event fits its columns, so the heading stands above them.
            row = self._row(_cells(stored, metadata))
            yield self._row({heading: heading.upper() for heading in _HEADINGS})
            yield row
        else:
            yield self._row(_cells(stored, metadata))
        if self._payload:
            if metadata.headers:
                yield "    headers " + plain(msgspec.json.encode(metadata.headers).decode())
            yield "    " + plain(msgspec.json.encode(_payload(stored)).decode())

    def _row(self, cells: dict[str, str]) -> str:
        parts: list[str] = []
        for heading, text in cells.items():
            width = self._widths[heading] = max(self._widths[heading], len(text))
            parts.append(text.rjust(width) if heading in _NUMBERS else text.ljust(width))
        return "  ".join(parts).rstrip()


Layout = JsonLines | TableLines


def _cells(stored: StoredEvent, metadata: Metadata) -> dict[str, str]:
    return {
        "position": str(stored.position),
        "recorded": time_text(stored.recorded),
        "stream": plain(stored.stream),
        "version": str(stored.version),
        "event": plain(f"{stored.name} v{stored.event_version}"),
        "key": plain(metadata.key or ""),
        "principal": plain(metadata.principal or ""),
        "correlation": plain(metadata.correlation or ""),
    }


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
