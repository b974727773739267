"""What is said to the engine and by it: commands, events, queries, and what travels with them.

Rules: messages are frozen msgspec structs. A name that is stored (an event's, a kind's) is written
down by its author and never derived from a class path, so that classes can be moved and renamed.
What is absent from an event's metadata costs no bytes. This file knows no async, clock or store.
"""

from __future__ import annotations

import contextlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    NewType,
    TypedDict,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from ..errors import DefinitionError, InvalidInput
from ..limits import NAME_LENGTH_MAX
from .annotations import (
    UNRESOLVED,
    PlainMeta,
    check_options,
    defaults_of,
    defining_namespace,
    resolve_locals,
    shared_default,
)
from .exact import Exactness, exactness_of, refuse_unencodable
from .for_pydantic import core_schema, json_schema
from .given import as_whole, shown
from .personal import personal_form
from .replies import ReplyForm, reply_form
from .tags import EventTags, event_tags

__all__ = [
    "Command",
    "Envelope",
    "Event",
    "Following",
    "Id",
    "Meta",
    "Query",
    "Receipt",
    "check_name",
    "following",
    "instead_text",
    "is_id",
    "position_of",
    "reply_of",
]

Answer = TypeVar("Answer", covariant=True)
if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    Reply = DefaultTypeVar("Reply", covariant=True, default=object)
else:  # what stands in for it at run time needs no package
    Reply = TypeVar("Reply", covariant=True)

NO_REPLY: Any = None
_OPTIONS = ("name", "version", "added", "subject", "tags")
VERSION_MAX = 10**18 - 1
"""Of a class of event: what a store can count to."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_MARK = {"foldline": "aggregate-id"}

Id = Annotated[str, msgspec.Meta(min_length=1, extra=_ID_MARK)]
"""The type of the one field of a command that says which aggregate it is for.

A joint decision (`@decides`) is about several: its command has a field of this type for each.
"""


def is_id(annotation: Any) -> bool:
    """Tell whether a field of this type says which aggregate a command is for."""
    while isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    if get_origin(annotation) is not Annotated:
        return False
    return any(
        isinstance(m, msgspec.Meta) and (m.extra or {}).get("foldline") == "aggregate-id"
        for m in get_args(annotation)[1:]
    )


def check_name(name: object, what: str, mend: str) -> str:
    """Give `name` if it may be stored, else raise DefinitionError with the `mend`."""
    if isinstance(name, str) and len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name):
        return name
    raise DefinitionError(
        f"{what} has the name {name!r}: a stored name is lower-case letters, digits and single "
        f"hyphens, begins with a letter and has at most {NAME_LENGTH_MAX} characters. {mend}"
    )


def kebab(class_name: str) -> str:
    """Give `create-order` for `CreateOrder`."""
    return _CAMEL.sub("-", class_name).replace("_", "-").lower()


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class MessageMeta(PlainMeta):
    """Makes the classes of messages: frozen, and with a checked name."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        name: str | None = None,
        version: int | None = None,
        added: Sequence[str] = (),
        subject: str | None = None,
        tags: Sequence[str] = (),
        **options: Any,
    ) -> Any:
        """Make the class; raise DefinitionError where the declaration cannot be stored."""
        check_options(f"message {class_name}", options, _OPTIONS)
        resolve_locals(namespace, defining_namespace(1))
        if options.get("frozen") is False:
            raise DefinitionError(f"{class_name} is a message, and these are frozen: drop frozen")
        options["frozen"] = True
        omits = options.pop("omit_defaults", None) if _are_stored(bases) else None
        try:
            cls = super().__new__(mcls, class_name, bases, namespace, **options)
        except TypeError as error:
            raise DefinitionError(f"message {class_name} cannot be made: {error}") from error
        if namespace.get("__module__") != __name__:
            _check_defaults(cast("type[msgspec.Struct]", cls))
            if omits is not None:
                cls.event_omitted = bool(omits)  # type: ignore[attr-defined]
            cls.__declare__(name, version, added, subject)  # type: ignore[attr-defined]
            _declare_tags(cls, tags)
        return cls


def _declare_tags(cls: Any, tags: Sequence[str]) -> None:
    if isinstance(cls, type) and issubclass(cls, Event):
        cls.event_tags = tags
        with contextlib.suppress(*UNRESOLVED):  # a type that is declared below: asked again
            cls.__tagged__()
    elif tags:
        raise DefinitionError(f"{cls.__name__} is none, and only events have tags: drop tags")


def _are_stored(bases: tuple[type, ...]) -> bool:
    """Tell whether a class of these bases is an event."""
    return any(hasattr(base, "event_omitted") for base in bases)


def _check_defaults(cls: type[msgspec.Struct]) -> None:
    shared = shared_default(cls)
    if shared is not None:
        raise DefinitionError(
            f"the default of {cls.__qualname__}.{shared} is one mutable object that all would "
            f"share: write `{shared}: ... = msgspec.field(default_factory=...)`"
        )


def _refuse_events_options(cls: type, what: str, added: object, subject: object) -> None:
    if added:
        raise DefinitionError(
            f"{cls.__name__} is a {what}, and only events are stored under a version: drop added"
        )
    if subject is not None:
        raise DefinitionError(
            f"{cls.__name__} is a {what}, and only events have personal fields: drop subject"
        )


# The bases say it again: mypy looks at them first, and finds msgspec.Struct's own word otherwise.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Command(
    msgspec.Struct,
    Generic[Reply],
    metaclass=MessageMeta,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """An intent, named in the imperative; exactly one of its fields is an `Id`.

    Only a command that several aggregates decide (`@decides`) has more of them.

    Subclass it with fields. `class Reserve(Command[Reservation])` declares that its handler replies
    with a Reservation, which the caller gets as `receipt.reply`. The name goes into the fingerprint
    of keyed commands. If none is given, it is made of the class name, so give `name=` before you
    rename a class.
    """

    command_name: ClassVar[str]
    """Its stored name."""
    command_reply: ClassVar[ReplyForm | None] = None
    """How replies to it are kept, where it declares any; known when its handler is."""

    __get_pydantic_core_schema__ = classmethod(core_schema)
    __get_pydantic_json_schema__ = classmethod(json_schema)

    @classmethod
    def __declare__(
        cls, name: str | None, version: int | None, added: Sequence[str], subject: str | None
    ) -> None:
        mend = f'Write `class {cls.__name__}(Command, name="...")`.'
        _refuse_events_options(cls, "command", added, subject)
        if version is not None:
            raise DefinitionError(f"{cls.__name__} is a command, and commands have no version")
        cls.command_name = check_name(name or kebab(cls.__name__), f"command {cls.__name__}", mend)
        refuse_unencodable(cls, "command")
        with contextlib.suppress(*UNRESOLVED):  # a type that comes later: `reply_of` asks again
            cls.command_reply = reply_form(cls, Command, defining_namespace(2))


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=MessageMeta, forbid_unknown_fields=True):
    """A fact, named in the past tense: `class OrderShipped(Event, name="order-shipped")`.

    `name` and `version` (1 unless given) are stored with every event of the class. So are all
    fields, those at their defaults too, and each comes back as it was given. `added` names fields
    that a later release has added under the same version, in the order of the releases. Each has a
    default, which is the value of events that were stored without it. `subject` names the field
    that says whose data the fields marked `Personal` are; the aggregate's unless given.
    """

    event_name: ClassVar[str]
    """Its stored name."""
    event_version: ClassVar[int]
    """The version under which it is stored."""
    event_added: ClassVar[tuple[str, ...]] = ()
    """Fields that a later release has added, in the order of the releases."""
    event_omitted: ClassVar[bool] = False
    """Whether earlier releases left fields at their defaults out (`omit_defaults=True`)."""
    event_exactness: ClassVar[Exactness | None] = None
    """What is compared as it is stored; None where a field names a type that was not there yet."""
    event_tags: ClassVar[Sequence[str]] = ()
    """Names of the fields by whose values boundaries find it, and whole tags."""
    event_subject: ClassVar[str | None] = None
    """The field that names whose data the personal ones are; None where it is the stream."""

    __get_pydantic_core_schema__ = classmethod(core_schema)
    __get_pydantic_json_schema__ = classmethod(json_schema)

    @classmethod
    def __declare__(
        cls, name: str | None, version: int | None, added: Sequence[str], subject: str | None
    ) -> None:
        mend = f'Write `class {cls.__name__}(Event, name="{kebab(cls.__name__)}", version=1)`.'
        cls.event_name = check_name(name, f"event {cls.__name__}", mend)
        cls.event_version = 1 if version is None else version
        if type(cls.event_version) is not int or not 1 <= cls.event_version <= VERSION_MAX:
            raise DefinitionError(
                f"event {cls.__name__} has version {shown(version)}: versions count from 1, and "
                f"have at most 18 digits. {mend}"
            )
        cls.event_added = _check_added(cls, added)
        cls.event_subject = subject
        try:
            cls.event_exactness = exactness_of(cls, "event")
            personal_form(cls, subject)
        except UNRESOLVED:  # a type that is declared below: asked again by whoever uses the event
            cls.event_exactness = None

    @classmethod
    def __tagged__(cls) -> EventTags | None:
        """Give what its events are tagged with; None for nothing. Raises DefinitionError."""
        return event_tags(cls, cls.event_tags) if cls.event_tags else None


def _check_added(cls: type[Event], added: object) -> tuple[str, ...]:
    """Give the names of the fields that were added later; each has a default that stays."""
    where = cls.__qualname__
    if isinstance(added, str) or not isinstance(added, Sequence):
        raise DefinitionError(
            f'event {where} has added={added!r}: write a list of fields, as added=["nights"]'
        )
    names = tuple(cast("Sequence[str]", added))
    defaults = defaults_of(cls)
    for name in names:
        if name not in cls.__struct_fields__ or names.count(name) > 1:
            raise DefinitionError(
                f"event {where} has added={list(names)!r}: each is a field of it, once; "
                f"{name!r} is not"
            )
        _, factory = defaults.get(name, (None, object))
        if factory not in (None, list, dict, set):
            raise DefinitionError(
                f"{where}.{name} was added, and has no default that stays the same: give the value "
                f"that an event has which was stored without it"
            )
    return names


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Query(msgspec.Struct, Generic[Answer], metaclass=MessageMeta, forbid_unknown_fields=True):
    """A question with the type of its answer: `class GetOrder(Query[Order | None])`."""

    query_name: ClassVar[str]
    """Its name in statistics and telemetry."""

    @classmethod
    def __declare__(
        cls, name: str | None, version: int | None, added: Sequence[str], subject: str | None
    ) -> None:
        mend = f'Write `class {cls.__name__}(Query[AnswerType], name="...")`.'
        _refuse_events_options(cls, "query", added, subject)
        if version is not None:
            raise DefinitionError(f"{cls.__name__} is a query, and queries have no version")
        cls.query_name = check_name(name or kebab(cls.__name__), f"query {cls.__name__}", mend)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A command with what travels beside it: what `execute_many` takes, and `execute` makes."""

    command: Command
    """What is to be done."""
    key: str | None = None
    """The caller's name for this command to this aggregate; sent again, it is not run again."""
    expected: int | Mapping[str, int] | None = None
    """The version that the aggregate must have, else WrongVersion. For a joint decision the
    versions of some or all of its aggregates, by their streams (`kind:id`)."""
    correlation: str | None = None
    """What the command belongs to, as the caller sees it; kept in its events."""
    causation: str | None = None
    """What led to the command; kept in its events."""
    principal: str | None = None
    """On whose behalf; kept in its events."""
    headers: Mapping[str, str] | None = None
    """Anything else; kept in its events."""
    deadline: float | None = None
    """Seconds within which it must be decided, else DeadlinePassed."""


class Receipt(
    msgspec.Struct,
    Generic[Reply],
    frozen=True,
    gc=False,
    omit_defaults=True,
    repr_omit_defaults=True,
):
    """The answer to an executed command, given when its events are durable."""

    stream: str
    """`kind:id` of the aggregate."""
    version: int
    """Its version after the command: the number of its events; those that a boundary selects."""
    position: int
    """Place of its last event in the log; 0 where the aggregate has none."""
    reply: Reply = NO_REPLY
    """What the handler replied, of the type that the command declares; None where it does not."""
    others: tuple[tuple[str, int], ...] = ()
    """Of a joint decision: stream and version of each further aggregate, in their order."""

    __get_pydantic_core_schema__ = classmethod(core_schema)
    __get_pydantic_json_schema__ = classmethod(json_schema)

    @property
    def versions(self) -> dict[str, int]:
        """The version of each aggregate that the command is about, by its stream."""
        return {self.stream: self.version, **dict(self.others)}

    @property
    def token(self) -> str:
        """An opaque string of this receipt that crosses HTTP, for `query(at=token)`."""
        text = msgspec.json.encode((self.position, self.version, self.stream))
        return urlsafe_b64encode(text).rstrip(b"=").decode("ascii")

    @classmethod
    def from_token(cls, token: str) -> Receipt:
        """Give the receipt of a token; raise UsageError for anything else."""
        try:
            text = urlsafe_b64decode(token + "=" * (-len(token) % 4))
            position, version, stream = msgspec.json.decode(text, type=tuple[int, int, str])
        except (ValueError, RecursionError, msgspec.MsgspecError):
            raise InvalidInput(
                "`at` is not a receipt's token: pass `receipt.token` on as it is"
            ) from None
        return cls(stream, version, position)


def reply_of(command: type[Command]) -> ReplyForm | None:
    """Give how replies to a class of command are kept; raise DefinitionError where none can be."""
    if command.command_reply is None:
        try:
            command.command_reply = reply_form(command, Command, {})
        except UNRESOLVED as error:
            raise DefinitionError(
                f"the reply of command {command.__qualname__} cannot be resolved: {error}. Declare "
                f"the type in its module, outside `if TYPE_CHECKING`"
            ) from error
    return command.command_reply


def position_of(at: Receipt | str | int | None) -> int:
    """Give the position that `at` names: of a receipt, its token, or the number itself.

    Raises InvalidInput for what is none.
    """
    if at is None:
        return 0
    given: object = at
    if issubclass(type(at), str):
        given = Receipt.from_token(str.__str__(cast("str", at))).position
    elif isinstance(at, Receipt):
        given = at.position
    return as_whole("`at`: a position", given)


def instead_text(given: object, wanted: type[Command | Query[Any]]) -> str:
    """Name what was given where a message of another class is wanted, and say what to do."""
    cls: type[object] = given if isinstance(given, type) else type(given)
    name = cls.__name__
    if given is cls and issubclass(cls, wanted):
        return f"{name}, which is a class: give an instance, `{name}(...)`"
    if issubclass(cls, Query):
        return f"{name}, which is a query: ask `await engine.query(...)`"
    if issubclass(cls, Command):
        return f"{name}, which is a command: send it by `await engine.execute(...)`"
    if issubclass(cls, Event):
        return f"{name}, which is an event: send a command, whose handler returns it"
    if issubclass(cls, Envelope):
        return "an Envelope: give its command and what is beside it, or use `execute_many`"
    return f"{shown(given)}, which is no message: give an instance of a class of {wanted.__name__}"


class Meta(msgspec.Struct, frozen=True):
    """What the log knows of an event besides its content."""

    stream: str
    """`kind:id` of the aggregate."""
    version: int
    """How many events the aggregate has with this one; from 1 on."""
    position: int
    """Its place in the log, from 1 on, without holes."""
    recorded: int
    """When it was written, by the engine's clock, in µs since 1970-01-01 UTC."""
    key: str | None = None
    """The command's key; on the first event of a command only."""
    correlation: str | None = None
    """What the command belongs to, as its caller said."""
    causation: str | None = None
    """What led to the command."""
    principal: str | None = None
    """On whose behalf the command came."""
    headers: Mapping[str, str] | None = None
    """What else travelled with the command, by name."""
    depth: int = 0
    """How many reactions in a row led to the command."""

    @property
    def kind(self) -> str:
        """The kind of aggregate."""
        return self.stream.partition(":")[0]

    @property
    def id(self) -> str:
        """The aggregate's id."""
        return self.stream.partition(":")[2]

    @property
    def event_id(self) -> str:
        """The event's identity, `kind:id@version`: the same for every reader, permanently."""
        return f"{self.stream}@{self.version}"

    @property
    def time(self) -> datetime:
        """`recorded` as an aware datetime in UTC."""
        return _EPOCH + timedelta(microseconds=self.recorded)


class Following(TypedDict):
    """What a command takes on from the event that it is sent because of."""

    correlation: str
    causation: str


def following(meta: Meta) -> Following:
    """Give what a command sent because of an event passes on: `execute(c, **following(meta))`.

    Its causation is the event's identity. Its correlation is the event's, as its first sender gave
    it; where there was none, the event is what all that follows belongs to.
    """
    return Following(correlation=meta.correlation or meta.event_id, causation=meta.event_id)
