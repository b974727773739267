"""A process manager: an aggregate that reacts to events of others.

Rules: an event is routed to one instance by what it says, and becomes a command of that instance:
so it is decided on the instance's own state, and what is decided (events, claims, timers, commands)
is stored in one transaction. The command's key is the reaction's, so an event is taken once. What
routes events is a reactor of the manager's own, whose name is its kind. A rejection of a command
that it gave comes back as a command too. What does not fit is refused when the class is made.
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, ClassVar, Final, cast

import msgspec

from ..errors import DefinitionError, Rejected, UsageError
from ..limits import NAME_LENGTH_MAX
from .aggregate import (
    Aggregate,
    AggregateMeta,
    CommandHandler,
    MoreHandlers,
    class_taken,
    decisions_named,
    events_named,
)
from .annotations import Signature, fields_of, read_signature, union_members
from .checking import NO_TEXTS
from .codec import masked
from .given import as_function
from .messages import Command, Event, Id, Meta
from .projection import (
    Begins,
    Policy,
    Projection,
    ProjectionDefinition,
    ProjectionHandler,
    Reacting,
)
from .reactor import Reactor, check_begins, is_reaction, is_refusal, methods_of, routed_by

__all__ = [
    "ProcessManager",
    "arrival",
    "impersonal",
    "reactors_of",
    "refusal_of",
]

_INSTANCE: Final = "instance"
_UNHEARD: Final = (
    "%s:%s: %s was rejected as %r, and nothing follows: write a method with @when_rejected where "
    "something should"
)
_SHOWN: Final = '`@reacts(by="order_id") def paid(self, event: OrderPaid) -> Decision[Charged]`'


class _Route(msgspec.Struct, frozen=True):
    """How events of one class come to an instance."""

    command: type[Command]
    by: Callable[[Any, Meta], str | None]


class _Process(msgspec.Struct, frozen=True):
    """All that is known of a process manager beside what it is as an aggregate."""

    routes: Mapping[type[Event], _Route]
    refusals: Mapping[type[Command], type[Command]]
    """What tells an instance that a command of a class was rejected."""
    reactor: type[Projection]


class ProcessMeta(AggregateMeta):
    """Makes the classes of process managers, each with the reactor that routes events to it."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        begins: Begins | None = None,
        on_poison: Policy = "park",
        **options: Any,
    ) -> Any:
        """Make the class; raise DefinitionError for whatever the engine could not run."""
        cls = super().__new__(mcls, class_name, bases, namespace, **options)
        if bases != (Aggregate,):
            check_begins(f"process manager {class_name}", begins)
            _complete(cls, begins, on_poison)
        return cls


class ProcessManager(Aggregate, metaclass=ProcessMeta):
    """Base of process managers: `class Dispatch(ProcessManager, kind="dispatch", begins="now")`.

    It is an aggregate: it has a state, appliers, and handlers of its own commands. Beside these, a
    method marked with `@reacts(by=...)` decides an event of another aggregate. `by` names the
    event's field that has the id of the instance. It may be a function of event and `Meta` that
    gives the id, or None for an event that is no instance's. The method returns what a handler may
    return: events, or a Decision of events and more. All of it is stored in one transaction.

    A method marked with `@when_rejected` decides what follows if a command that it gave is
    rejected: `(self, command: C, rejection: Rejected)`.

    `begins` and `on_poison` are those of a Reactor, which routes the events and has the kind as
    its name: `foldline projections` shows it.
    """

    __process__: ClassVar[_Process]
    __pending__: ClassVar[tuple[dict[type[Event], _Route], dict[type[Command], type[Command]]]]

    @classmethod
    def __more__(cls, kind: str, namespace: Mapping[str, Any]) -> Iterator[MoreHandlers]:
        """Give the handlers of what is routed here; raise DefinitionError for what does not fit."""
        routes: dict[type[Event], _Route] = {}
        refusals: dict[type[Command], type[Command]] = {}
        for method in methods_of(cls):
            if not (is_reaction(method) or is_refusal(method)):
                continue
            signature = read_signature(method, namespace, method=True)
            if is_reaction(method):
                yield from _reactions(kind, method, signature, routes)
            else:
                yield from _refusals(kind, method, signature, refusals)
        cls.__pending__ = routes, refusals


def arrival(manager: type[Aggregate], event: Event, meta: Meta) -> Command | None:
    """Give the command that an event becomes for an instance; None where it is no instance's.

    Raises UsageError for an event that the manager does not react to.
    """
    process: _Process | None = getattr(manager, "__process__", None)
    if process is None:
        raise UsageError(f"{manager.__name__} is no ProcessManager, and takes no events of others")
    bases = (base for base in type(event).__mro__ if base in process.routes)
    route = process.routes.get(next(bases, Event))
    if route is None:
        raise UsageError(f"{manager.__name__} does not react to {type(event).__name__}")
    return _routed(route, event, meta)


def impersonal(command: Command) -> Command:
    """Give a command of the engine's as its fingerprint is made: without what may be erased."""
    event: object = getattr(command, "event", None)
    if not isinstance(event, Event):
        return command
    try:
        without = masked(event)
    except Exception:  # of the event's own class
        return command
    return command if without is event else msgspec.structs.replace(command, event=without)


def refusal_of(
    manager: type[Aggregate],
    instance: str,
    command: Command,
    rejection: Rejected,
    logger: logging.Logger | None = None,
) -> Command | None:
    """Give what tells an instance that its command was rejected; None where it need not hear it.

    The logger is told of another one's rejection for which a manager has no method.
    """
    process: _Process | None = getattr(manager, "__process__", None)
    if process is None:
        return None
    kind = type(command)
    told = process.refusals.get(kind)
    if told is None:
        if logger is not None and kind not in manager.__definition__.handlers:
            who = manager.__definition__.kind
            logger.warning(_UNHEARD, who, instance, kind.command_name, rejection.code)
        return None
    made: Any = told
    refusal: Command = made(instance, command, _text(rejection.code), _text(rejection.message))
    return refusal


def _text(given: object) -> str:
    """Give a code or a message as it is stored: the host's may be an enum, or translated late."""
    if type(given) is str:
        return given
    try:
        return str(given)
    except Exception:
        return type(given).__name__


def reactors_of(aggregates: Iterable[type[Aggregate]]) -> list[ProjectionDefinition]:
    """Give the reactors that route events to the process managers among these."""
    found = (getattr(cls, "__process__", None) for cls in aggregates)
    return [process.reactor.__definition__ for process in found if process is not None]


# -- what is routed -------------------------------------------------------------------------------


def _reactions(
    kind: str,
    method: Callable[..., Any],
    signature: Signature,
    routes: dict[type[Event], _Route],
) -> Iterator[MoreHandlers]:
    where = signature.where
    parameters = signature.parameters
    events = union_members(parameters[0][1]) if parameters else ()
    fits = all(isinstance(e, type) and issubclass(e, Event) and e is not Event for e in events)
    if not events or not fits:
        raise DefinitionError(f"{where} must take one event after self: write {_SHOWN}")
    takes_meta = len(parameters) > 1 and parameters[1][1] is Meta
    for event in cast("tuple[type[Event], ...]", events):
        if event in routes:
            raise DefinitionError(f"{where} is a second reaction to {event.__name__}: keep one")
        by = _checked_by(where, event, routed_by(method))
        name = _name(kind, "on", event.event_name)
        fields = {_INSTANCE: Id, "event": event, "meta": Meta}
        command = _command_class(f"{event.__name__}Arrived", name, fields)
        routes[event] = _Route(command, by)

        @functools.wraps(method)
        def decide(state: Any, command: Any, *further: Any) -> Any:
            arguments = (command.event, command.meta) if takes_meta else (command.event,)
            return method(state, *arguments, *further)

        rest = parameters[2:] if takes_meta else parameters[1:]
        yield _handler(command, decide, signature, rest), signature


def _refusals(
    kind: str,
    method: Callable[..., Any],
    signature: Signature,
    refusals: dict[type[Command], type[Command]],
) -> Iterator[MoreHandlers]:
    where, parameters = signature.where, signature.parameters
    commands = union_members(parameters[0][1]) if parameters else ()
    fits = all(isinstance(c, type) and issubclass(c, Command) for c in commands)
    rejection = parameters[1][1] if len(parameters) > 1 else None
    if not commands or not fits or Command in commands or rejection is not Rejected:
        raise DefinitionError(
            f"{where} must take a command and its rejection after self: write "
            f"`@when_rejected def refused(self, command: Charge, rejection: Rejected) -> Cancelled`"
        )
    for refused in cast("tuple[type[Command], ...]", commands):
        if refused in refusals:
            raise DefinitionError(
                f"{where} is a second method for a rejected {refused.__name__}: keep one"
            )
        name = _name(kind, "refused", refused.command_name)
        fields = {_INSTANCE: Id, "command": refused, "code": str, "message": str}
        told = _command_class(f"{refused.__name__}Rejected", name, fields)
        refusals[refused] = told

        @functools.wraps(method)
        def decide(state: Any, command: Any, *further: Any) -> Any:
            rejected = Rejected(command.code, command.message)
            return method(state, command.command, rejected, *further)

        yield _handler(told, decide, signature, parameters[2:]), signature


def _handler(
    command: type[Command],
    decide: Callable[..., Any],
    signature: Signature,
    rest: tuple[tuple[str, Any], ...],
) -> CommandHandler:
    takes = tuple(class_taken(signature, name, kind) for name, kind in rest)
    gives_decisions = bool(decisions_named(signature))
    given = signature.is_async, None, gives_decisions, *events_named(signature)
    return CommandHandler(command, _INSTANCE, decide, takes, *given)


def _command_class(class_name: str, name: str, fields: dict[str, Any]) -> type[Command]:
    """Make the class of a command that only the engine sends."""

    def fill(namespace: dict[str, Any]) -> None:
        namespace["__annotations__"] = fields
        namespace["__module__"] = __name__
        namespace["__doc__"] = "Sent by the engine alone."
        namespace["command_of_engine"] = True

    made: Any = types.new_class(class_name, (Command,), {"name": name}, fill)
    command: type[Command] = made
    return command


def _name(kind: str, what: str, name: str) -> str:
    """Give the stored name of such a command."""
    full = f"{kind}-{what}-{name}"
    if len(full) <= NAME_LENGTH_MAX:
        return full
    digest = blake2b(full.encode(), digest_size=8).hexdigest()
    return f"{full[: NAME_LENGTH_MAX - 18].rstrip('-')}-x{digest}"


def _checked_by(where: str, event: type[Event], by: Any) -> Callable[[Any, Meta], str | None]:
    """Give what names the instance of an event; raise DefinitionError for what cannot."""
    if callable(by):
        found: Any = as_function(f"{where}: by", by)
        return cast("Callable[[Any, Meta], str | None]", found)
    if isinstance(by, str) and by in event.__struct_fields__:
        field = by
        (found,) = (info.type for info in fields_of(event) if info.name == field)
        kinds = [kind for kind in union_members(found) if kind is not type(None)]
        if kinds and all(kind in NO_TEXTS for kind in kinds):
            raise DefinitionError(
                f"{where} says by={field!r}, which is no text: an id is a str. Give a function, "
                f"`by=lambda event, meta: str(event.{field})`"
            )
        return lambda event, _: getattr(event, field)
    raise DefinitionError(
        f"{where} does not say which instance {event.__name__} is for: give the field that has its "
        f"id, {_SHOWN}, or a function, `by=lambda event, meta: meta.id`"
    )


def _routed(route: _Route, event: Event, meta: Meta) -> Command | None:
    by: Callable[[Any, Meta], Any] = route.by
    instance = by(event, meta)
    if instance is None:
        return None
    if not isinstance(instance, str):
        raise UsageError(
            f"`by` of {type(event).__name__} gave a {type(instance).__name__}: the id of an "
            f"instance is a str, or None for an event that is no instance's"
        )
    made: Any = route.command
    command: Command = made(instance, event, meta)
    return command


# -- its reactor ----------------------------------------------------------------------------------


class _Router(Reactor):
    """Base of the reactors that route events to process managers."""

    routes: ClassVar[Mapping[type[Event], _Route]] = {}

    @classmethod
    def __read__(
        cls, definition: ProjectionDefinition, namespace: Mapping[str, Any]
    ) -> ProjectionDefinition:
        """Complete what is known of the reactor of one process manager."""
        handlers = {
            event: ProjectionHandler(_routing(route), True, None)
            for event, route in cls.routes.items()
        }
        return msgspec.structs.replace(
            definition,
            handlers=handlers,
            event_names=frozenset(event.event_name for event in handlers),
            reacting=Reacting({}, frozenset(route.command for route in cls.routes.values())),
        )


def _routing(route: _Route) -> Callable[..., Command | None]:
    def route_event(_: Reactor, event: Event, meta: Meta) -> Command | None:
        return _routed(route, event, meta)

    return route_event


def _complete(cls: Any, begins: Begins | None, on_poison: Policy) -> None:
    routes, refusals = cls.__pending__
    if not routes:
        raise DefinitionError(
            f"process manager {cls.__qualname__} reacts to no event: mark a method, {_SHOWN}, or "
            f"make it an Aggregate"
        )
    options = {"name": cls.__definition__.kind, "begins": begins, "on_poison": on_poison}
    fill = {"routes": routes, "__module__": cls.__module__}
    name = f"{cls.__name__}Events"
    reactor: Any = types.new_class(name, (_Router,), options, lambda space: space.update(fill))
    cls.__process__ = _Process(routes, refusals, reactor)
