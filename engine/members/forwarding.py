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
from functools import partial
from typing import Final, TypeVar

import msgspec

from ..errors import (
    Closed,
    DeadlinePassed,
    EngineError,
    HandlerFailed,
    InvalidInput,
    KeyReused,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    UsageError,
    Voided,
    WrongVersion,
)
from ..limits import Limits
from ..model.messages import Envelope, Receipt, reply_of
from ..runtime.futures import retrieve
from ..runtime.safely import as_error, described
from ..write.bulk import Send
from ..write.mailbox import Mail, Sent
from . import wire
from .forms import CommandForms, decode_values, encode_values, error_of
from .patience import Patience
from .wire import Called, Done, Failed, Line, Message, Told

__all__ = ["PATIENCE_SECONDS", "Forwarding"]

T = TypeVar("T")

PATIENCE_SECONDS: Final = 10.0
"""How long a command waits for a process that owns the log, and for one that says nothing."""
_KNOW_THE_KEY: Final = (KeyReused, OutcomeUnknown, Rejected, WrongVersion)
"""What an owner answers only if it has not found the key of a command, or does not know either."""


class _Waiting(msgspec.Struct, eq=False):
    """A command without an answer."""

    envelope: Envelope
    name: str
    body: bytes
    answer: asyncio.Future[Receipt]
    until: float | None
    """By the loop's clock, where it has a deadline."""
    is_sent: bool = False
    """Whether the owner of this moment has it."""
    is_in_doubt: bool = False
    """Whether an owner that is gone may have run it."""
    is_patient: bool = False
    """Whether it is of a stream, and waits where the engine is full."""
    timer: asyncio.TimerHandle | None = None
    """To its deadline, while no owner has it."""


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
    ) -> None:
        """Take whether this process may be a member again behind a time as the owner."""
        self._may_lose_it = may_lose_it
        self._check = check
        self._check_usable = check_usable
        self._forms = forms
        self._commands_max = limits.commands_accepted
        self._own: Send | None = None
        """Where this process owns the log: how its own engine takes a command."""
        self._line: Line | None = None
        self._waiting: dict[int, _Waiting] = {}
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
        try:
            return self._own(envelope)
        except Closed:
            self._check_usable()  # this process goes, and no other owner is asked
            if not self._may_lose_it:
                raise
        return self._forward(envelope, is_patient=is_patient)

    def _forward(self, envelope: Envelope, *, is_patient: bool = False) -> Sent:
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
        waiting = _Waiting(envelope, name, body, loop.create_future(), until)
        waiting.is_patient = is_patient
        number = self._next()
        self._waiting[number] = waiting
        if self._line is None:
            self._arm(number, waiting)
        else:
            self._post(number, waiting)
        return waiting.answer

    async def call(self, method: str, as_type: type[T], /, **values: object) -> T:
        """Have the owner do something with its projections; give what it told."""
        loop = self._check_usable()
        if self._line is None or self._given_up:
            raise Closed(self._given_up or _NOBODY)
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
            _settle(told, OutcomeUnknown("the process that owned the log has gone: ask again"))
        if self._patience is None and gone:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_SECONDS, self._give_up)

    def _return(self, number: int, waiting: _Waiting) -> None:
        """Take a command back from an owner that has gone without an answer to it."""
        if not waiting.is_sent:
            return
        if waiting.envelope.key is None:
            self._fail(number, OutcomeUnknown(_LOST))
            return
        waiting.is_sent, waiting.is_in_doubt = False, True
        self._arm(number, waiting)

    def adopt(self, send: Send) -> None:
        """Run all that waits here, and what comes from now on: this process owns the log."""
        self._found()
        self._own, self._adopted = send, Patience(send)
        for number, waiting in [*self._waiting.items()]:
            self._take(number)
            if not waiting.answer.done():
                _run_here(waiting, send, self._adopted)

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
        waiting = _Waiting(mail.envelope, name, body, mail.answer, until, is_in_doubt=doubt)
        self._waiting[number := self._next()] = waiting
        if self._line is None:
            self._arm(number, waiting)
        else:
            self._post(number, waiting)
        return True

    def silence(self, why: str) -> None:
        """Note that the owner says nothing: who waits for it is told so, and nobody joins them."""
        self._given_up = f"{why} The command was not run."
        for number, waiting in [*self._waiting.items()]:
            if waiting.is_sent or waiting.is_in_doubt:
                self._fail(number, OutcomeUnknown(f"{why} {_SEND_AGAIN}"))
            else:
                self._fail(number, Closed(self._given_up))
        for told in self._calls.values():
            _settle(told, OutcomeUnknown(f"{why} It may still do what it was asked."))

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
            self._fail(number, OutcomeUnknown(_UNKNOWN) if waiting.is_in_doubt else Closed(why))

    def _found(self) -> None:
        self._given_up = ""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience, self._given_up = None, _NOBODY
        for number, waiting in [*self._waiting.items()]:
            self._fail(number, OutcomeUnknown(_UNKNOWN) if waiting.is_in_doubt else Closed(_NOBODY))

    # -- one command --------------------------------------------------------------------------

    def _post(self, number: int, waiting: _Waiting) -> None:
        if waiting.answer.done():
            self._take(number)  # its caller has left before it was sent
            return
        envelope = waiting.envelope
        assert self._line is not None
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
        if isinstance(message, Told):
            told = self._calls.get(message.number)
            if told is not None and not told.done():
                told.set_result(message.body)
        elif isinstance(message, Done):
            waiting = self._take(message.number)
            if waiting is not None and not waiting.answer.done():
                _give_receipt(message, waiting)
        elif isinstance(message, Failed):
            self._failed(message)

    def _failed(self, failed: Failed) -> None:
        error = error_of(failed.classes, failed.values)
        number = failed.number
        told = self._calls.get(number)
        if told is not None:
            _settle(told, error)
            return
        waiting = self._waiting.get(number)
        if waiting is None:
            return
        if isinstance(error, Closed):
            # The owner stops and has not run it: the next one will.
            waiting.is_sent = False
            self._arm(number, waiting)
        elif isinstance(error, OutcomeUnknown) and waiting.envelope.key is not None:
            # An owner that does not know has failed: the next one finds it by its key.
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_SECONDS, self._end_doubt, number, self._owners, error)
        else:
            self._fail(number, _as_told(error, waiting))

    def _end_doubt(self, number: int, owners: int, error: EngineError) -> None:
        """Answer a command whose owner did not know what became of it, and has not gone."""
        if number in self._waiting and self._owners == owners:
            self._fail(number, error)

    def _arm(self, number: int, waiting: _Waiting) -> None:
        """See that a command that no owner has is answered at its deadline."""
        if waiting.until is not None and waiting.timer is None:
            loop = asyncio.get_running_loop()
            waiting.timer = loop.call_at(waiting.until, self._expire, number)

    def _disarm(self, waiting: _Waiting) -> None:
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
        self._fail(number, _as_told(passed, waiting))

    def _fail(self, number: int, error: BaseException) -> None:
        waiting = self._take(number)
        if waiting is not None:
            _settle(waiting.answer, error)

    def _take(self, number: int) -> _Waiting | None:
        """Give a command that waits no more."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._disarm(waiting)
            self._look_if_drained()
        return waiting


def _as_told(error: BaseException, waiting: _Waiting) -> BaseException:
    """Give what is told of a command that an earlier owner may have run, if this one says so."""
    if not waiting.is_in_doubt or not isinstance(error, EngineError):
        return error
    if isinstance(error, _KNOW_THE_KEY):
        return error
    doubt = OutcomeUnknown(
        f"the process that owned the log has gone before it answered: the command may have been "
        f"run. The next one has not looked for its key, since it answered with {described(error)}. "
        f"{_SEND_AGAIN}"
    )
    doubt.__cause__ = error
    return doubt


def _give_receipt(done: Done, waiting: _Waiting) -> None:
    """Answer with a receipt; if its reply is none here, nobody is told that nothing was run."""
    try:
        form = None if done.reply is None else reply_of(type(waiting.envelope.command))
        reply = None if form is None or done.reply is None else form.read(done.reply)
        receipt = Receipt(done.stream, done.version, done.position, reply, done.others)
        waiting.answer.set_result(receipt)
    except BaseException as error:  # of the reply's class, whatever it is
        cause = error.__cause__ if isinstance(error, HandlerFailed) else None
        unknown = OutcomeUnknown(
            f"the command was run, and its last event is at position {done.position} of the log. "
            f"Its reply is of another release, and none of the type declared here: read what it "
            f"did from a view"
        )
        unknown.__cause__ = cause or as_error(error)
        _settle(waiting.answer, unknown)


def _run_here(waiting: _Waiting, send: Send, patience: Patience) -> None:
    if waiting.is_patient or waiting.is_in_doubt:
        patience.take(partial(_as_left, waiting), partial(_hear, waiting))
        return
    try:
        sent = send(_as_left(waiting))
    except Exception as error:
        _settle(waiting.answer, error)
        return
    task = asyncio.ensure_future(_received(sent))
    task.add_done_callback(lambda done: _hand_on(done, waiting))


def _as_left(waiting: _Waiting) -> Envelope:
    """Give a command with what is left of its deadline."""
    seconds = None
    if waiting.until is not None:
        # It was not refused when it came: it is told that it came too late, and nothing else.
        seconds = max(waiting.until - asyncio.get_running_loop().time(), 1e-6)
    return msgspec.structs.replace(waiting.envelope, deadline=seconds)


def _hear(waiting: _Waiting, sent: asyncio.Future[Receipt] | Exception) -> None:
    if isinstance(sent, Exception):
        _settle(waiting.answer, _as_told(sent, waiting))
    else:
        sent.add_done_callback(lambda done: _hand_on(done, waiting))


async def _received(sent: Sent) -> Receipt:
    return await asyncio.shield(sent if isinstance(sent, asyncio.Future) else await sent)


def _hand_on(done: asyncio.Future[Receipt], waiting: _Waiting) -> None:
    answer = waiting.answer
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        _settle(answer, _as_told(error, waiting))
    elif not answer.done():
        answer.set_result(done.result())


def _settle(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Its caller may have left.
        future.add_done_callback(retrieve)


_SEND_AGAIN: Final = "Send it again with its key; without one, read first."
_NOBODY: Final = (
    "no process owns the log at the moment, or it lets nobody join: the command was not run. "
    "Send it again; start an engine with join=True if none runs."
)
_LOST: Final = (
    "the process that owned the log has gone before it answered: the command may have been "
    "run. Send commands with a key: then the next owner is asked, and each is run once."
)
_UNKNOWN: Final = (
    "the process that owned the log has gone before it answered, and no other has taken its "
    "place: the command may have been run. Send it again with its key."
)
