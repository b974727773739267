"""Personal fields of events: which they are, and how they leave an event's JSON and come back.

Rules: a field is personal if its whole type is marked, as in `name: Personal[str]`; a mark deeper
inside a type is refused, since it would protect nothing. All personal fields of an event belong to
one subject: a person whose key seals them, and who is erased by destroying that key. What remains
of an erased field is its mask, which its type must admit. This file knows no key, cipher or store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import inspect

from ..errors import DefinitionError, HandlerFailed
from ..limits import SUBJECT_LENGTH_MAX
from .private import has_inside, private_fields
from .stored import StoredEvent

__all__ = [
    "ERASED",
    "SEALED",
    "SNAPSHOTS",
    "Masking",
    "Personal",
    "PersonalForm",
    "Sealer",
    "has_marks",
    "is_subject",
    "opened_of",
    "personal_form",
    "sealed_of",
]

T = TypeVar("T")

_MARK: Final = {"foldline": "personal"}

Personal: TypeAlias = Annotated[T, msgspec.Meta(extra=_MARK)]
"""The type of an event's field that is stored encrypted: `name: Personal[str]`.

To handlers, appliers and projections it is the type inside. If its subject was erased, it reads as
None if its type admits that, and as `ERASED` if it is a text. A list, a tuple, a set or a dict is
empty then. Other types are written with None: `Personal[date | None]`.
"""

ERASED: Final = "(erased)"
"""What a personal text reads as when its subject has been erased."""
SNAPSHOTS: Final = "\0snapshots"
"""The subject that stands for all persons in states of aggregates; no event can name it."""
SEALED: Final = "$personal"
"""The name that the sealed fields have together in an event's JSON; no field can have it."""
_LISTS: Final = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
)

_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


class Sealer(Protocol):
    """What encrypts for a subject, and decrypts until he is erased."""

    keeps_states: bool
    """Whether states of aggregates may be sealed just now."""

    def seal(self, subject: str, plain: bytes, bound: bytes) -> str:
        """Give a text that nobody reads without the subject's key, or together with other `bound`.

        The key of a new subject is not durable yet: `flush` makes it so.
        """
        ...

    def subject_of(self, sealed: str, position: int) -> str:
        """Give whose data was sealed; raise Damaged as `unseal` does."""
        ...

    def unseal(self, sealed: str, bound: bytes, position: int) -> bytes | None:
        """Give what was sealed, or None if its subject has been erased.

        Raises Damaged, naming `position`, where it is another text, or its key is not to be had.
        """
        ...


class Masking:
    """Reads every personal field as if its subject had been erased; writes nothing."""

    keeps_states = False

    def seal(self, subject: str, plain: bytes, bound: bytes) -> str:  # noqa: ARG002 - the protocol's
        """Refuse: there are no keys."""
        raise AssertionError("what only masks is never written with")

    def subject_of(self, sealed: str, position: int) -> str:  # noqa: ARG002 - it has no keys
        """Give nobody."""
        return ""

    def unseal(self, sealed: str, bound: bytes, position: int) -> None:
        """Give the mask."""


class PersonalForm(msgspec.Struct, frozen=True):
    """The personal fields of one class of event."""

    masks: Mapping[str, msgspec.Raw]
    """What each reads as when it was erased, by its name in JSON."""
    subject: str | None
    """The field that names the subject; None where it is the event's stream."""

    def seal(self, event: Any, payload: bytes, sealer: Sealer, stream: str, version: int) -> bytes:
        """Give an event's JSON with its personal fields encrypted; HandlerFailed without a subject.

        `version` is the event's place in its stream: what was sealed there opens nowhere else.
        """
        subject = stream if self.subject is None else getattr(event, self.subject)
        if not is_subject(subject):
            raise HandlerFailed(
                f"{type(event).__name__}.{self.subject} names the subject of personal fields, and "
                f"is no text of 1 to {SUBJECT_LENGTH_MAX} printable characters. Nothing was "
                f"written."
            )
        fields = _decode_fields(payload)
        personal = {name: fields.pop(name) for name in self.masks if name in fields}
        sealed: dict[str, object] = {**fields}
        bound = _bound(stream, version, event.event_name)
        sealed[SEALED] = sealer.seal(subject, _encode(personal), bound)
        return _encode(sealed)

    def open(self, stored: StoredEvent, sealer: Sealer) -> bytes:
        """Give an event's JSON with its personal fields, or with their masks.

        What was stored before its fields were personal comes back as it is. Raises Damaged, and
        what msgspec raises.
        """
        sealed = sealed_of(stored)
        if sealed is None:
            return stored.payload
        found = opened_of(stored, sealed, sealer)
        if found is None:
            fields = _decode_fields(stored.payload)
            del fields[SEALED]
            return _encode({**fields, **self.masks})
        return found[1]


def sealed_of(stored: StoredEvent) -> str | None:
    """Give what is encrypted in an event; None if nothing is. Raises what msgspec raises."""
    if SEALED.encode() not in stored.payload:
        return None
    sealed = _decode_fields(stored.payload).get(SEALED)
    return None if sealed is None else msgspec.json.decode(sealed, type=str)


def opened_of(stored: StoredEvent, sealed: str, sealer: Sealer) -> tuple[bytes, bytes] | None:
    """Give an event's personal fields and all its fields, each as JSON; None if they are erased.

    Raises Damaged, and what msgspec raises.
    """
    bound = _bound(stored.stream, stored.version, stored.name)
    plain = sealer.unseal(sealed, bound, stored.position)
    if plain is None:
        return None
    fields = _decode_fields(stored.payload)
    del fields[SEALED]
    return plain, _encode({**fields, **_decode_fields(plain)})


def _bound(stream: str, version: int, name: str) -> bytes:
    return f"{stream}@{version} {name}".encode()


def is_subject(name: object) -> bool:
    """Tell whether a text can name a person whose data events have."""
    return type(name) is str and 0 < len(name) <= SUBJECT_LENGTH_MAX and name.isprintable()


# -- studying a class -----------------------------------------------------------------------------


def personal_form(cls: type[msgspec.Struct], subject: str | None = None) -> PersonalForm | None:
    """Give the personal fields of a class of event; None if it has none.

    Raises DefinitionError for a mark that would protect nothing, a field without a mask, and a
    subject that is none. Raises NameError where a field names a type that is not there yet.
    """
    where = f"event {cls.__qualname__}"
    private_fields(cls)  # which refuses its own marks inside of types
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    masks: dict[str, msgspec.Raw] = {}
    personal: list[str] = []
    for field in info.fields:
        inside = _unmarked(field.type)
        if inside is not None:
            personal.append(field.name)
            masks[field.encode_name] = _mask(where, field.name, inside)
        _refuse_inside(field.type if inside is None else inside, f"{where}.{field.name}")
    if not personal:
        if subject is not None:
            raise DefinitionError(
                f"{where} has subject={subject!r} and no personal field: mark one, as in "
                f"`name: Personal[str]`"
            )
        return None
    if cls.__struct_config__.array_like or cls.__struct_config__.tag is not None:
        raise DefinitionError(f"{where} has personal fields: drop array_like and tag")
    _check_subject(where, info, personal, subject)
    return PersonalForm(masks, subject)


def has_marks(info: inspect.StructType) -> bool:
    """Tell whether a struct has personal fields."""
    return any(_unmarked(field.type) is not None for field in info.fields)


def _check_subject(
    where: str, info: inspect.StructType, personal: list[str], subject: object
) -> None:
    if subject is None:
        return
    field = next((f for f in info.fields if f.name == subject), None)
    if field is None or not isinstance(_bare(field.type), inspect.StrType):
        raise DefinitionError(
            f"{where} has subject={subject!r}: it is a field of it that is a text, and names the "
            f"person whose data the personal fields are"
        )
    if field.name in personal:
        raise DefinitionError(
            f"{where} has subject={subject!r}, which is personal itself: give an id without meaning"
        )


def _bare(type_: inspect.Type) -> inspect.Type:
    while isinstance(type_, inspect.Metadata):
        type_ = type_.type
    return type_


def _unmarked(type_: inspect.Type) -> inspect.Type | None:
    """Give the type inside of one that is marked; None if it is not."""
    if not isinstance(type_, inspect.Metadata):
        return None
    extra = cast("dict[str, object]", type_.extra or {})
    return type_.type if extra.get("foldline") == "personal" else None


def _refuse_inside(type_: inspect.Type, where: str) -> None:
    if has_inside(type_, "personal"):
        raise DefinitionError(
            f"{where} has `Personal` inside its type, where nothing would be encrypted: mark "
            f"the whole field of the event, as in `name: Personal[str | None]`"
        )


def _mask(where: str, name: str, type_: inspect.Type) -> msgspec.Raw:
    """Give what an erased field reads as."""
    types = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    bare = [_bare(each) for each in types]
    if any(isinstance(each, inspect.NoneType | inspect.AnyType) for each in bare):
        return msgspec.Raw(b"null")
    if any(isinstance(each, inspect.StrType) and _admits_erased(each) for each in bare):
        return msgspec.Raw(msgspec.json.encode(ERASED))
    if any(isinstance(each, _LISTS) and not each.min_length for each in bare):
        return msgspec.Raw(b"[]")
    if any(isinstance(each, inspect.DictType) and not each.min_length for each in bare):
        return msgspec.Raw(b"{}")
    raise DefinitionError(
        f"{where}.{name} is personal, and its type admits nothing that it could read as when it "
        f"was erased: write `Personal[... | None]`"
    )


def _admits_erased(type_: inspect.StrType) -> bool:
    least, most = type_.min_length or 0, type_.max_length or len(ERASED)
    fits = type_.pattern is None or re.search(type_.pattern, ERASED) is not None
    return least <= len(ERASED) <= most and fits
