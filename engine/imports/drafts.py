"""From an event of the source to one as it is stored, without its place in the log.

Rules: whatever is wrong with an event is StoreRefused that names its place, the rule and who must
act, and no value of it. An event that a mapping function gives is encoded, read back and compared
as one that a handler returns. A line that Foldline has exported keeps its bytes; it is read as the
engine would read it. This file numbers nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec

from ..errors import Damaged, EngineError, InvalidInput, StoreRefused
from ..limits import Limits
from ..model.aggregate import AggregateDefinition
from ..model.codec import EventRegistry, Metadata, encode_metadata
from ..model.decisions import Claim, Decision, Release, UniqueValue, opened
from ..model.given import as_headers, as_text
from ..model.ids import as_id, check_id
from ..model.messages import Event
from ..model.personal import sealed_of
from ..model.stored import ENCODING_JSON, EventType, StoredEvent
from ..model.withheld import text_without_values
from ..projections.targets.made import reaction_of
from ..runtime.safely import as_error
from .events import Imported, Mapping, SourceEvent
from .json_lines import ExportedLine

__all__ = ["Draft", "Drafts", "ExportedDrafts", "MappedDrafts"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
OLD_ID: Final = "old-id"
"""The header that keeps an event's own id of the source."""
_UNKNOWN_SCHEMA: Final = ""
"""Of a retired type, whose class is no more."""


class Draft(msgspec.Struct, frozen=True):
    """An event without its place."""

    stream: str
    type: EventType
    time: int
    """In µs since 1970-01-01 UTC, by the clock of who wrote it."""
    payload: bytes
    metadata: bytes
    claims: Sequence[UniqueValue] = ()
    version: int | None = None
    """Its place in the stream, where the source says so."""
    checksum: int | None = None
    position: int | None = None
    """Its place in the log that was exported, where it says so."""
    moved: Metadata | None = None
    """Its metadata at any other place, but for the place of its timer; None if it is the same."""
    timers: Sequence[str] = ()
    """Names of the timers that it sets."""


Drafts = Callable[[SourceEvent], Iterator[Draft]]
"""Gives what an event of the source becomes; raises StoreRefused."""


class Kinds:
    """What the host's aggregates apply."""

    def __init__(self, definitions: Sequence[AggregateDefinition]) -> None:
        self._by_name = {definition.kind: definition for definition in definitions}

    def check(self, kind: str, event: type[Event]) -> None:
        """Raise InvalidInput where there is no such kind, or it does not apply the event."""
        found = self._by_name.get(kind)
        if found is None:
            raise InvalidInput(
                f"the application has no kind {kind[:40]!a}: it has {sorted(self._by_name)}"
            )
        if event not in found.appliers:
            raise InvalidInput(
                f"nothing in {found.cls.__name__} applies {event.__name__}: add an @applies method"
            )


class MappedDrafts:
    """What a mapping function makes of events."""

    def __init__(
        self,
        source: str,
        mapping: Mapping,
        registry: EventRegistry,
        definitions: Sequence[AggregateDefinition],
        limits: Limits,
    ) -> None:
        self._source = source
        self._mapping = mapping
        self._registry = registry
        self._kinds = Kinds(definitions)
        self._limits = limits

    def __call__(self, found: SourceEvent) -> Iterator[Draft]:
        """Map an event."""
        try:
            given: object = self._mapping(found)
        except Exception as error:
            raise self._refused(
                found, f"the mapping function raised {text_without_values(error)}"
            ) from error
        if given is None:
            return
        if inspect.iscoroutine(given):
            given.close()
        several = isinstance(given, list | tuple)
        for each in cast("Sequence[object]", given) if several else (given,):
            try:
                yield self._draft(found, each)
            except EngineError as error:
                raise self._refused(found, _plain(error)) from error

    def _refused(self, found: SourceEvent, why: str) -> StoreRefused:
        return StoreRefused(f"{self._source}, {found.place}: {why}")

    def _draft(self, found: SourceEvent, given: object) -> Draft:
        if not isinstance(given, Imported):
            raise InvalidInput(
                f"the mapping function gave a {type(given).__name__}: give Imported(...), a list "
                f"of them, or None"
            )
        event: Any = given.event
        if not isinstance(event, Event):
            raise InvalidInput(f"event= is an Event, not a {type(event).__name__}")
        self._kinds.check(as_text("kind", given.kind), type(event))
        if self._registry.personal_of(type(event)) is not None:
            raise InvalidInput(
                f"{type(event).__name__} has personal fields, and an import has no keys to encrypt "
                f"them with: give these events to a running engine as commands"
            )
        own_id = as_id(given.id)
        check_id(own_id)
        decision = Decision(event, claims=given.claims)
        claims = opened("the mapping function", None, decision, self._limits)[3]
        payload, metadata = self._payload(event), _metadata(given, claims, found.id)
        largest, most = max(len(payload), len(metadata)), self._limits.event_bytes
        if largest > most:
            raise InvalidInput(
                f"{type(event).__name__} has {largest:,} bytes, above Limits.event_bytes at "
                f"{most:,}"
            )
        return Draft(
            f"{given.kind}:{own_id}",
            self._registry.type_of(type(event)),
            _microseconds(given.recorded or found.recorded),
            payload,
            metadata,
            claims,
        )

    def _payload(self, event: Event) -> bytes:
        try:
            payload = self._registry.encode(event)
            self._registry.reader_of(type(event))(event, payload)
        except BaseException as error:
            name, why = type(event).__name__, text_without_values(as_error(error))
            raise InvalidInput(f"{name} does not come back as it is given: {why}") from error
        return payload


class ExportedDrafts:
    """Lines of an export, event by event as they were stored."""

    def __init__(
        self,
        source: str,
        registry: EventRegistry,
        definitions: Sequence[AggregateDefinition],
    ) -> None:
        self._source = source
        self._registry = registry
        self._kinds = Kinds(definitions)
        self._types = {(kind.name, kind.version): kind for kind in registry.types}
        self._decoder = msgspec.json.Decoder(ExportedLine)
        self._metadata = msgspec.json.Decoder(Metadata)

    def __call__(self, found: SourceEvent) -> Iterator[Draft]:
        """Read a line."""
        try:
            line = self._decoder.decode(found.raw)
            yield self._draft(line, self._metadata.decode(found.raw))
        except (msgspec.MsgspecError, InvalidInput, Damaged, ValueError) as error:
            raise StoreRefused(
                f"{self._source}, {found.place}: {_plain(error)}. This is no line of an export "
                f"that the application can read: give --map for lines of another form"
            ) from error

    def _draft(self, line: ExportedLine, metadata: Metadata) -> Draft:
        kind, _, own_id = line.stream.partition(":")
        check_id(own_id)
        as_text("stream", line.stream)
        if line.encoding != ENCODING_JSON:
            raise InvalidInput(f"its encoding is {line.encoding}, which this release does not know")
        payload = bytes(msgspec.json.format(line.payload, indent=-1))
        time = _microseconds(datetime.fromisoformat(line.recorded)) - line.behind
        encoded = b"" if metadata == Metadata() else encode_metadata(metadata)
        stored = StoredEvent(
            *(1, line.stream, line.version, line.event, line.event_version, time),
            *(payload, encoded, ENCODING_JSON, 0),
        )
        if sealed_of(stored) is not None:
            raise InvalidInput(
                f"{line.event} has encrypted fields, whose keys are of the log that was exported, "
                f"and an import makes another log: `foldline copy` and `restore` keep its id"
            )
        event = self._registry.decode(stored)
        if event is not None:
            self._kinds.check(kind, type(event))
        kept = self._types.get((line.event, line.event_version))
        return Draft(
            line.stream,
            kept or EventType(line.event, line.event_version, _UNKNOWN_SCHEMA),
            time,
            payload,
            encoded,
            [*(Claim(*c) for c in metadata.claims), *(Release(*c) for c in metadata.releases)],
            line.version,
            line.checksum,
            line.position,
            _moved(metadata, stored),
            [name for name, *_ in metadata.timers],
        )


def _moved(metadata: Metadata, stored: StoredEvent) -> Metadata | None:
    """Give the metadata of an event that gets another place than it had; None for the same.

    The engine's own keys, of timers and reactions, have places of the former log. Here another
    timer may get that place: its command would be taken for one that was run.
    """
    if metadata.fired is None and reaction_of(stored) is None:
        return None
    bare = Metadata()
    return msgspec.structs.replace(
        metadata, key=None, fingerprint=None, events=bare.events, reply=bare.reply
    )


def _plain(error: Exception) -> str:
    """Give an error without what it may quote, and without what became of a command."""
    why = error.what if isinstance(error, Damaged) else text_without_values(error)
    for said in ("Nothing was run.", "Nothing was written."):
        why = why.removesuffix(said).strip()
    return why.removesuffix(".")


def _microseconds(time: object) -> int:
    if not isinstance(time, datetime):
        raise InvalidInput("the source has no time for it: give recorded=, a datetime with a zone")
    if time.utcoffset() is None:
        raise InvalidInput("recorded= has no time zone, as in datetime(..., tzinfo=UTC)")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _metadata(given: Imported, claims: Sequence[UniqueValue], old_id: str | None) -> bytes:
    def text(name: str, value: str | None) -> str | None:
        return None if value is None else as_text(name, value)

    kept = {} if old_id is None else {OLD_ID: str(old_id)}
    headers = (kept | as_headers(given.headers or {})) or None
    taken = tuple((c.name, c.value) for c in claims if isinstance(c, Claim))
    released = tuple((c.name, c.value) for c in claims if not isinstance(c, Claim))
    metadata = Metadata(
        key=text("key", given.key),
        correlation=text("correlation", given.correlation),
        causation=text("causation", given.causation),
        principal=text("principal", given.principal),
        headers=headers,
        claims=taken,
        releases=released,
    )
    return b"" if metadata == Metadata() else encode_metadata(metadata)
