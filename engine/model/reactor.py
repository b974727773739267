"""A reactor: a projection that has no tables, and gives commands because of events.

Rules: a reaction is a function of one event, and of where it stands: it reads no clock, changes
nothing and waits for nothing, since it may run more than once for an event. What it gives is
executed at least once and made exactly once. It never runs again for an event that is done: a
reactor has no version, and nothing of it is rebuilt. Where it begins in a log that is there already
is said by its author. What does not fit is refused when the class is made, with the mend in the
message. This file sends nothing.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, cast, overload

import msgspec

from ..errors import DefinitionError, Rejected, UsageError
from .annotations import Signature, read_signature, refuse_shadowing, union_members
from .annotations import defining_namespace as _namespace
from .messages import Command, Event, Meta
from .projection import (
    Policy,
    Projection,
    ProjectionDefinition,
    ProjectionHandler,
    Reacting,
    Refusal,
    is_handler,
)

__all__ = [
    "By",
    "Reactor",
    "check_begins",
    "commands_given",
    "is_reaction",
    "is_refusal",
    "methods_of",
    "reacts",
    "routed_by",
    "when_rejected",
]

F = TypeVar("F", bound=Callable[..., Any])

By: TypeAlias = str | Callable[[Any, Meta], str | None]
"""Which instance of a process manager an event is for."""
_REACTS: Final = "__foldline_reacts__"
_REFUSED: Final = "__foldline_when_rejected__"
_SHOWN: Final = "`def paid(self, event: OrderPaid, meta: Meta) -> Ship | None`"
_SHOWN_REFUSED: Final = "`def refused(self, command: Charge, rejection: Rejected) -> Cancel | None`"


@overload
def reacts(function: F, /) -> F: ...
@overload
def reacts(*, by: By) -> Callable[[F], F]: ...
def reacts(function: Any = None, /, *, by: By | None = None) -> Any:
    """Mark a method of a Reactor: `(self, event: E[, meta: Meta]) -> a command, several or None`.

    E is a class of events, or a union of several. It takes its subclasses too, unless they have a
    reaction of their own. It returns a command, a list of commands, or None.

    In a ProcessManager it decides as a handler does, and `by` says which instance an event is for.
    It names the field that has the id, or is a function of event and Meta that gives it.
    """
    namespace = _namespace(1)

    def mark(method: F) -> F:
        refuse_shadowing(method, namespace, _REACTS)
        setattr(method, _REACTS, (by,))
        return method

    return mark if function is None else mark(function)


def is_reaction(method: object) -> bool:
    """Tell whether a method is marked with @reacts."""
    return hasattr(method, _REACTS)


def is_refusal(method: object) -> bool:
    """Tell whether a method is marked with @when_rejected."""
    return hasattr(method, _REFUSED)


def routed_by(method: object) -> By | None:
    """Give what was said of the instance that an event is for."""
    marked: tuple[By | None] = getattr(method, _REACTS)
    return marked[0]


def when_rejected(function: F) -> F:
    """Mark a method that says what follows if a command that it gave is rejected.

    `(self, command: C, rejection: Rejected[, meta: Meta]) -> a command or None`. C is the class of
    the command, or a union of several; `meta` is that of the event. Without such a method the
    rejection is logged and counted, and nothing follows.
    """
    refuse_shadowing(function, _namespace(1), _REFUSED)
    setattr(function, _REFUSED, True)
    return function


class Reactor(Projection):
    """Base of reactors: `class Shipping(Reactor, name="shipping", begins="now")`.

    Mark methods with `@reacts`. Each command that one gives is executed by the engine, at least
    once, and made exactly once. Its key has the reactor's name, the event's position and the
    command's place. It carries on the event's correlation, and its causation is the event.
    `authorize` is asked with the principal `reactor:<name>`. Commands because of one stream are
    executed in order, each after the receipt of the one before; other streams go on meanwhile.

    - `name`: is stored, with how far it has come. A new name is a new reactor.
    - `begins`: where it begins in a log that has events when it is new. "now" is with what comes
      from its first start on, "start" with the first event, a number after that position. It is
      required.
    - `on_poison`: "park" sets an event whose reaction or command fails aside, with all later ones
      of its stream; "stop" stops the reactor there.
    - `sequence(event, meta)`: gives the key whose events are kept in order, instead of the stream.
    """

    _on_poison: ClassVar[Policy] = "park"

    @classmethod
    def __read__(
        cls, definition: ProjectionDefinition, namespace: Mapping[str, Any]
    ) -> ProjectionDefinition:
        """Complete what is known of a subclass; raise DefinitionError for what does not fit."""
        where = cls.__qualname__
        _refuse_foreign(cls, definition)
        check_begins(f"reactor {where}", definition.begins)
        handlers: dict[type[Event], ProjectionHandler] = {}
        refusals: dict[type[Command], Refusal] = {}
        gives: set[type[Command]] = set()
        for method in methods_of(cls):
            if not (is_reaction(method) or is_refusal(method)):
                continue
            signature = read_signature(method, namespace, method=True)
            gives.update(_commands_of(method, signature))
            if is_reaction(method):
                _add_reaction(handlers, method, signature)
            else:
                _add_refusal(refusals, method, signature)
        if not handlers:
            raise DefinitionError(
                f"reactor {where} reacts to no event: mark a method with @reacts, {_SHOWN}"
            )
        return msgspec.structs.replace(
            definition,
            handlers=handlers,
            event_names=frozenset(event.event_name for event in handlers),
            reacting=Reacting(refusals, frozenset(gives)),
        )


def commands_given(where: str, given: Any, commands_max: int) -> tuple[Command, ...]:
    """Give the commands that a reaction returned; raise UsageError for anything else."""
    if given is None:
        return ()
    returned: object = given
    if isinstance(returned, Command):
        return (cast("Command", returned),)
    if isinstance(returned, list | tuple):
        found = tuple(cast("Sequence[object]", returned))
        if len(found) > commands_max:
            raise UsageError(
                f"{where} gave {len(found)} commands, above Limits.reaction_commands at "
                f"{commands_max}: none was sent"
            )
        if all(isinstance(each, Command) for each in found):
            return cast("tuple[Command, ...]", found)
    kind = type(cast("object", given)).__name__
    raise UsageError(
        f"{where} gave a {kind}: a reaction gives a command, a list of commands, or None"
    )


def _refuse_foreign(cls: type[Projection], definition: ProjectionDefinition) -> None:
    """Raise DefinitionError for what a projection of another sort has."""
    where = cls.__qualname__
    if cls.__init__ is not object.__init__:
        raise DefinitionError(
            f"reactor {where} has an __init__: it keeps nothing, since it reacts to each event "
            f"alone; drop it"
        )
    if definition.version != 1 or definition.slices != 1:
        raise DefinitionError(
            f"reactor {where} has a version or slices: it has no tables that could be built again, "
            f"and runs for many streams at once as it is. Drop both"
        )
    for name, value in vars(cls).items():
        if is_handler(value):
            raise DefinitionError(
                f"{where}.{name} is marked with @projects, and a reactor has no tables: mark it "
                f"with @reacts, or make it a projection"
            )
    if any("Table[" in str(annotation) for annotation in inspect.get_annotations(cls).values()):
        raise DefinitionError(
            f"reactor {where} declares a table, and has no tables: what is to be remembered from "
            f"event to event is the state of an aggregate"
        )


def check_begins(what: str, begins: object) -> None:
    """Raise DefinitionError where a reactor's author has not said where it begins."""
    if begins in ("now", "start") or (type(begins) is int and begins >= 0):
        return
    raise DefinitionError(
        f"{what} has begins={begins!r:.40}: say where it begins in a log that "
        f'has events already. begins="now" is safe: it reacts to what happens from its first '
        f'start on. begins="start" sends a command for each old event, too; a number begins after '
        f"that position"
    )


def methods_of(cls: type) -> Sequence[Callable[..., Any]]:
    """Give what can be called of a class, each by the name that it has last."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update((name, value) for name, value in vars(base).items() if callable(value))
    return tuple(found.values())


def _add_reaction(
    handlers: dict[type[Event], ProjectionHandler],
    method: Callable[..., Any],
    signature: Signature,
) -> None:
    if routed_by(method) is not None:
        raise DefinitionError(
            f"{signature.where} has by=, which names an instance of a ProcessManager: a reactor "
            f"has none; drop it"
        )
    event, *rest = [taken for _, taken in signature.parameters] or [None]
    events = union_members(event)
    fits = all(isinstance(e, type) and issubclass(e, Event) and e is not Event for e in events)
    if not fits or rest not in ([], [Meta]):
        raise DefinitionError(
            f"{signature.where} must take one event after self, and may take its meta: write "
            f"{_SHOWN}. Several events are a union of them, or a class that they are based on"
        )
    for each in cast("Sequence[type[Event]]", events):
        if each in handlers:
            raise DefinitionError(
                f"{signature.where} is a second reaction to {each.__name__}: keep one, which may "
                f"give several commands"
            )
        handlers[each] = ProjectionHandler(method, bool(rest), None)


def _add_refusal(
    refusals: dict[type[Command], Refusal], method: Callable[..., Any], signature: Signature
) -> None:
    command, *rest = [taken for _, taken in signature.parameters] or [None]
    commands = union_members(command)
    fits = all(isinstance(c, type) and issubclass(c, Command) for c in commands)
    if not fits or Command in commands or rest not in ([Rejected], [Rejected, Meta]):
        raise DefinitionError(
            f"{signature.where} must take a command and its rejection after self, and may take the "
            f"event's meta: write {_SHOWN_REFUSED}"
        )
    for each in cast("Sequence[type[Command]]", commands):
        if each in refusals:
            raise DefinitionError(
                f"{signature.where} is a second method for a rejected {each.__name__}: keep one"
            )
        refusals[each] = Refusal(method, len(rest) > 1)


def _commands_of(method: Callable[..., Any], signature: Signature) -> set[type[Command]]:
    """Give the classes of command that a method's return annotation names."""
    where = signature.where
    if signature.is_async or inspect.isgeneratorfunction(method):
        raise DefinitionError(
            f"{where} is async or a generator: a reaction only says which commands follow, and the "
            f"engine executes them; write a plain `def`. What talks to a system outside is a Sink"
        )
    found: set[type[Command]] = set()
    for member in union_members(signature.returns):
        inner: tuple[Any, ...] = (member,)
        origin = typing.get_origin(member)
        if isinstance(origin, type) and issubclass(origin, Sequence) and not _is_one(method):
            inner = tuple(a for a in typing.get_args(member) if a is not Ellipsis)
        for each in (each for one in inner for each in union_members(one)):
            base = typing.get_origin(each) or each
            if isinstance(base, type) and issubclass(base, Command):
                found.add(cast("type[Command]", base))
            elif each not in (None, type(None)):
                raise DefinitionError(_returns_text(where, one=_is_one(method)))
    return found


def _is_one(method: Callable[..., Any]) -> bool:
    """Tell whether a method gives one command at most."""
    return is_refusal(method)


def _returns_text(where: str, *, one: bool) -> str:
    if one:
        return (
            f"{where} gives what follows from a rejection: one command at most, so that it is "
            f"made once. Annotate it as {_SHOWN_REFUSED}"
        )
    return (
        f"{where} does not say which commands it gives: annotate it as `-> SomeCommand | None` or "
        f"`-> list[SomeCommand | OtherCommand]`"
    )
