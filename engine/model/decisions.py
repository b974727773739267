"""What a handler may return beside events: a decision, with a reply, claims, timers and commands.

Rules: a decision is a value; nothing happens before its events are durable. What is wrong with it
is told before anything is encoded, and then nothing was written. Handlers that return events alone
never come here. This file knows no actor, log or store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from ..errors import DefinitionError, HandlerFailed, InvalidInput, Rejected
from ..limits import CLAIM_LENGTH_MAX, Limits
from .given import as_text, shown
from .messages import NO_REPLY, Command, Event, check_name
from .replies import ReplyForm
from .timers import NO_TIMERS, Timer

__all__ = [
    "NO_CLAIMS",
    "Claim",
    "Decision",
    "Given",
    "Opened",
    "Release",
    "UniqueValue",
    "checked_claims",
    "opened",
    "refuse_misdeclared",
]

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    Events = TypeVar("Events", bound="Event | Given", covariant=True)
    Reply = DefaultTypeVar("Reply", covariant=True, default=object)
else:
    Events = TypeVar("Events", covariant=True)
    Reply = TypeVar("Reply", covariant=True)


NO_CLAIMS: Final[Sequence[Any]] = NO_TIMERS


class Given:
    """What a joint decision gives to one of its aggregates: the base of `To`."""

    __slots__ = ()


class UniqueValue(msgspec.Struct, frozen=True, gc=False):
    """A value that one aggregate of a log holds at most: what is claimed and released."""

    name: str
    """What is unique: lower-case letters, digits and single hyphens, as in `email`."""
    value: str
    """1 to 500 characters, compared as they are: bring them into one form first."""


class Claim(UniqueValue, frozen=True, gc=False):
    """A value that one aggregate at a time may hold: `claims=[Claim("email", address)]`.

    It is taken in the transaction of the decision's events. If another aggregate of the log holds
    it, of whatever kind, the command is Rejected with `code` and `message`, and nothing is written.
    An aggregate may claim what it holds already.
    """

    code: str = ""
    """Of the rejection; the name and `-taken` unless given, as in `email-taken`."""
    message: str = ""
    """Of the rejection."""

    def refusal(self) -> Rejected:
        """Give the rejection of a command that claims what another aggregate holds."""
        code = self.code or f"{self.name}-taken"
        return Rejected(code, self.message or f"this {self.name} is taken")


class Release(UniqueValue, frozen=True, gc=False):
    """A value that the aggregate holds no more; without an effect if it does not hold it."""


class Decision(msgspec.Struct, Generic[Events, Reply], frozen=True, gc=False):
    """What a command leads to: `return Decision(Reserved(seat), reply=Reservation(seat))`.

    A handler is annotated with its events, and with its reply if its command declares one:
    `-> Decision[Reserved | Listed, Reservation]`.
    """

    events: Events | Sequence[Events] | None = None
    """An event, several in order, or None for nothing."""
    reply: Reply = NO_REPLY
    """What the caller gets as `receipt.reply`; of the type that the command's class declares."""
    claims: Sequence[UniqueValue] = NO_CLAIMS
    """Unique values that the aggregate holds from now on, or no more; each named once."""
    timers: Sequence[Timer] = NO_TIMERS
    """Commands that are to be run later, or no more; each named once."""
    commands: Sequence[Command] = NO_TIMERS
    """Commands that are run as soon as the events are durable, each exactly once."""

    if not TYPE_CHECKING:

        @classmethod
        def __class_getitem__(cls, given: Any) -> Any:
            """Take the events alone, too."""
            both = given if isinstance(given, tuple) else (given, object)
            return super().__class_getitem__(both)


Opened: TypeAlias = tuple[Any, Any, bytes | None, Sequence[UniqueValue]]
"""A decision, looked at: its events, the copy of its reply that a repeated key will get, the reply
as it is stored (None where the command declares none), and its claims."""


def opened(where: str, form: ReplyForm | None, returned: Any, limits: Limits) -> Opened:
    """Look at what the handler `where` returned; raise HandlerFailed for what is wrong with it."""
    if isinstance(returned, Decision):
        decision = cast("Decision[Event, Any]", returned)
        claims = decision.claims
        if claims is not NO_CLAIMS:
            claims = checked_claims(where, claims, limits, has_events=bool(decision.events))
        if form is not None:
            reply, kept = form.kept(decision.reply, limits.reply_bytes)
            return decision.events, reply, kept, claims
        if decision.reply is None:
            return decision.events, None, None, claims
        raise HandlerFailed(
            f"{where} gives a reply, and its command declares none: write `class ...("
            f"Command[ReplyType])`. Nothing was written."
        )
    if form is None:
        return returned, None, None, NO_CLAIMS
    raise HandlerFailed(
        f"{where} returned no Decision, and {form.command} declares a reply: return "
        f"Decision(events, reply=...). Nothing was written."
    )


def checked_claims(
    where: str, given: object, limits: Limits, *, has_events: bool
) -> Sequence[UniqueValue]:
    """Give the claims of a decision; raise HandlerFailed for one that cannot be stored."""
    if not isinstance(given, list | tuple):
        raise HandlerFailed(
            f"{where} gives claims={shown(given)}: write a list, as claims=[Claim(...)]. Nothing "
            f"was written."
        )
    claims = tuple(cast("Sequence[object]", given))
    if len(claims) > limits.command_claims:
        raise HandlerFailed(
            f"{where} gives {len(claims)} claims, above Limits.command_claims at "
            f"{limits.command_claims}. Nothing was written."
        )
    if claims and not has_events:
        raise HandlerFailed(
            f"{where} gives claims and no event. They are kept with events: return one that says "
            f"what the aggregate holds, or holds no more. Nothing was written."
        )
    own: dict[tuple[str, str], UniqueValue] = {}
    for claim in claims:
        found = _own(where, claim)
        if (found.name, found.value) in own:
            raise HandlerFailed(
                f"{where} names one value of {found.name!r} twice in its claims: claim it once or "
                f"release it once. Nothing was written."
            )
        own[found.name, found.value] = found
    return tuple(own.values())


def _own(where: str, claim: object) -> UniqueValue:
    """Give a claim of plain texts; raise HandlerFailed for what cannot be stored.

    It is refused in the journal's turn, where no method of a class of the host's may raise.
    """
    if not isinstance(claim, Claim | Release):
        raise HandlerFailed(
            f"{where} gives {shown(claim)} as a claim: give a Claim or a Release. Nothing was "
            f"written."
        )
    try:
        name = check_name(as_text("the name of a claim", claim.name), "a claim", "")
        texts: list[str] = []
        if isinstance(claim, Claim):
            texts = [as_text(f"the {of} of a claim", getattr(claim, of)) for of in _TEXTS]
    except (DefinitionError, InvalidInput) as error:
        why = str(error).removesuffix("Nothing was run.").strip()
        raise HandlerFailed(f"{where}: {why} Nothing was written.") from None
    try:
        value = claimable(claim.value)
    except InvalidInput as error:
        why = str(error).removesuffix(" Nothing was run.").removesuffix(".")
        # By the cause the caller's own text is told from what the code has made.
        raise HandlerFailed(f"{where}: of {name!r}, {why}. Nothing was written.") from error
    return Claim(name, value, *texts) if texts else Release(name, value)


_TEXTS: Final = ("code", "message")


def claimable(value: object) -> str:
    """Give a text that can be claimed; raise InvalidInput for another one."""
    try:
        text = as_text("a value", value, CLAIM_LENGTH_MAX)
    except InvalidInput as error:  # who tells it says what was not done
        raise InvalidInput(str(error).removesuffix(". Nothing was run.")) from None
    if "\0" in text:
        raise InvalidInput("a value has a NUL")
    return text


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
