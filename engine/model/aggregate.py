"""What an aggregate is, and how its class is read: state, handlers that decide, appliers that fold.

Rules: a handler reads the state and returns events; it changes nothing. An applier changes the
state and decides nothing. Both are found by their annotations, once, when the class is made, and
whatever does not fit is refused there with the mend in the message. This file knows no async,
clock, store or actor.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, dataclass_transform

import msgspec

from ..errors import DefinitionError
from ..limits import KEY_WINDOW
from .annotations import (
    PlainMeta,
    Signature,
    check_options,
    defining_namespace,
    fields_of,
    read_signature,
    refuse_shadowing,
    resolve_locals,
    shared_default,
    union_members,
)
from .decisions import Decision, refuse_misdeclared
from .messages import Command, Event, check_name, is_id, reply_of
from .replies import ReplyForm
from .settings import AggregateSettings

__all__ = [
    "Aggregate",
    "AggregateDefinition",
    "AggregateMeta",
    "CommandHandler",
    "Context",
    "MoreHandlers",
    "applies",
    "class_taken",
    "decisions_named",
    "definitions_of",
    "events_named",
    "handles",
    "id_field_of",
]

F = TypeVar("F", bound=Callable[..., Any])

_ROLE = "__foldline_role__"
_BASES = __name__.rpartition(".")[0]
"""Where bases are declared, which are no aggregates themselves."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_EVENTS = (type(None), typing.Never, typing.NoReturn)
_RETURNS = "Return an Event, a sequence of Events, or None, or a Decision of these; annotate it so."


class Context(msgspec.Struct, frozen=True):
    """What a handler may know besides the state and the command; take it as third parameter."""

    now: int
    """The engine's clock in µs since 1970-01-01 UTC; it may jump either way."""
    new_id: Callable[[], str]
    """Gives a new random id. Put it into the event: a replay does not run handlers."""
    key: str | None = None
    """The command's key, if it has one."""
    correlation: str | None = None
    """What the command belongs to, as its caller said."""
    causation: str | None = None
    """What led to the command."""
    principal: str | None = None
    """On whose behalf the command came."""
    headers: Mapping[str, str] | None = None
    """What else travelled with the command, by name."""

    @property
    def time(self) -> datetime:
        """`now` as an aware datetime in UTC."""
        return _EPOCH + timedelta(microseconds=self.now)


def _refuse_class(marker: str, function: object) -> None:
    if isinstance(function, type):
        raise DefinitionError(
            f"@{marker} takes no argument and stands above a method, whose annotation says what it "
            f"is for: write `@{marker}` alone"
        )


def handles(function: F) -> F:
    """Mark a method that decides a command: `(self, command: C, ...) -> events or a Decision`.

    It returns an event, a list or tuple of events, or None if nothing happens. The events of one
    command are stored together or not at all. It raises Rejected to refuse the command. After the
    command it may take `ctx: Context`, and resources by their class, which the engine gets as
    `Engine(resources={Class: object})`. It may be `async def`: then the aggregate takes no other
    command until it returns, and the other aggregates go on.
    """
    _refuse_class("handles", function)
    refuse_shadowing(function, defining_namespace(1), _ROLE)
    setattr(function, _ROLE, "handles")
    return function


def applies(function: F) -> F:
    """Mark a method that folds an event into the state: `(self, event: E) -> None`."""
    _refuse_class("applies", function)
    refuse_shadowing(function, defining_namespace(1), _ROLE)
    setattr(function, _ROLE, "applies")
    return function


class CommandHandler(msgspec.Struct, frozen=True):
    """One command of an aggregate, and what decides it."""

    command: type[Command]
    id_field: str
    decide: Callable[..., Any]
    takes: tuple[type, ...]
    """What it takes after the command: Context, and classes of resources."""
    is_async: bool
    reply: ReplyForm | None
    """How its replies are kept, where its command declares any."""
    gives_decisions: bool
    """Whether it may return a Decision."""
    gives: tuple[type[Event], ...]
    """The events that its annotation names; none if it may return any."""
    may_give_nothing: bool
    """Whether its annotation names None."""

    def ids(self, command: Command) -> Sequence[object]:
        """Give the id of the aggregate that a command names."""
        return (getattr(command, self.id_field),)

    def arguments(
        self, context: Callable[[], Context], resources: Mapping[type, object]
    ) -> list[object]:
        """Give what `takes` asks for; KeyError for a resource that is not there."""
        return [context() if kind is Context else resources[kind] for kind in self.takes]


MoreHandlers: TypeAlias = tuple[CommandHandler, Signature]
"""A handler of a command that the engine sends, and how its method is annotated."""


class AggregateDefinition(msgspec.Struct, frozen=True):
    """All that the engine knows of an aggregate's class."""

    cls: type[Aggregate]
    kind: str
    key_window: int
    deadline: float | None
    """Seconds from acceptance within which a command must be decided, unless it says otherwise."""
    snapshot_every: int | None
    """Events after which the state is kept as bytes; None for never."""
    snapshot_version: int
    handlers: Mapping[type[Command], CommandHandler]
    appliers: Mapping[type[Event], Callable[[Any, Any], None]]
    tags: tuple[str, ...] = ()
    """Of a boundary: by which its events are found, wherever they are stored."""


@dataclass_transform(field_specifiers=(msgspec.field,))
class AggregateMeta(PlainMeta):
    """Makes aggregate classes and reads their definition."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        kind: str | None = None,
        key_window: int = KEY_WINDOW,
        deadline: float | None = None,
        snapshot_every: int | None = None,
        snapshot_version: int = 1,
        **options: Any,
    ) -> Any:
        """Make the class; raise DefinitionError for whatever the engine could not run."""
        own = ("kind", "key_window", "deadline", "snapshot_every", "snapshot_version")
        check_options(f"aggregate {class_name}", options, own)
        depth = 1 if mcls is AggregateMeta else 2  # behind a metaclass that is based on this one
        resolve_locals(namespace, defining_namespace(depth))
        try:
            cls = super().__new__(mcls, class_name, bases, namespace, **options)
        except TypeError as error:
            raise DefinitionError(
                f"aggregate {class_name} cannot be made: {_made_plain(error)}. An aggregate begins "
                f"empty: every field has a default, as `liters: int = 0`. A mutable one that is "
                f"not empty comes from `msgspec.field(default_factory=...)`."
            ) from error
        if not str(namespace.get("__module__")).startswith(_BASES):
            aggregate = cast("type[Aggregate]", cls)
            settings = AggregateSettings(
                kind, key_window, deadline, snapshot_every, snapshot_version
            )
            aggregate.__definition__ = _define(aggregate, settings, defining_namespace(depth))
        return cls


class Aggregate(msgspec.Struct, metaclass=AggregateMeta):
    """Base of aggregates: `class Order(Aggregate, kind="order")`, its fields are the state.

    Every field has a default, which is the state before the first event. `kind` is stored and must
    stay. `key_window` is the number of versions for which command keys are remembered. `deadline`
    is the number of seconds within which a command is decided, or answered DeadlinePassed.
    `snapshot_every` keeps the state every so many events, so that a long stream loads fast. Count
    `snapshot_version` up whenever an applier changes what it makes of an event, or give a hash of
    the appliers.
    """

    __definition__: ClassVar[AggregateDefinition]

    id: str = ""
    """The aggregate's id."""
    version: int = 0
    """The number of its events; 0 means that it does not exist yet. Kept by the engine."""

    @classmethod
    def __more__(cls, kind: str, namespace: Mapping[str, Any]) -> Iterable[MoreHandlers]:
        """Give handlers of commands that the engine sends; a base of another sort has some."""
        return ()


def _define(
    cls: type[Aggregate], settings: AggregateSettings, namespace: Mapping[str, Any]
) -> AggregateDefinition:
    name = cls.__qualname__
    mend = f'Write `class {cls.__name__}(Aggregate, kind="...")`.'
    kind = check_name(settings.kind, f"aggregate {name}", mend)
    settings.check(name)
    _check_state(cls)
    handlers: dict[type[Command], CommandHandler] = {}
    appliers: dict[type[Event], Callable[[Any, Any], None]] = {}
    returned: dict[type[Event], str] = {}
    for method, role in _marked_methods(cls):
        signature = read_signature(method, namespace, method=True)
        if role == "applies":
            _add_applier(appliers, method, signature)
        else:
            _add_handler(handlers, method, signature)
            for event in _returned_events(signature):
                returned.setdefault(event, signature.where)
    for handler, signature in cls.__more__(kind, namespace):
        handlers[handler.command] = handler
        for event in _returned_events(signature):
            returned.setdefault(event, signature.where)
    tags: tuple[str, ...] = getattr(cls, "__boundary_tags__", ())
    if not handlers and not tags:
        raise DefinitionError(f"aggregate {name} handles no command: mark a method with @handles")
    for event, where in returned.items():
        if event not in appliers:
            raise DefinitionError(
                f"{where} returns {event.__name__}, and nothing in {name} applies it: add "
                f"`@applies def ...(self, event: {event.__name__}) -> None` to {name}"
            )
    return AggregateDefinition(
        cls,
        kind,
        settings.key_window,
        settings.seconds,
        settings.snapshot_every,
        settings.stored_version,
        handlers,
        appliers,
        tags,
    )


def _made_plain(error: TypeError) -> str:
    """Give why msgspec makes no class, without advice that is none for an aggregate."""
    words = str(error).rstrip(".")
    return re.sub(r"Required field ('\w+') cannot follow.*", r"the field \1 has no default", words)


def definitions_of(aggregates: object) -> list[AggregateDefinition]:
    """Give what is known of aggregate classes; raise DefinitionError for what is none."""
    listed = isinstance(aggregates, Sequence)
    given = cast("Sequence[Any]", aggregates if listed else [aggregates])
    found: list[AggregateDefinition] = []
    for cls in given:
        if not (inspect.isclass(cls) and issubclass(cls, Aggregate) and cls is not Aggregate):
            raise DefinitionError(
                f"the engine takes a list of aggregate classes, as Engine([Order, Return]), and "
                f"{cls!r:.100} is none. Projections, sinks and reactors go into "
                f"`projections=[...]`, and functions with @decides into `decisions=[...]`"
            )
        found.append(cls.__definition__)
    if not listed:
        raise DefinitionError(
            f"the engine takes a list of aggregate classes: write Engine([{found[0].cls.__name__}])"
        )
    return found


def _check_state(cls: type[Aggregate]) -> None:
    name = cls.__qualname__
    fields = fields_of(cls) if cls.__struct_fields__ else ()
    for field in fields:
        if field.required:
            raise DefinitionError(
                f"{name}.{field.name} has no default: an aggregate begins empty, so give the "
                f"value that it has before its first event"
            )
    own = inspect.get_annotations(cls)
    for taken in ("id", "version"):
        if taken in own:
            raise DefinitionError(f"{name} declares `{taken}`, which the base has: rename yours")
    for attribute, value in vars(cls).items():
        # A constant is written in capitals, and whoever writes ClassVar means it.
        plain = attribute not in own and attribute.islower() and not attribute.startswith("__")
        if plain and type(value) in (list, dict, set, bytearray):
            raise DefinitionError(
                f"{name}.{attribute} has no annotation, so it is no field, and one object for all: "
                f"write `{attribute}: {type(value).__name__}[...] = ...`"
            )
    if cls.__struct_config__.frozen:
        raise DefinitionError(f"{name} is frozen, and appliers must change it: drop frozen=True")
    shared = shared_default(cls)
    if shared is not None:
        raise DefinitionError(
            f"the default of {name}.{shared} is one mutable object that all would share: write "
            f"`{shared}: ... = msgspec.field(default_factory=...)`"
        )


def _marked_methods(cls: type) -> list[tuple[Callable[..., Any], str]]:
    found: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            inner = getattr(value, "__func__", None) or getattr(value, "fget", None)
            if hasattr(inner, _ROLE):
                raise DefinitionError(
                    f"{cls.__qualname__}.{name} is marked, and is a {type(value).__name__}: mark a "
                    f"plain `def` with `self`"
                )
            if callable(value):
                found[name] = value
    return [(m, role) for m in found.values() if (role := getattr(m, _ROLE, None)) is not None]


def _add_applier(
    appliers: dict[type[Event], Callable[[Any, Any], None]],
    method: Callable[..., Any],
    signature: Signature,
) -> None:
    where = signature.where
    if signature.is_async:
        raise DefinitionError(f"{where} is async: an applier only changes state; drop the async")
    event = _message_class(signature, Event, 1)
    if event in appliers:
        raise DefinitionError(f"{where} is a second applier of {event.__name__}: keep one")
    appliers[event] = method


def _add_handler(
    handlers: dict[type[Command], CommandHandler],
    method: Callable[..., Any],
    signature: Signature,
) -> None:
    where = signature.where
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        raise DefinitionError(f"{where} yields: return its events, all at once, as a list")
    command = _message_class(signature, Command)
    takes = tuple(class_taken(signature, name, kind) for name, kind in signature.parameters[1:])
    if len(set(takes)) < len(takes):
        raise DefinitionError(f"{where} takes the same thing twice: drop one of the parameters")
    if command in handlers:
        raise DefinitionError(f"{where} is a second handler of {command.__name__}: keep one")
    reply, decisions = reply_of(command), decisions_named(signature)
    refuse_misdeclared(where, reply, decisions)
    handlers[command] = CommandHandler(
        command,
        id_field_of(command),
        method,
        takes,
        signature.is_async,
        reply,
        bool(decisions) or reply is not None,
        *events_named(signature),
    )


def decisions_named(signature: Signature) -> list[tuple[Any, ...]]:
    """Give events and reply of each Decision that a handler's return annotation names."""
    named = [each for each in union_members(signature.returns) if _is_decision(each)]
    if Decision in named:
        raise DefinitionError(
            f"{signature.where} does not say which events its Decision has: annotate it as "
            f"`-> Decision[SomeEvent]`, or with a reply `-> Decision[SomeEvent, ReplyType]`"
        )
    return [typing.get_args(each) for each in named]


def _is_decision(annotation: Any) -> bool:
    return annotation is Decision or typing.get_origin(annotation) is Decision


def class_taken(signature: Signature, name: str, annotation: Any) -> type:
    """Give the class of a handler's further parameter."""
    if isinstance(annotation, type) and annotation.__module__ != "builtins":
        resource: type[Any] = annotation
        if not issubclass(resource, (inspect.Parameter.empty, Command, Event)):
            return resource
    raise DefinitionError(
        f"{signature.where} takes `{name}`, and what that is cannot be told: annotate it as "
        f"`{name}: Context`, or with the class under which Engine(resources={{...}}) has it"
    )


def _message_class(signature: Signature, base: type, parameters_max: int | None = None) -> Any:
    """Give the message class that the first parameter is annotated with."""
    found = signature.parameters[0][1] if signature.parameters else None
    fits = isinstance(found, type) and issubclass(found, base) and found is not base
    if not fits or len(signature.parameters) > (parameters_max or len(signature.parameters)):
        raise DefinitionError(
            f"{signature.where} must take one {base.__name__} after self: annotate it with the "
            f"class of the one {base.__name__.lower()} that it is for"
        )
    return found


def events_named(signature: Signature) -> tuple[tuple[type[Event], ...], bool]:
    """Give which events an annotation names, none for any, and whether it names None."""
    named = _named_events(signature)
    known = () if Event in named else tuple(named)
    return known, type(None) in union_members(signature.returns)


def _returned_events(signature: Signature) -> set[type[Event]]:
    """Give the event classes that a handler's return annotation names."""
    return {event for event in _named_events(signature) if event is not Event}


def _named_events(signature: Signature) -> list[type[Event]]:
    """Give the same with Event itself, which stands for all of them."""
    if signature.returns is inspect.Parameter.empty:
        raise DefinitionError(
            f"{signature.where} does not say what it returns. {_RETURNS} As `-> SomeEvent`, `-> "
            f"list[SomeEvent | OtherEvent]` or `-> SomeEvent | None`: its events are known before "
            f"it runs."
        )
    found: list[type[Event]] = []
    for member in union_members(signature.returns):
        inner: tuple[Any, ...] = (member,)
        origin = typing.get_origin(member)
        if origin is Decision:
            inner = typing.get_args(member)[:1]
        elif origin is not None and issubclass(origin, Sequence):
            inner = tuple(a for a in typing.get_args(member) if a is not Ellipsis)
        for candidate in inner:
            for event in union_members(candidate):
                if event in _NO_EVENTS:
                    continue
                if not (isinstance(event, type) and issubclass(event, Event)):
                    raise DefinitionError(
                        f"{signature.where} is annotated to return {signature.returns!r}. "
                        f"{_RETURNS}"
                    )
                found.append(event)
    return found


def id_field_of(command: type[Command]) -> str:
    """Give the name of the field that says which aggregate a command is for."""
    fields = [f.name for f in fields_of(command) if is_id(f.type)]
    if len(fields) != 1:
        raise DefinitionError(
            f"command {command.__name__} has {len(fields)} fields of type Id: exactly one says "
            f"which aggregate the command is for"
        )
    return fields[0]
