"""A member's side: commands on their way to the owner of the log, and their answers.

Rules: a command is sent to one owner at a time. If the line breaks before its answer, it goes to
the next owner if it has a key or was surely not run; else nobody knows, and its caller is told so
(OutcomeUnknown). What an owner that stops has refused goes to the next one. Where an earlier owner
may have run a command, no later one can say that it was not: of its answers only those count that
know the key. Where this process becomes the owner, what waits is run here. Commands wait for an
owner only so long as the patience; those that are given up meanwhile by their callers are not sent.
Their number is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from ..errors import (
    Closed,
    DeadlinePassed,
    EngineError,
    InvalidInput,
    OutcomeUnknown,
    Overloaded,
    UsageError,
    Voided,
)
from ..limits import Limits
from ..model.messages import Envelope
from ..runtime.safely import described
from ..write.mailbox import Mail, Sent
from . import wire
from .forms import CommandForms, decode_values, encode_values, error_of
from .patience import Patience
from .waiting import (
    LOST,
    NOBODY,
    SEND_AGAIN,
    UNKNOWN,
    Post,
    Waiting,
    as_told,
    give_receipt,
    run_here,
    settle,
)
from .wire import Called, Done, Failed, Line, Message, Told

__all__ = ["PATIENCE_SECONDS", "Forwarding"]

T = TypeVar("T")

PATIENCE_SECONDS: Final = 10.0
"""How long a command waits for a process that owns the log, and for one that says nothing."""


class Forwarding:
    """The commands and calls of one member."""

    def __init__(
        self,
        check: Callable[[Envelope], tuple[Envelope, float | None]],
        check_usable: Callable[[], asyncio.AbstractEventLoop],
        forms: CommandForms,
        limits: Limits,
        *,
        may_lose_it: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        astray: Callable[[Waiting], None] | None = None,
        failpoint: Callable[[str], None] | None = None,
    ) -> None:
        """Take whether this process may be a member again behind a time as the owner.

        An owner is waited for at least so long as one waits for its database.

        `astray` is given, where there are several owners, what this one of them has not run.
        """
        self._astray = astray
        self._failpoint = failpoint
        self._may_lose_it = may_lose_it
        self._patience_seconds = max(PATIENCE_SECONDS, patience_seconds)
        self._check = check
        self._check_usable = check_usable
        self._forms = forms
        self._commands_max = limits.commands_accepted
        self._own: Post | None = None
        """Where this process owns the log: how its own engine takes a command."""
        self._line: Line | None = None
        self._waiting: dict[int, Waiting] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._owners = 0
        """With how many this process was connected."""
        self._patience: asyncio.TimerHandle | None = None
        self._given_up = ""
        """Why commands are refused, where that is so."""
        self._drained: asyncio.Event | None = None
        self._adopted: Patience | None = None
        """What is run here, and waits where the engine is full."""
        self.forwarded = 0
        """Commands that were sent to another process."""
        self.position = 0
        """The last position that this owner has told of: the log has it."""

    @property
    def is_waiting(self) -> bool:
        """Whether the owner has something to answer."""
        return bool(self._waiting or self._calls)

    # -- what callers do ----------------------------------------------------------------------

    def send(self, envelope: Envelope, /) -> Sent:
        """Take a command; give the future of its answer. Raises as `Reception.send` does."""
        return self._forward(envelope) if self._own is None else self._run_own(envelope)

    def send_of_many(self, envelope: Envelope, /) -> Sent:
        """Do the same with a command of a stream, which waits behind those before it."""
        if self._own is not None:
            return self._run_own(envelope, is_patient=True)
        return self._forward(envelope, is_patient=True)

    def _run_own(self, envelope: Envelope, *, is_patient: bool = False) -> Sent:
        """Run a command here; let it wait for the next owner, where this one has lost the log."""
        assert self._own is not None
        assert self._adopted is not None
        if self._adopted.is_waiting:
            waiting = self.made(envelope)
            run_here(waiting, self._own, self._adopted)
            return waiting.answer
        try:
            return self._own(envelope, None)
        except Closed:
            self._check_usable()  # this process goes, and no other owner is asked
            if not self._may_lose_it:
                raise
        return self._forward(envelope, is_patient=is_patient)

    def _forward(self, envelope: Envelope, *, is_patient: bool = False) -> Sent:
        waiting = self.made(envelope)
        waiting.is_patient = is_patient
        self.accept(waiting)
        return waiting.answer

    def accept(self, waiting: Waiting) -> None:
        """Take a command over: send it, or let it wait for an owner."""
        number = self._next()
        self._waiting[number] = waiting
        if self._line is None:
            self._arm(number, waiting)
        else:
            self._post(number, waiting)

    def take_all(self) -> list[Waiting]:
        """Give all that waits here, to be sent another way."""
        taken = [self._take(number) for number in [*self._waiting]]
        return [waiting for waiting in taken if waiting is not None]

    @property
    def count(self) -> int:
        """How many commands have no answer yet."""
        return len(self._waiting)

    @property
    def is_connected(self) -> bool:
        """Whether there is an owner that takes commands."""
        return self._line is not None

    def made(self, envelope: Envelope) -> Waiting:
        """Check a command, and encode it; raise as `send` does."""
        loop = self._check_usable()
        envelope, seconds = self._check(envelope)
        if len(self._waiting) >= self._commands_max:
            raise Overloaded(
                f"{len(self._waiting)} commands wait for the process that owns the log, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )
        if self._given_up:
            raise Closed(self._given_up)
        name, body = self._forms.encode(envelope.command)
        if len(body) > wire.BODY_MAX:
            raise InvalidInput(
                f"{type(envelope.command).__name__} has {len(body)} bytes, and {wire.BODY_MAX} can "
                f"be sent to the process that owns the log. Nothing was run."
            )
        until = None if seconds is None else loop.time() + seconds
        return Waiting(envelope, name, body, loop.create_future(), until)

    async def call(self, method: str, as_type: type[T], /, **values: object) -> T:
        """Have the owner do something with its projections; give what it told."""
        loop = self._check_usable()
        if self._line is None or self._given_up:
            raise Closed(self._given_up or NOBODY)
        number, told = self._next(), loop.create_future()
        self._calls[number] = told
        try:
            self._line.send(Called(number, method, encode_values(values)))
            return decode_values(await told, as_type)
        except ValueError as error:
            raise UsageError(
                f"projections.{method}: what is asked, or the answer, cannot be sent between "
                f"processes ({described(error)})"
            ) from error
        finally:
            self._calls.pop(number, None)
            self._look_if_drained()

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- owners that come and go --------------------------------------------------------------

    def connected(self, line: Line) -> None:
        """Send all that waits to an owner, and what comes from now on."""
        self._found()
        self._line = line
        self._owners += 1
        self.position = 0  # a failover may have lost what the owner before has told of
        for number, waiting in [*self._waiting.items()]:
            self._post(number, waiting)

    def hold(self) -> None:
        """Send nothing more to an owner that leaves; it still answers what it was sent."""
        self._line = None

    def lost(self, *, gone: bool = True) -> None:
        """Note that the owner is gone; what can be sent again waits for the next one."""
        self._line = None
        for number, waiting in [*self._waiting.items()]:
            self._return(number, waiting)
        for told in self._calls.values():
            settle(told, OutcomeUnknown("the process that owned the log has gone: ask again"))
        if self._patience is None and gone:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._patience_seconds, self._give_up)

    def _return(self, number: int, waiting: Waiting) -> None:
        """Take a command back from an owner that has gone without an answer to it."""
        if waiting.is_sent and waiting.envelope.key is None:
            self._fail(number, OutcomeUnknown(LOST))
            return
        if waiting.is_sent:
            waiting.is_sent, waiting.is_in_doubt = False, True
        self._keep(number, waiting)

    def _keep(self, number: int, waiting: Waiting) -> None:
        """Let a command wait for the next owner, or go to another one."""
        if self._astray is None:
            self._arm(number, waiting)
        elif (taken := self._take(number)) is not None:
            self._astray(taken)

    def adopt(self, send: Post) -> None:
        """Run all that waits here, and what comes from now on: this process owns the log."""
        self._found()
        self._own, self._adopted = send, Patience()
        for number, waiting in [*self._waiting.items()]:
            self._take(number)
            if not waiting.answer.done():
                run_here(waiting, send, self._adopted)

    def disown(self) -> None:
        """Let what comes from now on wait for the next owner: this process is it no more."""
        self._own = None
        self.lost()

    def rescue(self, mail: Mail, error: EngineError) -> bool:
        """Take a command over whose engine lost the log: not run, or with a key. Tell if so."""
        doubt = isinstance(error, OutcomeUnknown) and mail.envelope.key is not None
        if not doubt and not isinstance(error, Closed | Voided):
            return False
        try:
            name, body = self._forms.encode(mail.envelope.command)
        except EngineError:
            return False
        until = None if mail.timer is None else mail.timer.when()
        waiting = Waiting(mail.envelope, name, body, mail.answer, until, is_in_doubt=doubt)
        waiting.origin = mail.origin
        self.accept(waiting)
        return True

    def silence(self, why: str) -> None:
        """Note that the owner says nothing: who waits for it is told so, and nobody joins them."""
        self._given_up = f"{why} The command was not run."
        for number, waiting in [*self._waiting.items()]:
            if waiting.is_sent or waiting.is_in_doubt:
                self._fail(number, OutcomeUnknown(f"{why} {SEND_AGAIN}"))
            else:
                self._fail(number, Closed(self._given_up))
        for told in self._calls.values():
            settle(told, OutcomeUnknown(f"{why} It may still do what it was asked."))

    def hear(self) -> None:
        """Note that the owner says something again."""
        self._given_up = ""

    async def drain(self) -> None:
        """Return when all that was sent is answered."""
        self._drained = asyncio.Event()
        self._look_if_drained()
        await self._drained.wait()

    def _look_if_drained(self) -> None:
        if self._drained is not None and not self.is_waiting:
            self._drained.set()

    def end(self, why: str) -> None:
        """Answer all that waits, as this process leaves; nothing more is sent."""
        self._own = None
        if self._patience is not None:
            self._patience.cancel()
        self.lost(gone=False)
        for number, waiting in [*self._waiting.items()]:
            self._fail(number, OutcomeUnknown(UNKNOWN) if waiting.is_in_doubt else Closed(why))

    def _found(self) -> None:
        self._given_up = ""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience, self._given_up = None, NOBODY
        for number, waiting in [*self._waiting.items()]:
            self._fail(number, OutcomeUnknown(UNKNOWN) if waiting.is_in_doubt else Closed(NOBODY))

    # -- one command --------------------------------------------------------------------------

    def _post(self, number: int, waiting: Waiting) -> None:
        if waiting.answer.done():
            self._take(number)  # its caller has left before it was sent
            return
        envelope = waiting.envelope
        assert self._line is not None
        if self._failpoint is not None:
            self._failpoint("member.sending")
        sent = wire.Sent(
            number,
            waiting.name,
            waiting.body,
            envelope.key,
            envelope.expected,
            envelope.correlation,
            envelope.causation,
            envelope.principal,
            envelope.headers,
            waiting.until,
            waiting.is_patient or waiting.is_in_doubt,
            waiting.origin,
            self._forms.names(envelope.command),
        )
        try:
            self._line.send(sent)
        except Exception as error:
            why = f"what travels with the command cannot be sent ({described(error)})"
            self._fail(number, InvalidInput(f"{why}. Nothing was run."))
            return
        waiting.is_sent = True
        self._disarm(waiting)
        self.forwarded += 1

    def received(self, message: Message) -> None:
        """Take an answer of the owner."""
        if self._failpoint is not None:
            self._failpoint("member.answered")
        if isinstance(message, Told):
            told = self._calls.get(message.number)
            if told is not None and not told.done():
                told.set_result(message.body)
        elif isinstance(message, Done):
            waiting = self._take(message.number)
            self.position = max(self.position, message.position)
            if waiting is not None and not waiting.answer.done():
                give_receipt(message, waiting)
        elif isinstance(message, Failed):
            self._failed(message)

    def _failed(self, failed: Failed) -> None:
        error = error_of(failed.classes, failed.values)
        number = failed.number
        told = self._calls.get(number)
        if told is not None:
            settle(told, error)
            return
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        if isinstance(error, Closed):
            # The owner stops and has not run it: the next one will.
            waiting.is_sent = False
            self._keep(number, waiting)
        elif isinstance(error, OutcomeUnknown) and waiting.envelope.key is not None:
            # An owner that does not know has failed: the next one finds it by its key.
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_SECONDS, self._end_doubt, number, self._owners, error)
        else:
            self._fail(number, as_told(error, waiting))

    def _end_doubt(self, number: int, owners: int, error: EngineError) -> None:
        """Answer a command whose owner did not know what became of it, and has not gone."""
        if number in self._waiting and self._owners == owners:
            self._fail(number, error)

    def _arm(self, number: int, waiting: Waiting) -> None:
        """See that a command that no owner has is answered at its deadline."""
        if waiting.until is not None and waiting.timer is None:
            loop = asyncio.get_running_loop()
            waiting.timer = loop.call_at(waiting.until, self._expire, number)

    def _disarm(self, waiting: Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None

    def _expire(self, number: int) -> None:
        """Answer a command that no owner has at its deadline; any other has its owner's answer."""
        waiting = self._waiting.get(number)
        if waiting is None or waiting.is_sent:
            return
        passed = DeadlinePassed(
            "the deadline has passed before a process owned the log. Nothing was run."
        )
        self._fail(number, as_told(passed, waiting))

    def _fail(self, number: int, error: BaseException) -> None:
        waiting = self._take(number)
        if waiting is not None:
            settle(waiting.answer, error)

    def _take(self, number: int) -> Waiting | None:
        """Give a command that waits no more."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._disarm(waiting)
            self._look_if_drained()
        return waiting
