"""A joint decision: one command that several aggregates decide together, declared by a function.

Rules: a field of type Id and a parameter of the same name go together, and the parameter's class
says whose id it is. All of that is looked at when the function is marked, as a handler is. The
function reads the states, changes nothing, and says of each event which aggregate it is for; if it
takes boundaries, it need not: an event is then for the first of them that folds it. This file
knows no actor, log or store.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec

from ..errors import DefinitionError, HandlerFailed, InvalidInput
from ..limits import Limits
from .aggregate import (
    Aggregate,
    CommandHandler,
    class_taken,
    decisions_named,
)
from .annotations import (
    Signature,
    defining_namespace,
    fields_of,
    read_signature,
    union_members,
)
from .boundary import id_by
from .bounded import assigned, check_fields, first_to_fold, is_by_tags
from .decisions import (
    NO_CLAIMS,
    Decision,
    Given,
    UniqueValue,
    checked_claims,
    opened,
    refuse_misdeclared,
)
from .given import named, shown
from .messages import Command, Event, is_id, reply_of
from .returned import as_events
from .timers import NO_TIMERS, Timer

__all__ = [
    "JointHandler",
    "Party",
    "Share",
    "To",
    "decides",
    "joint_handlers_of",
    "shares_of",
]

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=Event, covariant=True)
Form: TypeAlias = Literal["one", "one or none", "many", "by tags"]

_MARK: Final = "__foldline_joint__"
_NOTHING: Final = (type(None), typing.Never, typing.NoReturn)
_RETURNS: Final = "Annotate it as `-> list[To[SomeEvent | OtherEvent]]`, or as a Decision of these"


class To(Given, Generic[E]):
    """Events for one of the aggregates of a joint decision: `To(source, Withdrawn(5))`.

    `aggregate` is one of the states that the function was given. Its events are stored in the order
    given. `claims` are unique values that this aggregate holds from now on, or no more. `timers`
    and `commands` are what it sets and cancels, and what is run at once, as in a Decision.
    """

    __slots__ = ("aggregate", "claims", "commands", "events", "timers")

    def __init__(
        self,
        aggregate: Aggregate,
        *events: E,
        claims: Sequence[UniqueValue] = NO_CLAIMS,
        timers: Sequence[Timer] = NO_TIMERS,
        commands: Sequence[Command] = NO_TIMERS,
    ) -> None:
        self.aggregate = aggregate
        self.events = events
        self.claims = claims
        self.timers = timers
        self.commands = commands

    def __repr__(self) -> str:
        """Show what it gives to whom."""
        kind = type(self.aggregate).__definition__.kind
        return f"To({kind}:{self.aggregate.id}, {', '.join(map(repr, self.events))})"


class Party(msgspec.Struct, frozen=True):
    """A parameter of a joint decision: aggregates that a field of its command names."""

    field: str
    aggregate: type[Aggregate]
    form: Form
    """What the field holds: an id, an id or None, or a list of ids. "by tags" is the one boundary
    of several tags, or of whole ones, whose values are in fields by their names, or in none."""

    def ids(self, command: Command) -> Sequence[object]:
        """Give what the field names; raise InvalidInput for what is no list of ids."""
        if self.form == "by tags":
            return (id_by(self.aggregate.__definition__.tags, self.field, command),)
        given: object = getattr(command, self.field)
        if self.form == "one":
            return (given,)
        if self.form == "one or none":
            return () if given is None else (given,)
        if isinstance(given, list | tuple):
            return cast("Sequence[object]", given)
        raise InvalidInput(
            f"{type(command).__name__}.{self.field} is a list of ids, not {shown(given)}. Nothing "
            f"was run."
        )


class JointHandler(CommandHandler, frozen=True):
    """One command that several aggregates decide, and the function that does."""

    parties: tuple[Party, ...]
    """In the order of the function's parameters."""
    is_plain: bool
    """Whether each of them is one aggregate."""
    has_boundary: bool = False

    def ids(self, command: Command) -> Sequence[object]:
        """Give the ids of all aggregates that a command names."""
        return [each for party in self.parties for each in party.ids(command)]

    def states(self, command: Command, states: Sequence[Aggregate]) -> list[Any]:
        """Give the function's arguments behind the command, of states in the order of parties."""
        left = iter(states)
        arguments: list[Any] = []
        for party in self.parties:
            if party.form in ("one", "by tags"):
                arguments.append(next(left))
            elif party.form == "one or none":
                arguments.append(None if getattr(command, party.field) is None else next(left))
            else:
                arguments.append([next(left) for _ in party.ids(command)])
        return arguments


class Share(msgspec.Struct, frozen=True, gc=False):
    """What a joint decision gives to one of its aggregates."""

    place: int
    """Of the aggregate, among the states that the function was given."""
    events: Sequence[Event]
    claims: Sequence[UniqueValue]
    timers: Sequence[Timer]
    """As they were given."""
    commands: Sequence[Command]

    @property
    def has_timers(self) -> bool:
        """Whether it sets or cancels any, or leads to commands."""
        return self.timers is not NO_TIMERS or self.commands is not NO_TIMERS


# -- what a function gives ----------------------------------------------------------------------


def shares_of(
    handler: JointHandler, states: Sequence[Aggregate], returned: Any, limits: Limits
) -> tuple[list[Share], Any, bytes | None]:
    """Give what a function gave to whom, its reply, and that as it is stored.

    Raises HandlerFailed for what is wrong with it.
    """
    where = handler.decide.__qualname__
    given, reply, kept = returned, None, None
    if handler.gives_decisions:
        if isinstance(returned, Decision) and any(
            given is not NO_CLAIMS
            for given in (returned.claims, returned.timers, returned.commands)
        ):
            raise HandlerFailed(
                f"{where} gives claims, timers or commands beside its events: say whose they are, "
                f"as To(account, ..., claims=[Claim(...)]). Nothing was written."
            )
        given, reply, kept, _ = opened(where, handler.reply, returned, limits)
    if handler.has_boundary and isinstance(given, Event):
        # Most decisions by tags give one event, and need nothing of what follows.
        place = first_to_fold(states, given)
        if place is not None:
            return [Share(place, (given,), NO_CLAIMS, NO_TIMERS, NO_TIMERS)], reply, kept
    shares: list[Share] = []
    named: list[UniqueValue] = []
    places: list[int] = []
    count = 0
    for to in _listed(where, given, states if handler.has_boundary else ()):
        share = _share(handler, states, to, limits)
        if share.place in places:
            state = states[share.place]
            raise HandlerFailed(
                f"{where} names {type(state).__definition__.kind}:{state.id} twice: give all its "
                f"events in one To(...). Nothing was written."
            )
        places.append(share.place)
        if share.events:
            shares.append(share)
            named += share.claims
            count += len(share.events)
    if len(named) > 1:
        _refuse_repeated(where, named)
    if count > limits.command_events:
        raise HandlerFailed(
            f"{where} returned more events than Limits.command_events at {limits.command_events}"
        )
    return shares, reply, kept


def _listed(where: str, given: Any, boundaries: Sequence[Aggregate]) -> Sequence[To[Event]]:
    """Give what each gets; plain events are for the first of `boundaries` that folds them."""
    if given is None:
        return ()
    found: Any = (given,) if isinstance(cast("object", given), To | Event) else given
    if boundaries and isinstance(found, list | tuple):
        found = assigned(cast("Sequence[object]", found), boundaries, To)
    if isinstance(found, list | tuple):
        for each in cast("Sequence[object]", found):
            if not isinstance(each, To):
                break
        else:
            return cast("Sequence[To[Event]]", found)
    what = "a Decision" if isinstance(given, Decision) else named(given)
    raise HandlerFailed(
        f"{where} returned {what}: return [To(aggregate, event), ...], one for each aggregate that "
        f"gets events. {_RETURNS}"
    )


def _share(
    handler: JointHandler, states: Sequence[Aggregate], to: To[Event], limits: Limits
) -> Share:
    aggregate, events, claims = to.aggregate, to.events, to.claims
    place = 0
    for state in states:
        if state is aggregate:
            break
        place += 1
    else:
        raise HandlerFailed(
            f"{handler.decide.__qualname__} gives events to something that it was not given: the "
            f"first argument of To is one of its parameters, as in To(source, ...). Nothing was "
            f"written."
        )
    for event in events:
        if not isinstance(cast("object", event), Event):
            as_events(handler, events)  # says what is wrong
    if claims is not NO_CLAIMS:
        where = handler.decide.__qualname__
        claims = checked_claims(where, claims, limits, has_events=bool(events))
    share = Share(place, events, claims, to.timers, to.commands)
    if share.has_timers and not events:
        where = handler.decide.__qualname__
        raise HandlerFailed(
            f"{where} gives timers or commands to an aggregate that gets no event: they are kept "
            f"with its events. Nothing was written."
        )
    return share


def _refuse_repeated(where: str, claims: Sequence[UniqueValue]) -> None:
    known: set[tuple[str, str]] = set()
    for claim in claims:
        if (claim.name, claim.value) in known:
            raise HandlerFailed(
                f"{where} names one value of {claim.name!r} twice in its claims: claim it once or "
                f"release it once. Nothing was written."
            )
        known.add((claim.name, claim.value))


# -- how it is declared -------------------------------------------------------------------------


def decides(function: F) -> F:
    """Mark a function that decides a command over several aggregates, for `Engine(decisions=[f])`.

    `def transfer(command: Transfer, source: Account, target: Account) -> list[To[...]]`: a
    parameter gets the aggregate whose id is in the command's field of the same name. That field is
    an `Id`; or `list[Id]` for a parameter that is `list[Account]`; or `Id | None` for one that is
    `Account | None`. Behind them it may take `ctx: Context` and resources, as a handler does.

    It returns `To(aggregate, event, ...)` for each aggregate that gets events, or a Decision of
    these with a reply. If it takes a Boundary, it may return plain events: each is stored with the
    first boundary that folds it. All are stored together or not at all. It raises Rejected to
    refuse the command. None of the aggregates takes another command until it is known what became
    of this one. Raises DefinitionError for what does not fit.
    """
    given: object = function
    if not inspect.isfunction(given):
        raise DefinitionError(
            f"@decides stands above a plain function, and not above {shown(function)}: write "
            f"`@decides` alone, above `def ...(command: SomeCommand, ...)`"
        )
    signature = read_signature(function, defining_namespace(1), method=False)
    setattr(function, _MARK, _read(function, signature))
    return function


def joint_handlers_of(functions: object) -> list[JointHandler]:
    """Give what is known of marked functions; raise DefinitionError for what is none."""
    if isinstance(functions, str) or not isinstance(functions, Sequence):
        raise DefinitionError(
            f"decisions= is a list of functions that are marked with @decides, not "
            f"{shown(functions)}"
        )
    found: list[JointHandler] = []
    for function in cast("Sequence[object]", functions):
        handler = getattr(function, _MARK, None)
        if not isinstance(handler, JointHandler):
            raise DefinitionError(
                f"decisions= is a list of functions that are marked with @decides, and "
                f"{getattr(function, '__qualname__', None) or shown(function)} is not"
            )
        found.append(handler)
    return found


def _read(function: Callable[..., Any], signature: Signature) -> JointHandler:
    where = signature.where
    if inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{where} yields: return its events, all at once, as a list")
    command: Any = signature.parameters[0][1] if signature.parameters else None
    if not (isinstance(command, type) and issubclass(command, Command)) or command is Command:
        raise DefinitionError(
            f"{where} must take a command first: annotate it with the class of the one command "
            f"that it decides"
        )
    command = cast("type[Command]", command)
    parties, takes = _parameters(signature, command)
    reply, decisions = reply_of(command), decisions_named(signature)
    refuse_misdeclared(where, reply, decisions)
    has_boundary = any(party.aggregate.__definition__.tags for party in parties)
    _check_events(signature, parties, has_boundary=has_boundary)
    gives_decisions = bool(decisions) or reply is not None
    return JointHandler(
        command,
        parties[0].field,
        function,
        takes,
        signature.is_async,
        reply,
        gives_decisions,
        (),
        type(None) in union_members(signature.returns),
        parties,
        all(party.form == "one" for party in parties),
        has_boundary,
    )


def _parameters(
    signature: Signature, command: type[Command]
) -> tuple[tuple[Party, ...], tuple[type, ...]]:
    where, name = signature.where, command.__name__
    fields = {field.name: form for field in fields_of(command) if (form := _form_of(field.type))}
    parties: list[Party] = []
    takes: list[type] = []
    for parameter, annotation in signature.parameters[1:]:
        found = _aggregate_of(annotation)
        if found is None:
            takes.append(class_taken(signature, parameter, annotation))
            continue
        if takes:
            raise DefinitionError(
                f"{where} takes `{parameter}` behind {takes[-1].__name__}: write aggregates right "
                f"behind the command"
            )
        aggregate, form = found
        if form == "one" and is_by_tags(aggregate.__definition__.tags):
            check_fields(signature, command, parameter, aggregate.__definition__.tags, fields)
            parties.append(Party(parameter, aggregate, "by tags"))
            continue
        if fields.get(parameter) != form:
            raise DefinitionError(
                f"{where} takes `{parameter}`, {form} of {aggregate.__name__}, and {name} has no "
                f"field for it: write `{parameter}: {_FIELDS[form]}` in {name}"
            )
        parties.append(Party(parameter, aggregate, form))
    tags = {t for p in parties if p.form == "by tags" for t in p.aggregate.__definition__.tags}
    left = [field for field in fields if field not in tags.union(p.field for p in parties)]
    if left or not parties:
        what = f"`{left[0]}` of {name}" if left else f"{name}, of which no field is an Id"
        raise DefinitionError(
            f"{where} takes no aggregate for {what}: add a parameter of that name, annotated with "
            f"the class of the aggregate"
        )
    if len(set(takes)) < len(takes):
        raise DefinitionError(f"{where} takes the same thing twice: drop one of the parameters")
    return tuple(parties), tuple(takes)


_FIELDS: Final = {"one": "Id", "one or none": "Id | None", "many": "list[Id]"}


def _form_of(annotation: Any) -> Form | None:
    """Give what a field of a command holds of ids, if it holds any."""
    if is_id(annotation):
        return "one"
    if typing.get_origin(annotation) in (list, tuple):
        inner = [each for each in typing.get_args(annotation) if each is not Ellipsis]
        return "many" if len(inner) == 1 and is_id(inner[0]) else None
    members = [each for each in union_members(annotation) if each is not type(None)]
    return "one or none" if len(members) == 1 and is_id(members[0]) else None


def _aggregate_of(annotation: Any) -> tuple[type[Aggregate], Form] | None:
    """Give the aggregate that a parameter stands for, and in which form; None for a resource."""
    if _is_aggregate(annotation):
        return annotation, "one"
    inner = [each for each in typing.get_args(annotation) if each is not Ellipsis]
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(list, origin):
        return (inner[0], "many") if len(inner) == 1 and _is_aggregate(inner[0]) else None
    members = [each for each in union_members(annotation) if each is not type(None)]
    if len(members) == 1 and _is_aggregate(members[0]):
        return members[0], "one or none"
    return None


def _is_aggregate(annotation: Any) -> bool:
    return (
        isinstance(annotation, type)
        and issubclass(annotation, Aggregate)
        and annotation is not Aggregate
    )


def _check_events(signature: Signature, parties: Sequence[Party], *, has_boundary: bool) -> None:
    """Raise DefinitionError for an event that is not named, or that no aggregate applies."""
    where = signature.where
    if signature.returns is inspect.Parameter.empty:
        raise DefinitionError(f"{where} does not say what it returns. {_RETURNS}")
    definitions = [party.aggregate.__definition__ for party in parties]
    applied = {event for definition in definitions for event in definition.appliers}
    by_boundaries = {e for d in definitions if d.tags for e in d.appliers}
    for event, is_plain in _events_named(signature, may_be_plain=has_boundary):
        if event not in (by_boundaries if is_plain else applied):
            names = " or ".join(dict.fromkeys(party.aggregate.__name__ for party in parties))
            raise DefinitionError(
                f"{where} returns {event.__name__}, and nothing in {names} applies it: add "
                f"`@applies def ...(self, event: {event.__name__}) -> None`"
            )


def _events_named(
    signature: Signature, *, may_be_plain: bool
) -> Iterator[tuple[type[Event], bool]]:
    """Give the events that are named, and of each whether it is given to nobody."""
    for member in union_members(signature.returns):
        inner: tuple[Any, ...] = (member,)
        origin = typing.get_origin(member)
        if origin is Decision:
            inner = typing.get_args(member)[:1]
        elif isinstance(origin, type) and issubclass(origin, Sequence):
            inner = tuple(a for a in typing.get_args(member) if a is not Ellipsis)
        for candidate in (each for part in inner for each in union_members(part)):
            if candidate in _NOTHING:
                continue
            is_plain = may_be_plain and not _names_to(candidate)
            events = union_members(typing.get_args(candidate)[0]) if _names_to(candidate) else ()
            if is_plain:
                events = (candidate,)
            if not events or not all(isinstance(e, type) and issubclass(e, Event) for e in events):
                raise DefinitionError(
                    f"{signature.where} is annotated to return {signature.returns!r}. {_RETURNS}"
                )
            yield from ((event, is_plain) for event in events if event is not Event)


def _names_to(annotation: Any) -> bool:
    return typing.get_origin(annotation) is To
