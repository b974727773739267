"""An event of this engine as one of UmaDB, and back.

Rules: the type is the event's name, the data its payload, and its tags are UmaDB's tags, so that
other programs find it by them. The stream is a tag too, as `stream=order:o-1`. What UmaDB has no
place for stands in the metadata: version, time and checksum in one line, and what the event changes
of claims. The first event of the database says whose log it is, and is none of the log: UmaDB's
position is this engine's and one. What cannot be read is Damaged. No server is asked here.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import msgspec

from ...errors import Damaged
from ...model.stored import StoredEvent, verify
from ..contract.claims import ClaimChange, ClaimKey
from ..leased.known import Declared
from .calls import umadb

if TYPE_CHECKING:
    from umadb import Event, SequencedEvent

__all__ = [
    "AHEAD",
    "CLAIMS_TAG",
    "FIRST_TAG",
    "FORM",
    "HEADER",
    "Beside",
    "claim_tag",
    "claims_in",
    "declared_in",
    "from_uma",
    "stream_tag",
    "to_uma",
]

AHEAD: Final = 1
"""By how much UmaDB's positions are ahead."""
HEADER: Final = "foldline.log"
"""The type of the first event."""
FORM: Final = "1"
"""Of what is written here; it says so too."""
FIRST_TAG: Final = "first="
"""On the first event of a type or a kind. No tag of an event has an equals sign before a colon."""
CLAIMS_TAG: Final = "claims="
_STREAM: Final = "stream="
_PIECE: Final = 16_000
"""Characters of one value of metadata, which holds 65,535 bytes."""
_MASK: Final = (1 << 128) - 1

ClaimRow: TypeAlias = tuple[str, str, str | None, int]
"""Name, value, who holds it then, and since which position."""


class Beside(msgspec.Struct, frozen=True):
    """What events are stored with, by position."""

    tags: Mapping[int, Sequence[str]]
    claims: Mapping[int, Sequence[tuple[ClaimKey, ClaimChange]]]
    declared: Mapping[int, Declared | None]
    """For the first of a type, or of a kind alone."""


_claims: Final = msgspec.json.Decoder(list[ClaimRow]).decode
_declared: Final = msgspec.json.Decoder(Declared).decode
_encoded: Final = msgspec.json.Encoder().encode


def stream_tag(stream: str) -> str:
    """Give the tag that all events of a stream have."""
    return _STREAM + stream


def claim_tag(key: ClaimKey) -> str:
    """Give a short tag for a claim, which others may share: a page has room for few long ones."""
    text = "\0".join(key).encode("utf-8", "surrogatepass")
    return "c=" + urlsafe_b64encode(blake2b(text, digest_size=4).digest())[:5].decode()


def to_uma(events: Sequence[StoredEvent], beside: Beside, first_id: str) -> list[Event]:
    """Give events as they are sent; the first has that id, by which it is found again."""
    module, number = umadb(), int(first_id, 16)
    return [
        module.Event(
            event.name,
            event.payload,
            _tags(event, beside),
            UUID(int=(number + place) & _MASK),
            _metadata(event, beside),
        )
        for place, event in enumerate(events)
    ]


def _tags(event: StoredEvent, beside: Beside) -> list[str]:
    position = event.position
    tags = [stream_tag(event.stream), *dict.fromkeys(beside.tags.get(position, ()))]
    claims = beside.claims.get(position)
    if claims is not None:
        tags += [CLAIMS_TAG, *dict.fromkeys(claim_tag(key) for key, _ in claims)]
    if position in beside.declared:
        tags.append(FIRST_TAG)
    return tags


def _metadata(event: StoredEvent, beside: Beside) -> dict[str, str]:
    numbers = (event.version, event.event_version, event.recorded, event.encoding, event.checksum)
    found = {"foldline": " ".join(map(str, numbers))}
    if event.metadata:
        _put(found, "metadata", event.metadata)
    claims = beside.claims.get(event.position)
    if claims is not None:
        rows = [(*key, change.after, change.position) for key, change in claims]
        _put(found, "claims", _encoded(rows))
    declared = beside.declared.get(event.position)
    if declared is not None:
        _put(found, "type", _encoded(declared))
    return found


def _put(found: dict[str, str], name: str, value: bytes) -> None:
    """Put bytes into metadata, as text in pieces; what is no UTF-8 as one character a byte."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        name, text = f"{name}.bytes", value.decode("latin-1")
    for place in range(0, len(text), _PIECE):
        found[f"{name}.{place // _PIECE}" if place else name] = text[place : place + _PIECE]


def _taken(found: Mapping[str, str], name: str) -> bytes:
    if f"{name}.bytes" in found:
        return _joined(found, f"{name}.bytes").encode("latin-1")
    return _joined(found, name).encode() if name in found else b""


def _joined(found: Mapping[str, str], name: str) -> str:
    pieces = [found[name]]
    while (piece := found.get(f"{name}.{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def from_uma(found: SequencedEvent) -> StoredEvent:
    """Give an event as it was stored, compared with its checksum; raise Damaged."""
    position, event = found.position - AHEAD, found.event
    metadata = event.metadata
    try:
        version, event_version, recorded, encoding, checksum = map(
            int, metadata["foldline"].split(" ")
        )
        (stream,) = (tag for tag in event.tags if tag.startswith(_STREAM))
        own = _taken(metadata, "metadata")
    except (KeyError, ValueError):
        raise Damaged(
            position, "it is none of this engine's: another program wrote to this database"
        ) from None
    stored = StoredEvent(
        *(position, stream[len(_STREAM) :], version, event.event_type, event_version, recorded),
        *(event.data, own, encoding, checksum),
    )
    verify(stored)
    return stored


def claims_in(found: SequencedEvent) -> list[ClaimRow]:
    """Give what an event changes of claims; raise Damaged."""
    rows: list[ClaimRow] = _read(_claims, found, "claims")
    return rows


def declared_in(found: SequencedEvent) -> Declared | None:
    """Give what the first event of a type says of it; None for that of a kind alone."""
    if "type" not in found.event.metadata:
        return None
    declared: Declared = _read(_declared, found, "type")
    return declared


def _read(decode: Any, found: SequencedEvent, name: str) -> Any:
    try:
        return decode(_taken(found.event.metadata, name))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged(found.position - AHEAD, f"its {name} cannot be read") from None
