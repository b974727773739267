"""Between structs and bytes: events and their metadata.

Rules: one decode path for actors, projectors and tools. A type is found by its stored name and
version in a registry that is complete before the first event is read; nothing is imported or
evaluated because a byte says so. Whatever is wrong with bytes, or raised by a class that they are
decoded to, comes out as `Damaged`, naming the position and the type and never the payload. This
file knows no async, clock or store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from ..errors import Damaged, DefinitionError, EventUnread, HandlerFailed
from ..runtime.safely import as_error
from .depth import decode_deep
from .exact import exactness_of
from .messages import Event, Meta
from .personal import PersonalForm, Sealer, personal_form
from .private import private_fields
from .sameness import first_difference
from .shape import CLASSES_MAX, event_type, schema_hash
from .stored import ENCODING_JSON, EventType, StoredEvent
from .tags import EventTags, TagReader, reader_of
from .upcasting import Upcaster, Upcasting
from .withheld import is_own_refusal, text_without_values, withheld

__all__ = [
    "UNDECODABLE",
    "Cast",
    "EventRegistry",
    "Held",
    "Metadata",
    "Without",
    "decode_meta",
    "masked",
    "read_metadata",
    "schema_hash",
    "without",
]

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that it cannot decode: not only errors of its own. What a class's
own `__post_init__` raises comes through it as it is, unless it is a ValueError or a TypeError."""

_encoder = msgspec.json.Encoder()


NOTHING_KEPT: Final = msgspec.Raw()
"""In place of a reply; a reply of None is `null`."""


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The stored form of what travels with an event; what is absent takes no bytes."""

    key: str | None = None
    fingerprint: int | None = None
    """Of the keyed command; on its first event, like the key."""
    events: int = 1
    """How many events the keyed command wrote; on its first event."""
    correlation: str | None = None
    causation: str | None = None
    principal: str | None = None
    headers: dict[str, str] | None = None
    reply: msgspec.Raw = NOTHING_KEPT
    """To the keyed command, as JSON; on its first event."""
    claims: tuple[tuple[str, str], ...] = ()
    """Names and values that the command took; on its first event. Nothing if held already."""
    releases: tuple[tuple[str, str], ...] = ()
    """Names and values that it released, if it held them; on its first event."""
    parties: tuple[tuple[str, int, int], ...] = ()
    """Of a joint decision, on the first of its events: each stream that it was about, the version
    that this came to, and how many events it got. All its events stand next to each other."""
    depth: int = 0
    """How many reactions in a row led to the command."""
    timers: tuple[tuple[str, int, str, msgspec.Raw], ...] = ()
    """Timers that the command set: name, time in µs, and its command by name and as JSON; on its
    first event."""
    cancels: tuple[str, ...] = ()
    """Names of timers that it cancelled, if there were any; on its first event."""
    fired: tuple[str, str, int] | None = None
    """Stream, name and position of the timer whose command it is; on its first event."""
    sealed: str | None = None
    """The fingerprint, encrypted for whom the events are about, where they have personal fields:
    what was given could be guessed by it. Then that is 0, which is no command's of former releases.
    """


_metadata_decoder = msgspec.json.Decoder(Metadata)
_NO_METADATA = Metadata()


class _OfKey(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What `Metadata` has of a command that brings a key and nothing else; in the same order."""

    key: str | None = None
    fingerprint: int | None = None
    events: int = 1
    reply: msgspec.Raw = NOTHING_KEPT
    sealed: str | None = None


def encode_metadata(metadata: Metadata) -> bytes:
    """Give the bytes of the metadata."""
    return _encoder.encode(metadata)


def encode_metadata_of_key(
    key: str, fingerprint: int | None, events: int, reply: bytes | None, sealed: str | None
) -> bytes:
    """Give the bytes of metadata that has this alone: of most commands, in half of the time."""
    kept = NOTHING_KEPT if reply is None else msgspec.Raw(reply)
    return _encoder.encode(_OfKey(key, fingerprint, events, kept, sealed))


def decode_metadata(stored: StoredEvent) -> Metadata:
    """Give the metadata of a stored event; raise Damaged where it cannot be read."""
    if not stored.metadata:
        return _NO_METADATA
    try:
        metadata = _metadata_decoder.decode(stored.metadata)
    except UNDECODABLE as error:
        what = f"the metadata of {stored.name}: {text_without_values(error)}"
    else:
        return metadata
    raise Damaged(stored.position, what)


def read_metadata(carried: bytes) -> Metadata:
    """Give metadata that stands beside no event; raise HandlerFailed where it cannot be read."""
    try:
        return _metadata_decoder.decode(carried) if carried else _NO_METADATA
    except UNDECODABLE as error:
        raise HandlerFailed(
            f"what travels with a timer cannot be read: {text_without_values(error)}"
        ) from None


def decode_meta(stored: StoredEvent) -> Meta:
    """Give what a projection or a reader is told of a stored event besides its content."""
    metadata = decode_metadata(stored)
    return Meta(
        stored.stream,
        stored.version,
        stored.position,
        stored.recorded,
        metadata.key,
        metadata.correlation,
        metadata.causation,
        metadata.principal,
        metadata.headers,
        metadata.depth,
    )


class _Entry(msgspec.Struct, frozen=True):
    cls: type[Event]
    type: EventType
    decoder: msgspec.json.Decoder[Any]
    read_back: Callable[[Any, bytes], Any]
    """Gives the copy of an event that was just encoded; HandlerFailed where that is another."""
    chain: tuple[Upcaster, ...]
    """The steps to what it is today; most often none."""
    personal: PersonalForm | None
    """Its fields that are stored encrypted; most often none."""
    tags: EventTags | None
    """What its events are tagged with; most often nothing."""


@lru_cache(maxsize=CLASSES_MAX)
def _personal_form(cls: type[Event]) -> PersonalForm | None:
    return personal_form(cls, cls.event_subject)


@lru_cache(maxsize=CLASSES_MAX)
def _masks_of(cls: type[Event]) -> Mapping[str, object]:
    form = _personal_form(cls)
    if form is None:
        return {}
    return {
        field.name: msgspec.json.decode(form.masks[field.encode_name], type=field.type)
        for field in msgspec.structs.fields(cls)
        if field.encode_name in form.masks
    }


def masked(event: Event) -> Event:
    """Give an event as it will read when its subject is erased; itself without personal fields.

    Raises what the event's own class does.
    """
    masks = _masks_of(type(event))
    return msgspec.structs.replace(event, **masks) if masks else event


class Without(msgspec.Struct, frozen=True):
    """Fields that are left out of the stored event, if they have the defaults that stand for that.

    If they have not, it is not stored and `unread` says why; without that it is stored as it is.
    """

    choices: Sequence[Set[str]]
    """The fields as they are called in JSON; the first choice is the best one."""
    unread: EventUnread | None


Held: TypeAlias = Mapping[type[Event], type[Event] | Without | EventUnread]
"""What a class is stored as that is not stored as it is, or why it is not stored at all."""


class Cast(msgspec.Struct, frozen=True):
    """The form in which an event is stored, where that is a former one."""

    type: EventType
    event: Event
    payload: bytes
    tags: tuple[str, ...]


class EventRegistry:
    """The event classes that an engine knows, by stored name and version, and back."""

    def __init__(self, classes: Iterable[type[Event]], upcasting: Upcasting | None = None) -> None:
        """Take the classes; raise DefinitionError where two claim one stored name and version."""
        self.upcasting = upcasting or Upcasting()
        self._by_name: dict[tuple[str, int], _Entry] = {}
        self._types: dict[type[Event], EventType] = {}
        self.sealer: Sealer | None = None
        """Encrypts personal fields and decrypts them; given before the first event is read."""
        self.encode: Callable[[Event], bytes] = _encoder.encode
        """Gives the bytes of an event; raises what msgspec raises for what is not encodable."""
        self.held: Held = {}
        """Told from outside, where a process of the log may not read all that is written here."""
        for cls in (*classes, *self.upcasting.classes):
            if cls not in self._types:
                self._add(cls)

    def _add(self, cls: type[Event]) -> None:
        stored = event_type(cls)
        other = self._by_name.get((stored.name, stored.version))
        if other is not None:
            raise DefinitionError(
                f"{cls.__qualname__} and {other.cls.__qualname__} are both stored as "
                f"{stored.name!r} version {stored.version}: give one of them another name"
            )
        chain = self.upcasting.chain(cls)
        exactness = cls.event_exactness or exactness_of(cls, "event")
        decoder = msgspec.json.Decoder(cls)
        read_back = exactness.reader(stored.name, decoder.decode)
        personal = _personal_form(cls)
        tags = self._tags_of(cls)
        entry = _Entry(cls, stored, decoder, read_back, chain, personal, tags)
        self._by_name[stored.name, stored.version] = entry
        self._types[cls] = stored

    @property
    def types(self) -> tuple[EventType, ...]:
        """All types, as a log would store them."""
        return tuple(self._types.values())

    def type_of(self, cls: type[Event]) -> EventType:
        """Give the stored type of a class; KeyError for a class that is not registered."""
        return self._types[cls]

    def decoder_of(self, cls: type[Event]) -> msgspec.json.Decoder[Any]:
        """Give the decoder of a class."""
        stored = self._types[cls]
        return self._by_name[stored.name, stored.version].decoder

    def reader_of(self, cls: type[Event]) -> Callable[[Any, bytes], Any]:
        """Give what makes the copy of an event of a class, out of the event and its bytes.

        It raises HandlerFailed where the copy is not what was given, and what decoding raises.
        """
        stored = self._types[cls]
        return self._by_name[stored.name, stored.version].read_back

    def personal_of(self, cls: type[Event]) -> PersonalForm | None:
        """Give the fields of a class that are stored encrypted."""
        stored = self._types[cls]
        return self._by_name[stored.name, stored.version].personal

    def subject_of(self, event: Event, stream: str) -> str | None:
        """Give whose personal data an event has; None if it has none."""
        stored = self._types.get(type(event))
        form = None if stored is None else self._by_name[stored.name, stored.version].personal
        if form is None:
            return None
        return stream if form.subject is None else getattr(event, form.subject)

    def _tags_of(self, cls: type[Event]) -> EventTags | None:
        """Give what events of a class are tagged with; those of a former one as they are today."""
        tags, today = cls.__tagged__(), self.upcasting.today(cls)
        wanted = None if today is cls else today.__tagged__()
        if wanted is not None and (tags is None or not wanted.names <= tags.names):
            raise DefinitionError(
                f"{today.__qualname__} has the tags {', '.join(sorted(wanted.names))}, and "
                f"{cls.__qualname__}, which is upcast to it, has not: declare them there too, by "
                f"fields of these names, as in `new: str = msgspec.field(name='old')` for a former "
                f"name in JSON. Otherwise no boundary would find its events"
            )
        return tags

    def tags_of(self, cls: type[Event]) -> TagReader | None:
        """Give what reads the tags of events of a class; None where it has none."""
        stored = self._types[cls]
        tags = self._by_name[stored.name, stored.version].tags
        return None if tags is None else reader_of(cls, tags)

    @property
    def tagged(self) -> Sequence[tuple[EventType, EventTags]]:
        """The stored types of events that have tags, with these."""
        entries = self._by_name.values()
        return [(entry.type, entry.tags) for entry in entries if entry.tags is not None]

    @property
    def personal(self) -> frozenset[str]:
        """The names that events with personal fields have today."""
        found = (e.cls for e in self._by_name.values() if e.personal is not None)
        return frozenset(self.upcasting.today(cls).event_name for cls in found)

    @property
    def private(self) -> Mapping[tuple[str, int], frozenset[str]]:
        """Fields that no export has, of each type that is declared: those of all its versions."""
        found: dict[str, frozenset[str]] = {}
        for (name, _), entry in self._by_name.items():
            found[name] = found.get(name, frozenset()) | private_fields(entry.cls)
        return {(name, version): found[name] for name, version in self._by_name}

    def is_personal(self, classes: Iterable[type[Event]]) -> bool:
        """Tell whether events that are of these classes today have personal fields, or had some."""
        names = self.personal
        return any(cls.event_name in names for cls in classes)

    def copy(self, event: Event) -> Any:
        """Give what an event is when it has been stored; raises what `reader_of` raises."""
        return self.reader_of(type(event))(event, _encoder.encode(event))

    def cast(self, event: Event) -> tuple[Event, Cast | None]:
        """Give an event as everybody will read it, and how it is stored, if not as it is.

        A downcaster may lose something: what the upcasters make of the rest is what is folded.
        Raises EventUnread where it may not be stored, and what the host's functions raise.
        """
        target = self.held.get(type(event))
        if target is None:
            return event, None
        if isinstance(target, EventUnread):
            raise EventUnread(*target.args)
        if isinstance(target, Without):
            return self._cast_without(event, target)
        former = event
        while type(former) is not target:
            former = _stepped(self.upcasting.downs[type(former)], former)
        today = former = self.copy(former)
        for step in self.upcasting.chain(target):
            today = self.copy(_stepped(step, today))
        read = self.tags_of(target)
        tags = () if read is None else read(former)
        return today, Cast(self.type_of(target), former, self.encode(former), tags)

    def _cast_without(self, event: Event, target: Without) -> tuple[Event, Cast | None]:
        """Give the same where the former form has not all the fields."""
        cls, today = type(event), self.copy(event)
        whole, decode = self.encode(today), self.decoder_of(cls).decode
        # What is encrypted has a form of its own, which all of its fields are part of.
        for fields in target.choices if self.personal_of(cls) is None else ():
            payload = without(whole, fields)
            if payload is not None and first_difference(today, decode(payload)) is None:
                read = self.tags_of(cls)
                tags = () if read is None else read(today)
                return today, Cast(event_type(cls, len(fields)), today, payload, tags)
        if target.unread is not None:
            raise EventUnread(*target.unread.args)
        return today, None

    def plain_decoder(
        self, name: str, version: int
    ) -> tuple[type[Event], Callable[[bytes], Any]] | None:
        """Give the class of a stored type that is read as it stands, and what decodes its JSON.

        None where `decode` has more to do or to say. Whatever the decoder raises, `decode` tells
        better.
        """
        entry = self._by_name.get((name, version))
        if entry is None or entry.chain or entry.personal is not None:
            return None
        return entry.cls, entry.decoder.decode

    @property
    def added(self) -> Mapping[type[Event], Sequence[str]]:
        """The fields that were added to each class that has such, by their names in JSON."""
        found: dict[type[Event], Sequence[str]] = {}
        for cls in self._types:
            names = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
            if cls.event_added:
                found[cls] = [names[name] for name in cls.event_added]
        return found

    @property
    def classes(self) -> tuple[type[Event], ...]:
        """The classes that events have today."""
        return tuple(cls for cls in self._types if self.upcasting.today(cls) is cls)

    @property
    def names(self) -> frozenset[str]:
        """Every stored name that it knows, those of retired types included."""
        retired = (each.name for each in self.upcasting.retired)
        return frozenset(cls.event_name for cls in self._types).union(retired)

    def names_of(self, classes: Iterable[type[Event]]) -> frozenset[str]:
        """Give the stored names of events that are of these classes today, or have their names."""
        return self.names_leading_to({cls.event_name for cls in classes})

    def names_leading_to(self, names: Set[str]) -> frozenset[str]:
        """Give these stored names, and those of older events that have these names today."""
        old = [c for c in self._types if self.upcasting.today(c).event_name in names]
        return frozenset(names).union(cls.event_name for cls in old)

    def decode(self, stored: StoredEvent) -> Event | None:
        """Give a fresh event, as it is today, of a stored one; None for a retired one.

        Raises Damaged where that cannot be done, also where an upcaster fails.
        """
        entry = self._by_name.get((stored.name, stored.event_version))
        if entry is None:
            if self.upcasting.is_retired(stored.name, stored.event_version):
                return None
            raise Damaged(
                stored.position,
                f"{stored.name} version {stored.event_version} of {stored.stream} is not declared "
                f"in this program; declare its class, or run the release that wrote it",
            )
        if stored.encoding != ENCODING_JSON:
            raise Damaged(
                stored.position, f"{stored.name} has the unknown encoding {stored.encoding}"
            )
        payload = stored.payload if entry.personal is None else self._opened(entry, stored)
        try:
            try:
                event: Event = entry.decoder.decode(payload)
            except RecursionError:
                event = decode_deep(entry.decoder.decode, payload)
        except BaseException as error:  # of the class's own code, whatever it is
            failed = as_error(error)
        else:
            return event if not entry.chain else self._upcast(event, entry.chain, stored)
        # Outside of the `except`, so that the error and what its text quotes stay behind.
        what = f"{stored.name} version {stored.event_version}: {text_without_values(failed)}"
        raise Damaged(stored.position, what, refused=is_own_refusal(failed)) from withheld(failed)

    def _opened(self, entry: _Entry, stored: StoredEvent) -> bytes:
        """Give the JSON of an event with personal fields, decrypted or masked."""
        assert entry.personal is not None
        if self.sealer is None:
            raise Damaged(
                stored.position, f"{stored.name} has encrypted fields, and no keys were given here"
            )
        try:
            return entry.personal.open(stored, self.sealer)
        except UNDECODABLE as error:
            what = f"the personal fields of {stored.name}: {text_without_values(error)}"
        raise Damaged(stored.position, what)

    def _upcast(self, event: Event, chain: tuple[Upcaster, ...], stored: StoredEvent) -> Event:
        for step in chain:
            try:
                event = _stepped(step, event)
                # Encoded and decoded, so that its fields are of their types and shared by nobody.
                event = self.copy(event)
                continue
            except BaseException as error:
                failed = as_error(error)
            raise Damaged(
                stored.position,
                f"{step.where} cannot make a {step.target.__name__} of {stored.name} version "
                f"{stored.event_version}: {text_without_values(failed)}",
            ) from withheld(failed)
        return event


def without(payload: bytes, fields: Set[str]) -> bytes | None:
    """Give the JSON of an event without some of its fields; None where they have no names in it."""
    if not payload.startswith(b"{"):
        return None
    parts = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    return _encoder.encode({name: part for name, part in parts.items() if name not in fields})


def _stepped(step: Upcaster, event: Event) -> Event:
    """Give what a step makes of an event; raise what it raises, and TypeError for a wrong class."""
    given: Event = step.function(event)
    if type(given) is not step.target:
        raise TypeError(f"it gave a {type(given).__name__}")
    return given
