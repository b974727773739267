"""An event as a message: the attributes of CloudEvents 1.0, and a body.

Rules: the id is that of the delivery, the same each time the event is sent, and no other event has
it, nor one of what a log was before it went back to a backup. What the event's command carried
stays behind, except the trace, correlation and causation: a principal or a key is nobody's business
outside. How a broker writes attributes is that broker's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

import msgspec

from ..errors import UsageError
from ..model.messages import Event, Meta
from ..model.sink import Delivery

__all__ = [
    "CONTENT_TYPE",
    "Encode",
    "Former",
    "Outgoing",
    "Topic",
    "headers_of",
    "percent_decoded",
    "percent_encoded",
    "place_of",
    "waves",
]

Topic: TypeAlias = str | Callable[[Any, Meta], str]
"""Where a message goes: one name, or a function of event and meta that gives it."""
Encode: TypeAlias = Callable[[Any, Meta], bytes | None]
"""Gives the body of an event's message; None for an event that is not published."""

CONTENT_TYPE: Final = "datacontenttype"
"""The attribute that says what the body is."""
_CARRIED: Final = ("traceparent", "tracestate")
"""Headers of a command that go out with its events."""
_PRINTED: Final = "!#$&'()*+,/:;=?@[]<>\\^`{|}"
"""What no percent-encoding is needed for, besides letters, digits and `-._~`."""


class Outgoing(msgspec.Struct, frozen=True):
    """One message on its way to a broker."""

    position: int
    """Of its event, in the log."""
    key: str
    """What it is kept in order with: the stream of its event."""
    topic: str
    """The subject, queue or stream that it goes to."""
    attributes: Mapping[str, str]
    """Of CloudEvents, by name: id, source, type, time, subject and others."""
    body: bytes

    @property
    def id(self) -> str:
        """The same each time it is sent, and no other message's; see `Delivery.id`."""
        return self.attributes["id"]

    @property
    def place(self) -> str:
        """What of the id an event of another history may have too: `<log id>-<position>`."""
        return place_of(self.id)


def place_of(identity: str) -> str:
    """Give log and position of a message's id."""
    return identity.rpartition("-")[0]


class Former:
    """Forms the messages of one relay."""

    def __init__(
        self,
        topic: Topic,
        *,
        encode: Encode | None = None,
        content_type: str = "application/json",
        source: str | None = None,
        dataschema: str | None = None,
    ) -> None:
        """Take where messages go, what makes their bodies, and what stands in all of them."""
        self._topic = topic
        self._encode = encode
        self._json = msgspec.json.Encoder()
        self._content_type = content_type
        self._source = source
        self._dataschema = dataschema

    def form(self, delivery: Delivery[Event]) -> Outgoing | None:
        """Give the message of an event, or None where `encode` gives none.

        Raises UsageError for a topic or a body of another type, and what `encode` raises.
        """
        event, meta = delivery.event, delivery.meta
        encode, name = self._encode, self._topic
        body: Any = self._json.encode(event) if encode is None else encode(event, meta)
        if body is None:
            return None
        if not isinstance(body, bytes):
            raise UsageError(f"encode= gave {type(body).__name__}: it gives bytes, or None")
        topic: Any = name if isinstance(name, str) else name(event, meta)
        if not isinstance(topic, str) or not topic:
            raise UsageError(f"topic= gave {type(topic).__name__}: it gives a text with characters")
        return Outgoing(meta.position, meta.stream, topic, self._attributes(delivery), body)

    def _attributes(self, delivery: Delivery[Event]) -> Mapping[str, str]:
        event, meta, log_id = delivery.event, delivery.meta, delivery.log_id
        name, version = event.event_name, event.event_version
        attributes = {
            "specversion": "1.0",
            "id": delivery.id,
            "source": self._source or f"urn:foldline:log:{log_id}",
            "type": name,
            "subject": meta.stream,
            "time": meta.time.isoformat().replace("+00:00", "Z"),
            CONTENT_TYPE: self._content_type,
            "dataschema": (self._dataschema or "urn:foldline:event:{name}:{version}").format(
                name=name, version=version
            ),
            "sequence": str(meta.position),
            "streamversion": str(meta.version),
        }
        if meta.correlation is not None:
            attributes["correlationid"] = meta.correlation
        if meta.causation is not None:
            attributes["causationid"] = meta.causation
        if meta.headers is not None:
            attributes |= {name: meta.headers[name] for name in _CARRIED if name in meta.headers}
        return attributes


def headers_of(message: Outgoing, prefix: str) -> dict[str, str]:
    """Give the attributes by the names of headers, each with a broker's prefix."""
    return {
        "content-type" if name == CONTENT_TYPE else prefix + name: value
        for name, value in message.attributes.items()
    }


def waves(batch: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Give messages in waves: none has two of one key, and those of a key keep their order.

    Where a wave is confirmed before the next is sent, a message that is lost or refused is never
    overtaken by a later one of its key.
    """
    found: list[list[Outgoing]] = []
    reached: dict[str, int] = {}
    for message in batch:
        wave = reached.get(message.key, 0)
        reached[message.key] = wave + 1
        if wave == len(found):
            found.append([])
        found[wave].append(message)
    yield from found


def percent_encoded(value: str) -> str:
    """Give an attribute as a header that holds printable ASCII only."""
    if value.isascii() and value.isprintable() and not ('"' in value or "%" in value):
        return value if " " not in value else value.replace(" ", "%20")
    return quote(value, safe=_PRINTED)


def percent_decoded(value: str) -> str:
    """Give the attribute that a header holds."""
    return unquote(value) if "%" in value else value
