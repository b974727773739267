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
from ..model.copying import own_copy
from ..model.fingerprint import fingerprint_of
from ..model.given import (
    as_headers,
    as_seconds,
    as_text,
    as_whole,
    is_plain_text,
    made_twice,
    shown,
)
from ..model.ids import as_id, check_id
from ..model.messages import Command, Envelope, Receipt, instead_text
from ..runtime.ports import Ports
from ..telemetry import Observer
from .actor import Actor
from .admission import Admission
from .deliberation import CURRENT
from .directory import Directory
from .kind import Kind
from .mailbox import Intake, Mail, Sent, Submit
from .observed import ObservedSubmit

__all__ = ["Reception", "checked_resources"]


class _Route(msgspec.Struct, frozen=True):
    """Where commands of one class go."""

    kind: Kind[Actor]
    handler: CommandHandler
    seconds: float | None
    """Of its deadline, where the envelope gives none."""


class Reception:
    """The way into one engine. Raises DefinitionError where its kinds contradict each other."""

    def __init__(
        self,
        kinds: Sequence[Kind[Actor]],
        intake: Intake,
        directory: Directory,
        ports: Ports,
        check_usable: Callable[[], asyncio.AbstractEventLoop],
        admission: Admission | None,
        watch: Observer | None,
    ) -> None:
        self._check_usable = check_usable
        self._routes = _routes(kinds)
        self._intake = intake
        self._directory = directory
        self._failpoint = ports.failpoint
        self._admission = admission
        self.submit: Submit = self.take
        """How mail is posted: chosen once, so that without a telemetry none is looked for."""
        if watch is not None and watch.wants_commands:
            self.submit = ObservedSubmit(watch, self._kinds(), self.take)

    def send(self, envelope: Envelope, /) -> Sent:
        """Check, copy and post an envelope, behind the gate where there is one; see `Send`."""
        mail = self._prepare(envelope)
        if self._admission is None:
            return self.submit(mail)
        return self._admission.admit(mail, self._place_of(mail), self._post)

    def _prepare(self, envelope: Envelope) -> Mail:
        """Give an envelope, checked and copied, as it is run when it is posted.

        Nothing is taken yet. Raises UsageError and DeadlinePassed for whatever is wrong with it.
        """
        loop = self._check_usable()
        envelope, seconds = self.checked(envelope)
        fingerprint = None if envelope.key is None else _fingerprint(envelope.command)
        handler = self._routes[type(envelope.command)].handler
        return Mail(envelope, handler, loop.create_future(), fingerprint, seconds)

    def checked(self, envelope: Envelope, /) -> tuple[Envelope, float | None]:
        """Give an envelope that is its call's own, and the seconds of its deadline; see `send`."""
        command = envelope.command
        route = self._routes.get(type(command))
        if route is None:
            raise UsageError(_not_handled(command) + made_twice(type(command), self._routes))
        deadline = envelope.deadline
        seconds = route.seconds if deadline is None else _time_left(deadline)
        own = own_copy(command)
        if own is not command or not _is_own(envelope):
            envelope = _own(envelope, own)
        return envelope, seconds

    def checked_to_send(self, envelope: Envelope, /) -> tuple[Envelope, float | None]:
        """Do what `checked` does, and check the id, for an engine in another process."""
        envelope, seconds = self.checked(envelope)
        command = envelope.command
        check_id(getattr(command, self._routes[type(command)].handler.id_field))
        return envelope, seconds

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
        kind = self._routes[type(command)].kind
        actor = self._directory.find(kind, getattr(command, mail.handler.id_field))
        actor.post(mail)
        if self._failpoint is not None:
            self._failpoint("mailbox.accepted")
        return mail.answer

    def _post(self, mail: Mail, /) -> asyncio.Future[Receipt]:
        """Post mail that the gate has let in; the engine may have stopped meanwhile."""
        self._check_usable()
        return self.submit(mail)

    def _place_of(self, mail: Mail) -> tuple[str | None, str, str]:
        """Give in whose line mail stands, on its way to its aggregate."""
        command = mail.envelope.command
        kind = self._routes[type(command)].kind.definition.kind
        return mail.envelope.principal, kind, as_id(getattr(command, mail.handler.id_field))

    def _kinds(self) -> Mapping[type[Command], str]:
        """The kind of aggregate by the class of command that it handles."""
        return {command: route.kind.definition.kind for command, route in self._routes.items()}

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


def _routes(kinds: Sequence[Kind[Actor]]) -> Mapping[type[Command], _Route]:
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
    return (
        (key is None or is_plain_text(key, KEY_LENGTH_MAX))
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
        expected=None if expected is None else as_whole("expected", expected),
    )


def _fingerprint(command: Command) -> int:
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
