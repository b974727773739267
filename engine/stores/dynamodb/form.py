"""What stands in the table: keys, items of events and of what is beside them, and their size.

Rules: every item has `pk` and `sk`, which are texts. An event stands once, by its stream and its
version. A page says which events one transaction brought, by the position of the last. Tags, claims
and snapshots are items of their own. Numbers in keys have 20 digits, so that texts have their
order. Bytes that are text are kept as text, so that people can read them. What cannot be read is
Damaged. No service is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from ...errors import Damaged
from ...model.stored import Snapshot, StoredEvent, verify
from ..contract.claims import ClaimKey, HeldClaim
from ..leased.known import Declared
from .calls import Item

__all__ = [
    "FORM",
    "GROUP",
    "ITEM_BYTES",
    "KNOWN",
    "SEQUENCER",
    "bytes_of",
    "claim_item",
    "claim_key",
    "claim_of",
    "declared_of",
    "digits",
    "event_item",
    "event_key",
    "event_of",
    "key",
    "kind_item",
    "number_of",
    "page_item",
    "page_pk",
    "places_in",
    "size_of",
    "snapshot_item",
    "snapshot_key",
    "snapshot_of",
    "stream_pk",
    "tag_item",
    "tag_pk",
    "tags_in",
    "text_of",
    "type_item",
]

FORM: Final = "1"
"""Of what is written here; the item of the log says so too."""
ITEM_BYTES: Final = 400 * 1024
"""Of one item, names of attributes included."""
GROUP: Final = 1_000
"""Positions whose pages stand together."""
KNOWN: Final = "known"
"""Where types, kinds and names of claims stand."""
_SORT_BYTES: Final = 1_000
"""Of a text in a key: the service takes 1,024."""
_KEPT_BYTES: Final = 900
"""Of a text that is longer, in front of its hash."""
_NUMBER_BYTES: Final = 21
_TagsForm = tuple[tuple[tuple[str, str], ...], tuple[str, ...]] | None
_tags_form: Final = msgspec.json.Decoder(_TagsForm).decode


def key(pk: str, sk: str) -> Item:
    """Give the key of an item."""
    return {"pk": {"S": pk}, "sk": {"S": sk}}


SEQUENCER: Final = key("log", "log")
"""The item that says where the log ends and who has it: each transaction changes it."""


def digits(number: int) -> str:
    """Give a number as a text that has its order."""
    return f"{number:020d}"


def fitted(text: str) -> str:
    """Give a text for a key: a long one as its beginning and its hash."""
    coded = text.encode()
    if len(coded) <= _SORT_BYTES:
        return text
    kept = coded[:_KEPT_BYTES].decode(errors="ignore")
    return kept + "\uffff" + blake2b(coded, digest_size=16).hexdigest()


def stream_pk(stream: str) -> str:
    """Give where the events of a stream are."""
    return f"stream={stream}"


def event_key(stream: str, version: int) -> Item:
    """Give the key of an event."""
    return key(stream_pk(stream), digits(version))


def page_pk(position: int) -> str:
    """Give where the pages are whose last events have about this position."""
    return f"page={position // GROUP}"


def tag_pk(tag: str) -> str:
    """Give where the events of a tag are."""
    return f"tag={tag}"


def claim_key(claim: ClaimKey) -> Item:
    """Give the key of a claim."""
    return key(f"claim={claim[0]}", fitted(claim[1]))


def snapshot_key(stream: str) -> Item:
    """Give the key of a stream's snapshot."""
    return key(f"snapshot={stream}", "0")


# -- values -----------------------------------------------------------------------------------


def _number(value: int) -> Item:
    return {"N": str(value)}


def _text(value: str) -> Item:
    return {"S": value}


def _value(value: bytes) -> Item:
    try:
        return {"S": value.decode()}
    except UnicodeDecodeError:
        return {"B": value}


def text_of(item: Item, name: str) -> str:
    """Give a text of an item; raise KeyError."""
    text: str = item[name]["S"]
    return text


def number_of(item: Item, name: str) -> int:
    """Give a number of an item; raise KeyError, ValueError."""
    return int(item[name]["N"])


def bytes_of(item: Item, name: str) -> bytes:
    """Give bytes of an item; empty for none."""
    value: Any = item.get(name, {"S": ""})
    return value["S"].encode() if "S" in value else bytes(value["B"])


def size_of(item: Item) -> int:
    """Give at least the bytes of an item as the service counts them."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: Mapping[str, Any]) -> int:
    ((kind, held),) = value.items()
    if kind == "S":
        return len(held.encode())
    if kind == "L":
        return 3 + sum(1 + _size(each) for each in held)
    return _NUMBER_BYTES if kind == "N" else len(held)


# -- events -----------------------------------------------------------------------------------


def event_item(event: StoredEvent) -> Item:
    """Give the item of an event."""
    item = {
        **event_key(event.stream, event.version),
        "position": _number(event.position),
        "version": _number(event.version),
        "name": _text(event.name),
        "event_version": _number(event.event_version),
        "recorded": _number(event.recorded),
        "payload": _value(event.payload),
        "encoding": _number(event.encoding),
        "checksum": _number(event.checksum),
    }
    if event.metadata:
        item["metadata"] = _value(event.metadata)
    return item


def event_of(item: Item, position: int = 0) -> StoredEvent:
    """Give an event as it was stored, compared with its checksum; raise Damaged."""
    try:
        position = number_of(item, "position")
        event = StoredEvent(
            position,
            text_of(item, "pk").removeprefix(stream_pk("")),
            number_of(item, "version"),
            text_of(item, "name"),
            number_of(item, "event_version"),
            number_of(item, "recorded"),
            bytes_of(item, "payload"),
            bytes_of(item, "metadata"),
            number_of(item, "encoding"),
            number_of(item, "checksum"),
        )
    except (KeyError, ValueError):
        raise Damaged(
            position, "it is none of this engine's: another program wrote to this table"
        ) from None
    verify(event)
    return event


def page_item(events: Sequence[StoredEvent]) -> Item:
    """Give what says which events a transaction brings."""
    last = events[-1].position
    return {
        **key(page_pk(last), digits(last)),
        "first": _number(events[0].position),
        "events": {"L": [_text(f"{event.version} {event.stream}") for event in events]},
    }


def places_in(item: Item) -> list[tuple[int, str, int]]:
    """Give position, stream and version of the events of a page; raise Damaged."""
    try:
        first = number_of(item, "first")
        found: list[tuple[int, str, int]] = []
        for number, each in enumerate(item["events"]["L"]):
            version, _, stream = each["S"].partition(" ")
            found.append((first + number, stream, int(version)))
    except (KeyError, ValueError):
        sk = text_of(item, "sk")
        raise Damaged(int(sk) if sk.isdecimal() else 0, "its page cannot be read") from None
    return found


# -- what is beside them ----------------------------------------------------------------------


def tag_item(tag: str, event: StoredEvent, tags: Iterable[str]) -> Item:
    """Give what an event is found by."""
    return {
        **key(tag_pk(tag), digits(event.position)),
        "stream": _text(event.stream),
        "version": _number(event.version),
        "name": _text(event.name),
        "tags": {"L": [_text(each) for each in tags]},
    }


def tags_in(item: Item) -> frozenset[str]:
    """Give all tags of an event, from the item of one of them."""
    return frozenset(each["S"] for each in item["tags"]["L"])


def claim_item(claim: ClaimKey, stream: str, position: int) -> Item:
    """Give a claim that is held."""
    return {
        **claim_key(claim),
        "name": _text(claim[0]),
        "value": _text(claim[1]),
        "stream": _text(stream),
        "position": _number(position),
    }


def claim_of(item: Item) -> HeldClaim:
    """Give a claim that is held."""
    return HeldClaim(
        text_of(item, "name"),
        text_of(item, "value"),
        text_of(item, "stream"),
        number_of(item, "position"),
    )


def kind_item(what: str, name: str) -> Item:
    """Give what says that the log has a kind of streams, or of claims."""
    return {**key(KNOWN, f"{what}={name}"), "name": _text(name)}


def type_item(event: StoredEvent, declared: Declared) -> Item:
    """Give what says which types the log has."""
    return {
        **key(KNOWN, f"type={event.name} {event.event_version}"),
        "name": _text(event.name),
        "event_version": _number(event.event_version),
        "schema_hash": _text(declared.schema_hash),
        "position": _number(event.position),
        "tags": _text(msgspec.json.encode(declared.tags).decode()),
    }


def declared_of(item: Item) -> Declared:
    """Give what is said of a type."""
    return Declared(text_of(item, "schema_hash"), _tags_form(text_of(item, "tags")))


def snapshot_item(snapshot: Snapshot) -> Item:
    """Give a snapshot's item."""
    return {
        **snapshot_key(snapshot.stream),
        "version": _number(snapshot.version),
        "position": _number(snapshot.position),
        "checksum": _number(snapshot.checksum),
        "snapshot_version": _number(snapshot.snapshot_version),
        "state": {"B": snapshot.state},
    }


def snapshot_of(item: Item) -> Snapshot:
    """Give a snapshot."""
    return Snapshot(
        text_of(item, "pk").removeprefix("snapshot="),
        number_of(item, "version"),
        number_of(item, "position"),
        number_of(item, "checksum"),
        number_of(item, "snapshot_version"),
        bytes_of(item, "state"),
    )
