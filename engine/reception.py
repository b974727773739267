"""Takes commands in: finds who handles them, checks what comes with them, and posts them.

Rules: whatever is wrong with a command is said before it is accepted, and then nothing was run.
Look-up and posting are one step, with no await between them. It decides nothing, and knows no
store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from .aggregate import CommandHandler, Context
from .deliberation import CURRENT
from .directory import Directory
from .errors import DeadlinePassed, DefinitionError, InvalidInput, UsageError
from .kind import Kind
from .limits import KEY_LENGTH_MAX
from .mailbox import Intake, Mail
from .messages import Command, Receipt
from .ports import Ports

__all__ = ["Reception"]


class Reception:
    """The way into one engine. Raises DefinitionError where its kinds contradict each other."""

    def __init__(
        self, kinds: Sequence[Kind], intake: Intake, directory: Directory, ports: Ports
    ) -> None:
        self._handlers = _wired(kinds)
        self._intake = intake
        self._directory = directory
        self._failpoint = ports.failpoint

    def take(
        self,
        command: Command,
        key: str | None,
        expected: int | None,
        correlation: str | None,
        causation: str | None,
        principal: str | None,
        headers: Mapping[str, str] | None,
        deadline: float | None,
        loop: asyncio.AbstractEventLoop,
    ) -> asyncio.Future[Receipt]:
        """Post a command to its actor, and give the future of its answer."""
        wired = self._handlers.get(type(command))
        if wired is None:
            raise UsageError(
                f"no aggregate of this engine handles {type(command).__name__}: pass the aggregate "
                f"that does to Engine([...]). Nothing was run."
            )
        if key is not None:
            _check_key(key)
        if correlation is not None or causation is not None or principal is not None or headers:
            _check_trace(correlation, causation, principal, headers)
        kind, handler = wired
        if deadline is None:
            deadline = kind.definition.deadline
        else:
            _check_deadline(deadline)
        if CURRENT.get() is not None:
            self._check_not_inside(command)
        self._intake.check()
        actor = self._directory.find(kind, getattr(command, handler.id_field))
        mail = Mail(
            loop.create_future(),
            handler,
            command,
            key,
            expected,
            correlation,
            causation,
            principal,
            headers,
            deadline,
        )
        actor.post(mail)
        if self._failpoint is not None:
            self._failpoint("mailbox.accepted")
        return mail.answer

    @property
    def kinds(self) -> Mapping[type[Command], str]:
        """The kind of aggregate by the class of command that it handles."""
        return {command: kind.definition.kind for command, (kind, _) in self._handlers.items()}

    def _check_not_inside(self, command: Command) -> None:
        """Refuse a command out of a handler: its aggregate may be what that one waits for."""
        inside = CURRENT.get()
        if inside is not None and inside.intake is self._intake and not inside.ended:
            raise UsageError(
                f"{inside.mail.handler.decide.__qualname__} calls engine.execute with "
                f"{type(command).__name__}: two aggregates that wait for each other never end. "
                f"Return events, and let what reads them send the command. Nothing was run."
            )


def _wired(kinds: Sequence[Kind]) -> Mapping[type[Command], tuple[Kind, CommandHandler]]:
    """Give who handles each class of command."""
    by_name: dict[str, Kind] = {}
    handlers: dict[type[Command], tuple[Kind, CommandHandler]] = {}
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
            if command in handlers:
                raise DefinitionError(
                    f"{command.__name__} is handled by {definition.cls.__qualname__} and by "
                    f"{handlers[command][0].definition.cls.__qualname__}: keep one handler"
                )
            handlers[command] = (kind, handler)
    return handlers


def _check_resources(kind: Kind, handler: CommandHandler) -> None:
    for taken in handler.takes:
        if taken is not Context and taken not in kind.resources:
            raise DefinitionError(
                f"{handler.decide.__qualname__} takes a {taken.__name__}, which the engine does "
                f"not have: write Engine(resources={{{taken.__name__}: ...}})"
            )


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= KEY_LENGTH_MAX:
        raise InvalidInput(
            f"a key is a string of 1 to {KEY_LENGTH_MAX} characters, not {key!r:.60}. "
            f"Nothing was run."
        )


def _check_deadline(deadline: object) -> None:
    if not isinstance(deadline, int | float) or deadline != deadline:
        raise InvalidInput(
            f"deadline is a number of seconds, not {deadline!r:.60}. Nothing was run."
        )
    if deadline <= 0:
        raise DeadlinePassed(
            f"the deadline is {deadline:g} s, so it has passed already. Nothing was run."
        )


def _check_name(what: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{what} is a string, not a {type(value).__name__}. Nothing was run.")


def _check_trace(
    correlation: object, causation: object, principal: object, headers: object
) -> None:
    _check_name("correlation", correlation)
    _check_name("causation", causation)
    _check_name("principal", principal)
    if headers is None:
        return
    pairs = cast("Mapping[object, object]", headers if isinstance(headers, Mapping) else {0: 0})
    if not all(isinstance(part, str) for pair in pairs.items() for part in pair):
        raise InvalidInput("headers map strings to strings. Nothing was run.")
