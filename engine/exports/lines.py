"""An event as a line that `foldline import` reads, and as a record for analysis.

Rules: a line has all that an event means and its checksum, so that an event comes back byte by
byte. Fields that an event does not have are left out. With fields of the payload left out there is
no checksum: it is another event then. A record never has what is encrypted in an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from ..errors import Damaged
from ..model.codec import NOTHING_KEPT, UNDECODABLE, Metadata, decode_metadata
from ..model.personal import SEALED
from ..model.stored import ENCODING_JSON, StoredEvent

__all__ = ["COLUMNS", "Omitted", "line_of", "record_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_encode: Final = msgspec.json.Encoder().encode

COLUMNS: Final[Mapping[str, str]] = {
    "position": "BIGINT",
    "recorded": "TIMESTAMPTZ",
    "stream": "VARCHAR",
    "kind": "VARCHAR",
    "id": "VARCHAR",
    "version": "BIGINT",
    "event": "VARCHAR",
    "event_version": "BIGINT",
    "key": "VARCHAR",
    "correlation": "VARCHAR",
    "causation": "VARCHAR",
    "principal": "VARCHAR",
    "headers": "VARCHAR",
    "payload": "VARCHAR",
}
"""Of a record, with their types in SQL; headers and payload are JSON."""


_ABSENT: Final = {field.name: field.default for field in msgspec.structs.fields(Metadata)}
"""What an event says of itself that has nothing of a kind, by field of its metadata."""


_ENCRYPTED: Final = frozenset([SEALED])


class Omitted:
    """Fields of payloads that are not exported, at the first level.

    Of an event that no class declares nobody knows them, so its payload is left out.
    """

    def __init__(
        self,
        names: Sequence[str],
        private: Mapping[tuple[str, int], frozenset[str]] | None = None,
        *,
        sealed: bool = False,
    ) -> None:
        """Take fields of all events, those of each type, and whether what is encrypted is one.

        Without `private` nobody knows which fields are that, and nobody asked.
        """
        self._names = frozenset([*names, SEALED] if sealed else names)
        self._private = private
        self.undeclared: set[str] = set()
        """Names of events whose payloads were left out."""
        self.changes_lines = bool(names) or private is not None
        """Whether a line may be of another event than the log has."""

    def of(self, name: str, version: int, payload: bytes) -> bytes:
        """Give an event's payload without them; the others stay as they stand."""
        private = frozenset[str]() if self._private is None else self._private.get((name, version))
        if private is None:
            self.undeclared.add(name)
            return b"{}"
        names = self._names | private
        # The engine writes that name as it stands; any other may be written with escapes.
        if not names or (names == _ENCRYPTED and SEALED.encode() not in payload):
            return payload
        fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        return _encode({n: v for n, v in fields.items() if n not in names})


def line_of(stored: StoredEvent, omitted: Omitted) -> bytes:
    """Give the line of an event, without its end; raise Damaged where it cannot be read."""
    metadata = decode_metadata(stored)
    payload = _payload(stored, omitted)
    line: dict[str, Any] = {
        "position": stored.position,
        "recorded": _time(stored.recorded),
        "stream": stored.stream,
        "version": stored.version,
        "event": stored.name,
        "event_version": stored.event_version,
    }
    for field in metadata.__struct_fields__:
        value = getattr(metadata, field)
        if field == "reply":
            if value is not NOTHING_KEPT and bytes(value):
                line[field] = value
        elif value != _ABSENT[field]:
            line[field] = value
    if stored.behind:
        line["behind"] = stored.behind
    if not omitted.changes_lines:
        line["checksum"] = stored.checksum
    line["payload"] = msgspec.Raw(payload)
    return _encode(line)


def record_of(stored: StoredEvent, omitted: Omitted) -> dict[str, Any]:
    """Give the values of an event by column; raise Damaged where it cannot be read."""
    metadata = decode_metadata(stored)
    kind, _, own_id = stored.stream.partition(":")
    headers = None if metadata.headers is None else _encode(metadata.headers).decode()
    return {
        "position": stored.position,
        "recorded": _time(stored.recorded),
        "stream": stored.stream,
        "kind": kind,
        "id": own_id,
        "version": stored.version,
        "event": stored.name,
        "event_version": stored.event_version,
        "key": metadata.key,
        "correlation": metadata.correlation,
        "causation": metadata.causation,
        "principal": metadata.principal,
        "headers": headers,
        "payload": _payload(stored, omitted).decode(),
    }


def _payload(stored: StoredEvent, omitted: Omitted) -> bytes:
    """Give the payload in one line."""
    if stored.encoding != ENCODING_JSON:
        raise Damaged(stored.position, f"{stored.name} has the unknown encoding {stored.encoding}")
    try:
        stored.payload.decode()  # which JSON's own reader does not look at
        payload = bytes(msgspec.json.format(stored.payload, indent=-1))
        return omitted.of(stored.name, stored.event_version, payload)
    except UNDECODABLE as error:
        raise Damaged(stored.position, f"the payload of {stored.name} is no JSON object") from error


def _time(recorded: int) -> str:
    time = _EPOCH + timedelta(microseconds=recorded)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
