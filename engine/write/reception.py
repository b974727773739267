"""Takes commands in: finds who handles them, checks and copies what comes with them, posts them.

Rules: whatever is wrong with a command is said before it is accepted, and then nothing was run.
What is accepted is the call's own: nothing that its caller changes afterwards changes it, and
nothing in it can raise where it would end more than this command. Look-up and posting are one
step, with no await between them. It decides nothing, and knows no store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from ..errors import DeadlinePassed, DefinitionError, InvalidInput, UsageError
from ..limits import KEY_LENGTH_MAX
from ..model.aggregate import CommandHandler, Context
from ..model.checking import checked_copy
from ..model.fingerprint import fingerprint_of
from ..model.given import (
    as_headers,
    as_seconds,
    as_text,
    as_whole,
    made_twice,
    shown,
)
from ..model.ids import as_id, check_id
from ..model.joint import JointHandler
from ..model.messages import Command, Envelope, Receipt, instead_text
from ..model.process import impersonal
from ..runtime.ports import Ports
from ..stores.contract.timers import FiredTimer
from ..telemetry import Observer
from .actor import Actor
from .admission import Admission
from .deliberation import CURRENT
from .directory import Directory
from .joint import Joint
from .kind import Kind
from .mailbox import Intake, Mail, Origin, Sent, Submit
from .observed import ObservedSubmit

__all__ = ["Reception", "checked_resources"]


class _Route(msgspec.Struct, frozen=True):
    """Where commands of one class go."""

    kind: Kind[Actor]
    handler: CommandHandler
    seconds: float | None
    """Of its deadline, where the envelope gives none."""
    kinds: Sequence[Kind[Actor]] = ()
    """Of a joint decision: those of its parties, in their order."""


class Reception:
    """The way into one engine. Raises DefinitionError where its kinds contradict each other."""

    def __init__(
        self,
        kinds: Sequence[Kind[Actor]],
        decisions: Sequence[JointHandler],
        intake: Intake,
        directory: Directory,
        ports: Ports,
        check_usable: Callable[[], asyncio.AbstractEventLoop],
        admission: Admission | None,
        watch: Observer | None,
    ) -> None:
        self._check_usable = check_usable
        self._routes = _routes(kinds)
        _add_joint(self._routes, kinds, decisions)
        self._kinds = frozenset(kind.definition.kind for kind in kinds)
        self._intake = intake
        self._directory = directory
        self._failpoint = ports.failpoint
        self._admission = admission
        self._streamed: tuple[Command | None, str] = None, ""
        """The command whose stream was asked for last, and that stream: messages are frozen."""
        self.astray: Callable[[Mail, str], bool] | None = None
        """Where others decide too: takes over what is not decided here; tells whether it has."""
        self.is_another_ones: Callable[[str], bool] | None = None
        """Likewise: tells whether a stream has another owner."""
        self.submit: Submit = self.take
        """How mail is posted: chosen once, so that without a telemetry none is looked for."""
        if watch is not None and watch.wants_commands:
            self.submit = ObservedSubmit(watch, self.kinds, self.take)

    def send(self, envelope: Envelope, /, depth: int = 0) -> Sent:
        """Check, copy and post an envelope, behind the gate where there is one.

        `depth` is the number of reactions in a row that led to it. Gives the future of the answer,
        or what is to be awaited for that. Raises what is wrong with it; then nothing was run.
        """
        mail = self._prepare(envelope)
        if depth:
            mail.depth = depth
        if self._admission is None:
            return self.submit(mail)
        return self._admission.admit(mail, self._places_of(mail), self._post)

    def send_from(self, envelope: Envelope, origin: Origin | None, /) -> Sent:
        """Do as `send` with what a timer or a reactor of the process that leads has given.

        Nobody is asked about a timer's command, as with `fire`.
        """
        if origin is None:
            return self.send(envelope)
        mail = self._prepare(envelope)
        mail.depth, mail.led, mail.fired = origin.depth, origin.led, origin.fired
        if self._admission is None or origin.fired is not None:
            return self.submit(mail)
        return self._admission.admit(mail, self._places_of(mail), self._post)

    def _prepare(self, envelope: Envelope) -> Mail:
        """Give an envelope, checked and copied, as it is run when it is posted.

        Nothing is taken yet. Raises UsageError and DeadlinePassed for whatever is wrong with it.
        """
        loop = self._check_usable()
        envelope, seconds = self.checked(envelope)
        fingerprint = None if envelope.key is None else _fingerprint(envelope.command)
        route = self._routes[type(envelope.command)]
        if envelope.expected is not None:
            self._check_expected(envelope, route)
        return Mail(envelope, route.handler, loop.create_future(), fingerprint, seconds)

    def fire(self, envelope: Envelope, fired: FiredTimer, depth: int, /) -> Mail:
        """Post the command of a timer, which nobody is asked about any more; give its mail.

        `depth` is the number of commands and reactions in a row that led to it at once.
        Raises NotRun, with nothing run.
        """
        command = envelope.command
        route = self._routes[type(command)]
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        mail = Mail(envelope, route.handler, answer, _fingerprint(command), route.seconds)
        mail.fired, mail.depth = fired, depth
        self.submit(mail)
        return mail

    def checked(self, envelope: Envelope, /) -> tuple[Envelope, float | None]:
        """Give an envelope that is its call's own, and the seconds of its deadline; see `send`."""
        command = envelope.command
        route = self._routes.get(type(command))  # without a call: once for each command
        if route is None:
            raise self._unhandled(command)
        deadline = envelope.deadline
        seconds = route.seconds if deadline is None else _time_left(deadline)
        own = checked_copy(command)
        if own is not command or not _is_own(envelope):
            envelope = _own(envelope, own)
        return envelope, seconds

    def checked_to_send(self, envelope: Envelope, /) -> tuple[Envelope, float | None]:
        """Do what `checked` does, and check the id, for an engine in another process."""
        envelope, seconds = self.checked(envelope)
        command = envelope.command
        route = self._routes[type(command)]
        if envelope.expected is not None:
            self._check_expected(envelope, route)
        for _, aggregate_id in self._named(command, route):
            check_id(as_id(aggregate_id))
        return envelope, seconds

    def stream_of(self, command: Command) -> str:
        """Give the stream that decides a command, the first of several; raise as `send` does."""
        if command is self._streamed[0]:
            return self._streamed[1]  # whoever sends it on or serves it asks several times
        route = self._route_of(command)
        handler = route.handler
        if not isinstance(handler, JointHandler):
            stream = f"{route.kind.definition.kind}:{as_id(getattr(command, handler.id_field))}"
            self._streamed = command, stream
            return stream
        return self.streams_of(command)[0]

    def streams_of(self, command: Command) -> Sequence[str]:
        """Give the streams of all aggregates that a command names; raise as `send` does."""
        return _streams(self._named(command, self._route_of(command)))

    def _route_of(self, command: Command) -> _Route:
        route = self._routes.get(type(command))
        if route is None:
            raise self._unhandled(command)
        return route

    def _unhandled(self, command: Command) -> UsageError:
        return UsageError(_not_handled(command) + made_twice(type(command), self._routes))

    @property
    def answered(self) -> int:
        """How many commands have had their answer since the start."""
        return self._intake.answered

    @property
    def commands(self) -> Sequence[type[Command]]:
        """The classes of command that it takes."""
        return tuple(self._routes)

    def take(self, mail: Mail, /) -> asyncio.Future[Receipt]:
        """Post mail to its actor, and give the future of its answer; see `Submit`."""
        command = mail.envelope.command
        if CURRENT.get() is not None:
            self._check_not_inside(command)
        self._intake.check()
        route = self._routes[type(command)]
        if self.astray is not None and self.astray(mail, self.stream_of(command)):
            return mail.answer
        if route.kinds:
            self._find_joint(mail, route).post()
        else:
            actor = self._directory.find(route.kind, getattr(command, mail.handler.id_field))
            actor.post(mail)
        if self._failpoint is not None:
            self._failpoint("mailbox.accepted")
        return mail.answer

    def _find_joint(self, mail: Mail, route: _Route) -> Joint:
        """Bring the actors together that a command names; raise InvalidInput where it cannot."""
        command = mail.envelope.command
        named = self._named(command, route)
        if self.is_another_ones is not None:
            self._let_go_of_guests(named, self.is_another_ones)
        actors = self._directory.find_all(named)
        if len({*actors}) < len(actors):
            twice = next(actor for actor in actors if actors.count(actor) > 1)
            raise InvalidInput(
                f"{type(command).__name__} names {twice.stream!a:.60} twice, and is about "
                f"different aggregates. Nothing was run."
            )
        return Joint(mail, actors)

    def _let_go_of_guests(
        self, named: Sequence[tuple[Kind[Actor], object]], is_another_ones: Callable[[str], bool]
    ) -> None:
        """Have what others own loaded, as what is known of it here is old most often."""
        streams = [stream for stream in _streams(named) if is_another_ones(stream)]
        found = [self._directory.resident(stream) for stream in streams]
        self._directory.let_go([actor for actor in found if actor is not None])

    def _post(self, mail: Mail, /) -> asyncio.Future[Receipt]:
        """Post mail that the gate has let in; the engine may have stopped meanwhile."""
        self._check_usable()
        return self.submit(mail)

    def _check_expected(self, envelope: Envelope, route: _Route) -> None:
        """Raise UsageError where it is not said which aggregate's version is expected, or too much.

        A former receipt may have streams of others. What is compared with nothing is a slip.
        """
        expected, command = envelope.expected, envelope.command
        name, is_joint = type(command).__name__, isinstance(route.handler, JointHandler)
        if not is_joint and not isinstance(expected, Mapping):
            return
        if not is_joint:
            raise UsageError(
                f"{name} is decided by one aggregate: give expected= its version, as a whole "
                f"number. Nothing was run."
            )
        if not isinstance(expected, Mapping):
            raise UsageError(
                f"{name} is decided by several aggregates: give expected= by stream, as "
                f'{{"account:a-1": 3}}, or the `versions` of a former receipt. Nothing was run.'
            )
        streams = {*_streams(self._named(command, route))}
        kinds = self._kinds
        for stream in expected:
            if stream.partition(":")[0] not in kinds or streams.isdisjoint(expected):
                raise UsageError(
                    f"expected= names {stream!a:.60}, and {name} is about "
                    f"{', '.join(sorted(streams))!a:.200}: give the version of one of these, by "
                    f"its stream. Nothing was run."
                )

    def _named(self, command: Command, route: _Route) -> Sequence[tuple[Kind[Actor], object]]:
        """Give kind and id of each aggregate that a command names; InvalidInput for how many."""
        handler = route.handler
        if not isinstance(handler, JointHandler):
            return ((route.kind, getattr(command, handler.id_field)),)
        pairs = zip(handler.parties, route.kinds, strict=True)
        if handler.is_plain:
            return [(kind, getattr(command, party.field)) for party, kind in pairs]
        found = [(kind, each) for party, kind in pairs for each in party.ids(command)]
        most = route.kind.limits.command_aggregates
        if not 0 < len(found) <= most:
            raise InvalidInput(
                f"{type(command).__name__} names {len(found)} aggregates: it is decided by 1 to "
                f"{most} (Limits.command_aggregates). Nothing was run."
            )
        return found

    def _places_of(self, mail: Mail) -> Sequence[tuple[str | None, str, str]]:
        """Give in whose lines mail stands, on its way to its aggregates."""
        command, principal = mail.envelope.command, mail.envelope.principal
        named = self._named(command, self._routes[type(command)])
        return [(principal, kind.definition.kind, as_id(each)) for kind, each in named]

    @property
    def kinds(self) -> Mapping[type[Command], str]:
        """The kind of aggregate by the class of command that it handles; of several, all kinds."""
        return {
            command: "+".join(dict.fromkeys(k.definition.kind for k in route.kinds or [route.kind]))
            for command, route in self._routes.items()
        }

    def _check_not_inside(self, command: Command) -> None:
        """Refuse a command out of a handler: its aggregate may be what that one waits for."""
        inside = CURRENT.get()
        if inside is not None and inside.intake is self._intake and not inside.ended:
            raise UsageError(
                f"{inside.mail.handler.decide.__qualname__} calls engine.execute with "
                f"{type(command).__name__}: two aggregates that wait for each other never end. "
                f"Return events, and let what reads them send the command. Nothing was run."
            )


def checked_resources(given: object) -> dict[type, object]:
    """Give what handlers and sinks take, by its class; raise DefinitionError for anything else."""
    if given is None:
        return {}
    what = shown(given)
    found = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else None
    if found is None or not all(isinstance(each, type) for each in found):
        raise DefinitionError(
            f"resources= maps classes to what is of them, as Engine(resources={{Client: client}}), "
            f"and here it is {what}"
        )
    return dict(cast("Mapping[type, object]", found))


def _add_joint(
    routes: dict[type[Command], _Route],
    given: Sequence[Kind[Actor]],
    decisions: Sequence[JointHandler],
) -> None:
    """Add where commands go that several aggregates decide."""
    kinds = {kind.definition.cls: kind for kind in given}
    for handler in decisions:
        where, command = handler.decide.__qualname__, handler.command
        for party in handler.parties:
            if party.aggregate not in kinds:
                raise DefinitionError(
                    f"{where} takes a {party.aggregate.__name__}, which the engine does not have: "
                    f"pass it to Engine([...])"
                )
        if command in routes:
            other = routes[command].handler.decide.__qualname__
            raise DefinitionError(
                f"{command.__name__} is decided by {where} and by {other}: keep one"
            )
        own = [kinds[party.aggregate] for party in handler.parties]
        most = own[0].limits.command_aggregates
        if len(own) > most:
            raise DefinitionError(
                f"{where} takes {len(own)} aggregates, above Limits.command_aggregates at {most}"
            )
        _check_resources(own[0], handler)
        deadlines = [k.definition.deadline for k in own if k.definition.deadline is not None]
        routes[command] = _Route(own[0], handler, min(deadlines, default=None), own)


def _routes(kinds: Sequence[Kind[Actor]]) -> dict[type[Command], _Route]:
    """Give where each class of command goes."""
    by_name: dict[str, Kind[Actor]] = {}
    routes: dict[type[Command], _Route] = {}
    for kind in kinds:
        definition = kind.definition
        other = by_name.setdefault(definition.kind, kind).definition
        if other.cls is not definition.cls:
            raise DefinitionError(
                f"{definition.cls.__qualname__} and {other.cls.__qualname__} are both of kind "
                f"{definition.kind!r}: a kind is stored, so give one of them another"
            )
        for command, handler in definition.handlers.items():
            _check_resources(kind, handler)
            if command in routes:
                raise DefinitionError(
                    f"{command.__name__} is handled by {definition.cls.__qualname__} and by "
                    f"{routes[command].kind.definition.cls.__qualname__}: keep one handler"
                )
            routes[command] = _Route(kind, handler, definition.deadline)
    return routes


def _streams(named: Sequence[tuple[Kind[Actor], object]]) -> list[str]:
    return [f"{kind.definition.kind}:{as_id(each)}" for kind, each in named]


def _check_resources(kind: Kind[Actor], handler: CommandHandler) -> None:
    for taken in handler.takes:
        if taken is not Context and taken not in kind.resources:
            raise DefinitionError(
                f"{handler.decide.__qualname__} takes a {taken.__name__}, which the engine does "
                f"not have: write Engine(resources={{{taken.__name__}: ...}})"
            )


def _not_handled(given: object) -> str:
    name = type(given).__name__
    if isinstance(given, Command):
        what = f"{name}: pass the aggregate that does to Engine([...])"
    else:
        what = instead_text(given, Command)
    return f"no aggregate of this engine handles {what}. Nothing was run."


def _is_own(envelope: Envelope) -> bool:
    """Tell at a glance that all in an envelope, the command aside, can be taken as it is."""
    key = envelope.key
    # The key is looked at as `as_text` does, without its call: this is once for each command.
    return (
        (key is None or (type(key) is str and key.isascii() and 0 < len(key) <= KEY_LENGTH_MAX))
        and envelope.expected is None
        and envelope.correlation is None
        and envelope.causation is None
        and envelope.principal is None
        and envelope.headers is None
        and type(envelope) is Envelope
    )


def _own(envelope: Envelope, command: Command) -> Envelope:
    """Give an envelope of this call alone, with its copy; raise UsageError for what is unfit."""
    headers = envelope.headers
    correlation, causation = envelope.correlation, envelope.causation
    key, expected, principal = envelope.key, envelope.expected, envelope.principal
    return Envelope(
        command=command,
        correlation=None if correlation is None else as_text("correlation", correlation),
        causation=None if causation is None else as_text("causation", causation),
        principal=None if principal is None else as_text("principal", principal),
        headers=None if headers is None else as_headers(headers),
        key=None if key is None else as_text("a key", key, KEY_LENGTH_MAX),
        expected=None if expected is None else _own_expected(expected),
    )


def _own_expected(expected: int | Mapping[str, int]) -> int | Mapping[str, int]:
    if not isinstance(expected, Mapping):
        return as_whole("expected", expected)
    return {as_text("a stream", s): as_whole("expected", v) for s, v in {**expected}.items()}


def _fingerprint(command: Command) -> int:
    if getattr(command, "command_of_engine", False):
        command = impersonal(command)
    try:
        return fingerprint_of(command)
    except Exception as error:
        raise InvalidInput(
            f"{type(command).__name__} has a key and cannot be encoded ({type(error).__name__}): "
            f"its fields must be of types that msgspec encodes, without lone surrogates. Nothing "
            f"was run."
        ) from error


def _time_left(deadline: object) -> float:
    seconds = as_seconds("deadline", deadline)
    if seconds <= 0:
        raise DeadlinePassed(
            f"the deadline is {seconds:g} s, so it has passed already. Nothing was run."
        )
    return seconds
