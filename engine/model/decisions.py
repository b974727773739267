"""What a handler may return beside events: a decision, with a reply to the caller.

Rules: a decision is a value; nothing happens before its events are durable. What is wrong with it
is told before anything is encoded, and then nothing was written. Handlers that return events alone
never come here. This file knows no actor, log or store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from ..errors import DefinitionError, HandlerFailed
from .messages import NO_REPLY, Event
from .replies import ReplyForm

__all__ = ["Decision", "Opened", "opened", "refuse_misdeclared"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    Events = TypeVar("Events", bound=Event, covariant=True)
    Reply = DefaultTypeVar("Reply", covariant=True, default=object)
else:
    Events = TypeVar("Events", bound=Event, covariant=True)
    Reply = TypeVar("Reply", covariant=True)


class Decision(msgspec.Struct, Generic[Events, Reply], frozen=True):
    """What a command leads to: `return Decision(Reserved(seat), reply=Reservation(seat))`.

    A handler is annotated with its events, and with its reply if its command declares one:
    `-> Decision[Reserved | Listed, Reservation]`.
    """

    events: Events | Sequence[Events] | None = None
    """An event, several in order, or None for nothing."""
    reply: Reply = NO_REPLY
    """What the caller gets as `receipt.reply`; of the type that the command's class declares."""

    if not TYPE_CHECKING:

        @classmethod
        def __class_getitem__(cls, given: Any) -> Any:
            """Take the events alone, too."""
            both = given if isinstance(given, tuple) else (given, object)
            return super().__class_getitem__(both)


class Opened(msgspec.Struct, frozen=True):
    """A decision, looked at."""

    events: Any
    reply: Any
    """A copy of what was given, as a repeated key will get it."""
    kept: bytes | None
    """The reply as it is stored; None where the command declares none."""


def opened(where: str, form: ReplyForm | None, returned: Any, reply_bytes_max: int) -> Opened:
    """Look at what the handler `where` returned; raise HandlerFailed for what is wrong with it."""
    plain = not isinstance(returned, Decision)
    decision = Decision(returned) if plain else cast("Decision[Event, Any]", returned)
    if form is None:
        if decision.reply is not None:
            raise HandlerFailed(
                f"{where} gives a reply, and its command declares none: write `class ...("
                f"Command[ReplyType])`. Nothing was written."
            )
        return Opened(decision.events, None, None)
    if plain:
        raise HandlerFailed(
            f"{where} returned no Decision, and {form.command} declares a reply: return "
            f"Decision(events, reply=...). Nothing was written."
        )
    reply, kept = form.kept(decision.reply, reply_bytes_max)
    return Opened(decision.events, reply, kept)


def refuse_misdeclared(where: str, form: ReplyForm | None, returns: Sequence[Any]) -> None:
    """Raise DefinitionError where a handler's annotation and its command's do not go together.

    `returns` has the type arguments of each Decision that the annotation names.
    """
    replies = any(args[1] not in (object, Any, None, type(None)) for args in returns)
    if form is None and replies:
        raise DefinitionError(
            f"{where} is annotated to give a reply, and its command declares none: write "
            f"`class ...(Command[ReplyType])`"
        )
    if form is not None and not returns:
        raise DefinitionError(
            f"{where} decides {form.command}, which declares a reply: annotate it as "
            f"`-> Decision[SomeEvent, ReplyType]`, and return Decision(events, reply=...)"
        )
